/*
 * catchup.c
 *	  Bringing a state table up to date with events that it lacks.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog.h"
#include "catchup.h"
#include "executor/executor.h"
#include "logscan.h"
#include "maintain.h"
#include "miscadmin.h"
#include "progress.h"
#include "statement.h"
#include "utils/snapmgr.h"

static EsApplied fold_log(EsProjection *projection, Relation target, EsRange range, bool quiet,
						  EsStorage *storage);
static void fold_range(EsProjection *projection, Relation events, TupleTableSlot *event,
					   EsMaintenance *maintenance, EsRange range, EsApplied *result);
static int64 position_of(TupleTableSlot *event);

EsApplied
EsCatchUp(EsProjection *projection, Relation target, EsRange range, bool quiet,
		  EsStorage *storage)
{
	if (projection->apply != NULL)
		return fold_log(projection, target, range, quiet, storage);
	return EsStatementsCatchUp(projection, target, range);
}

/* Folds the range into the stored rows. */
static EsApplied
fold_log(EsProjection *projection, Relation target, EsRange range, bool quiet,
		 EsStorage *storage)
{
	EsFold *fold = EsProjectionFold(projection, target);
	MemoryContext context = CurrentMemoryContext;
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	TupleTableSlot *event = table_slot_create(events, NULL);
	EsApplied result = {.up_to_position = range.after, .bound = range.up_to, .all = true};
	volatile int64 position = 0;
	EsActing acting;

	EsProgressPhase(ES_PHASE_CATCHING_UP);
	PushActiveSnapshot(GetLatestSnapshot());
	EsProjectionAct(projection, &acting);
	PG_TRY();
	{
		EsMaintenance *maintenance = EsMaintainBegin(projection, fold, target, quiet, storage,
													 &position);

		fold_range(projection, events, event, maintenance, range, &result);
		EsMaintainWrite(maintenance);
		ExecClearTuple(event);
		result.rows = EsMaintainEnd(maintenance);
	}
	PG_CATCH();
	{
		if (position != 0 && (TupIsNull(event) || position_of(event) != position))
			EsProjectionFailedAt(projection, position, context);
		EsProjectionFailed(projection, TupIsNull(event) ? NULL : event, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(event);
	table_close(events, NoLock);
	return result;
}

/* Folds the visible events of the range, in position order. */
static void
fold_range(EsProjection *projection, Relation events, TupleTableSlot *event,
		   EsMaintenance *maintenance, EsRange range, EsApplied *result)
{
	EsLogScan scan = EsLogScanBegin(events, GetActiveSnapshot(), range.after, range.up_to);
	int64 position;

	while (result->all && EsLogScanNext(&scan, event, &position))
	{
		CHECK_FOR_INTERRUPTS();
		result->up_to_position = position;
		if (!EsProjectionMatches(projection, event))
			continue;
		EsMaintainEvent(maintenance, event, position);
		result->all = ++result->events < range.max_events;
	}
	EsLogScanEnd(&scan);
}

static int64
position_of(TupleTableSlot *event)
{
	bool isnull;

	return DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION, &isnull));
}
