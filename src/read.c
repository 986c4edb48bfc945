/*
 * read.c
 *	  Reading settled events: es.read_all(), polling without missing any.
 *
 * First the high-water mark is computed, then a fresh snapshot is taken (SPI
 * does so for a query that is not read-only under READ COMMITTED), then the
 * events up to the mark are read with it.  In this order the snapshot shows all there will ever
 * be at or below the mark.  REPEATABLE READ and SERIALIZABLE allow no fresh
 * snapshot, so the function refuses to run there.
 *
 * Filters.  An index on (event_type, position) returns the events of one type
 * in order.  For several types each is read so, no further than max_count, and
 * the results are merged; that is what the LATERAL join is for.  The range of
 * one type is written as a comparison of rows, which no other index can serve:
 * so no statistics make the planner walk the log in position order in search
 * of a rare type.  One filter is served this way and the others are checked on
 * the rows it returns.  There is one prepared plan per combination of filters,
 * which doesn't depend on the arguments: planning costs more than reading some
 * events does.  (Only with ids of aggregates is it worth planning anew.)
 *
 * The rows go straight into the result's tuplestore, so that work_mem bounds
 * the memory.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "argument.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "logscan.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/params.h"
#include "nodes/parsenodes.h"
#include "position.h"
#include "read.h"
#include "utils/acl.h"
#include "utils/snapmgr.h"
#include "version.h"

/* Parameters of the query, in their order. */
enum
{
	PARAM_AFTER,
	PARAM_UP_TO,
	PARAM_MAX_COUNT,
	PARAM_FILTERS
};

/* Filters in their order; the last one that is given, but for the ids, drives the scan. */
static const char *const filter_columns[] = {
	[ES_READ_AGGREGATE_TYPES] = "aggregate_type",
	[ES_READ_EVENT_TYPES] = "event_type",
	[ES_READ_SOURCES] = "source",
	[ES_READ_AGGREGATE_IDS] = "aggregate_id",
};

#define NPARAMS (PARAM_FILTERS + ES_READ_NFILTERS)

static Oid param_types[NPARAMS] =
	{INT8OID, INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};

static SPIPlanPtr plan_for(const EsReadRange *range);
static char *query_for(int filters);
static ParamListInfo query_params(const EsReadRange *range);

ES_FUNCTION_INFO_V1(es_read_all);

/* es.read_all(): events after a position, up to the high-water mark, in order. */
Datum
es_read_all(PG_FUNCTION_ARGS)
{
	EsReadRange range = {.after = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0), .max_count = -1};
	ReturnSetInfo *result;
	DestReceiver *dest;

	PreventCommandIfParallelMode("es.read_all()");
	EsRefuseFixedSnapshot("es.read_all()");
	if (!PG_ARGISNULL(1))
		range.max_count = PG_GETARG_INT32(1);
	if (!PG_ARGISNULL(1) && range.max_count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must not be negative")));
	for (int i = ES_READ_AGGREGATE_TYPES; i <= ES_READ_SOURCES; i++)
		if (!PG_ARGISNULL(2 + i))
			range.filters[i] = PG_GETARG_ARRAYTYPE_P(2 + i);

	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;

	range.up_to = EsHighWaterMark();
	if (range.up_to <= range.after &&
		pg_class_aclcheck(EsCatalogOid(ES_OBJECT_EVENTS), GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return (Datum) 0;

	dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(dest, result->setResult,
									result->econtext->ecxt_per_query_memory, false, NULL, NULL);
	EsRead(&range, dest);
	dest->rDestroy(dest);
	return (Datum) 0;
}

void
EsRead(const EsReadRange *range, DestReceiver *dest)
{
	SPIExecuteOptions options = {.must_return_tuples = true, .dest = dest};

	SPI_connect();
	options.params = query_params(range);
	if (SPI_execute_plan_extended(plan_for(range), &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read es.events");
	SPI_finish();
}

void
EsReadUnfiltered(const EsReadRange *range, DestReceiver *dest)
{
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(events, NULL);
	EsLogScan scan = EsLogScanBegin(events, snapshot, range->after, range->up_to);
	int64 position;

	for (int64 count = 0;
		 count < range->max_count && EsLogScanNext(&scan, slot, &position); count++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!dest->receiveSlot(slot, dest))
			break;
	}
	EsLogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(events, NoLock);
}

/* Returns the plan for the range's combination of filters. */
static SPIPlanPtr
plan_for(const EsReadRange *range)
{
	static SPIPlanPtr plans[1 << ES_READ_NFILTERS];
	int filters = 0;

	for (int i = 0; i < ES_READ_NFILTERS; i++)
		if (range->filters[i] != NULL)
			filters |= 1 << i;
	if (plans[filters] == NULL)
	{
		bool by_ids = range->filters[ES_READ_AGGREGATE_IDS] != NULL;
		SPIPlanPtr plan = SPI_prepare_cursor(query_for(filters), NPARAMS, param_types,
											 by_ids ? 0 : CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare to read es.events");
		plans[filters] = plan;
	}
	return plans[filters];
}

/*
 * Returns the query for a combination of filters, made of constant parts only.
 * With ids of aggregates the planner chooses: by aggregate if there are few.
 */
static char *
query_for(int filters)
{
	StringInfoData where;
	int driver = -1;

	initStringInfo(&where);
	for (int i = ES_READ_NFILTERS - 1; i >= 0; i--)
	{
		if ((filters & (1 << i)) == 0)
			continue;
		if (driver < 0 && i != ES_READ_AGGREGATE_IDS &&
			(filters & (1 << ES_READ_AGGREGATE_IDS)) == 0)
			driver = i;
		else
			appendStringInfo(&where, " AND e.%s OPERATOR(pg_catalog.=) ANY ($%d)",
							 filter_columns[i], PARAM_FILTERS + i + 1);
	}

	if (driver < 0)
		return psprintf("SELECT e.* FROM es.events AS e"
						" WHERE e.position OPERATOR(pg_catalog.>) $1"
						" AND e.position OPERATOR(pg_catalog.<=) $2%s"
						" ORDER BY e.position LIMIT $3",
						where.data);
	return psprintf("SELECT r.* FROM (SELECT DISTINCT u.name"
					" FROM pg_catalog.unnest($%d) AS u (name) WHERE u.name IS NOT NULL) AS k"
					" CROSS JOIN LATERAL (SELECT e.* FROM es.events AS e WHERE e.%s IS NOT NULL"
					" AND (e.%s, e.position) OPERATOR(pg_catalog.>) (k.name, $1)"
					" AND (e.%s, e.position) OPERATOR(pg_catalog.<=) (k.name, $2)"
					"%s ORDER BY e.%s, e.position LIMIT $3) AS r ORDER BY r.position LIMIT $3",
					PARAM_FILTERS + driver + 1, filter_columns[driver], filter_columns[driver],
					filter_columns[driver], where.data, filter_columns[driver]);
}

/* Returns the query's parameters. */
static ParamListInfo
query_params(const EsReadRange *range)
{
	ParamListInfo params = makeParamList(NPARAMS);

	for (int i = 0; i < NPARAMS; i++)
	{
		ParamExternData *param = &params->params[i];

		param->ptype = param_types[i];
		param->pflags = PARAM_FLAG_CONST;
		param->isnull = false;
		switch (i)
		{
			case PARAM_AFTER:
				param->value = Int64GetDatum(range->after);
				break;
			case PARAM_UP_TO:
				param->value = Int64GetDatum(range->up_to);
				break;
			case PARAM_MAX_COUNT:
				param->isnull = range->max_count < 0;
				param->value = Int64GetDatum(range->max_count);
				break;
			default:
				param->isnull = range->filters[i - PARAM_FILTERS] == NULL;
				param->value = PointerGetDatum(range->filters[i - PARAM_FILTERS]);
				break;
		}
	}
	return params;
}
