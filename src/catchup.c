/*
 * catchup.c
 *	  Folding into a state table's rows the events that they lack.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog.h"
#include "catchup.h"
#include "compat.h"
#include "executor/executor.h"
#include "maintain.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

static void fold_log(EsProjection *projection, Relation events, TupleTableSlot *event,
					 EsMaintenance *maintenance, int64 after, EsCaughtUp *result);

EsCaughtUp
EsCatchUp(EsProjection *projection, EsFold *fold, Relation target, int64 after, bool quiet)
{
	MemoryContext context = CurrentMemoryContext;
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	TupleTableSlot *event = table_slot_create(events, NULL);
	EsCaughtUp result = {.up_to_position = after};
	volatile int64 position = 0;
	EsActing acting;

	PushActiveSnapshot(GetLatestSnapshot());
	EsProjectionAct(projection, &acting);
	PG_TRY();
	{
		EsMaintenance *maintenance = EsMaintainBegin(projection, fold, target, quiet, &position);

		fold_log(projection, events, event, maintenance, after, &result);
		EsMaintainWrite(maintenance);
		ExecClearTuple(event);
		result.rows = EsMaintainEnd(maintenance);
	}
	PG_CATCH();
	{
		EsProjectionFailed(projection, TupIsNull(event) ? NULL : event, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(event);
	table_close(events, NoLock);
	return result;
}

/* Folds the visible events above the position, in position order. */
static void
fold_log(EsProjection *projection, Relation events, TupleTableSlot *event,
		 EsMaintenance *maintenance, int64 after, EsCaughtUp *result)
{
	Relation index = index_open(EsCatalogOid(ES_OBJECT_EVENTS_PKEY), AccessShareLock);
	IndexScanDesc scan = EsIndexBeginScan(events, index, GetActiveSnapshot(), 1);
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	index_rescan(scan, &key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, event))
	{
		bool isnull;
		int64 position = DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION, &isnull));

		CHECK_FOR_INTERRUPTS();
		result->up_to_position = position;
		if (!EsProjectionMatches(projection, event))
			continue;
		EsMaintainEvent(maintenance, event, position);
		result->events++;
	}
	index_endscan(scan);
	index_close(index, AccessShareLock);
}
