/*
 * read.c
 *	  es.read_all(): polling the log without missing an event.
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
 * the rows it returns.  There is one prepared plan per combination of filters.
 *
 * The rows go straight into the result's tuplestore, so that work_mem bounds
 * the memory.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/params.h"
#include "position.h"
#include "utils/acl.h"

/* Parameters of the query, in the order of the function's arguments but for the mark. */
enum
{
	PARAM_AFTER,
	PARAM_MARK,
	PARAM_MAX_COUNT,
	PARAM_FILTERS
};

/* Filters in the order of the arguments; the last one that is given drives the scan. */
static const char *const filter_columns[] = {"aggregate_type", "event_type", "source"};

#define NFILTERS lengthof(filter_columns)
#define NPARAMS  (PARAM_FILTERS + NFILTERS)

static Oid param_types[NPARAMS] =
	{INT8OID, INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};

static SPIPlanPtr plan_for(int filters);
static char *query_for(int filters);
static ParamListInfo query_params(FunctionCallInfo fcinfo, int64 after, int64 mark);

PG_FUNCTION_INFO_V1(es_read_all);

/* es.read_all(): events after a position, up to the high-water mark, in order. */
Datum
es_read_all(PG_FUNCTION_ARGS)
{
	int64 after = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	ReturnSetInfo *result;
	SPIExecuteOptions options;
	int64 mark;
	int filters = 0;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("es.read_all() needs a snapshot of its own, which this isolation level forbids"),
				 errhint("Use READ COMMITTED, or read es.events directly if events may be missed.")));
	if (!PG_ARGISNULL(1) && PG_GETARG_INT32(1) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must not be negative")));
	for (int i = 0; i < NFILTERS; i++)
		if (!PG_ARGISNULL(2 + i))
			filters |= 1 << i;

	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;

	mark = EsHighWaterMark();
	if (mark <= after &&
		pg_class_aclcheck(EsCatalogOid(ES_OBJECT_EVENTS), GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return (Datum) 0;

	SPI_connect();
	memset(&options, 0, sizeof(options));
	options.params = query_params(fcinfo, after, mark);
	options.read_only = false;
	options.must_return_tuples = true;
	options.dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(options.dest, result->setResult,
									result->econtext->ecxt_per_query_memory, false, NULL, NULL);
	if (SPI_execute_plan_extended(plan_for(filters), &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read es.events");
	options.dest->rDestroy(options.dest);
	SPI_finish();
	return (Datum) 0;
}

/* Returns the plan for a combination of filters. */
static SPIPlanPtr
plan_for(int filters)
{
	static SPIPlanPtr plans[1 << NFILTERS];

	if (plans[filters] == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(query_for(filters), NPARAMS,
									  param_types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare to read es.events");
		plans[filters] = plan;
	}
	return plans[filters];
}

/* Returns the query for a combination of filters, made of constant parts only. */
static char *
query_for(int filters)
{
	StringInfoData where;
	int driver = -1;

	initStringInfo(&where);
	for (int i = NFILTERS - 1; i >= 0; i--)
	{
		if ((filters & (1 << i)) == 0)
			continue;
		if (driver < 0)
			driver = i;
		else
			appendStringInfo(&where, " AND e.%s OPERATOR(pg_catalog.=) ANY ($%d)",
							 filter_columns[i], PARAM_FILTERS + i + 1);
	}

	if (driver < 0)
		return psprintf("SELECT e.* FROM es.events AS e"
						" WHERE e.position OPERATOR(pg_catalog.>) $1"
						" AND e.position OPERATOR(pg_catalog.<=) $2"
						" ORDER BY e.position LIMIT $3");
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
query_params(FunctionCallInfo fcinfo, int64 after, int64 mark)
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
				param->value = Int64GetDatum(after);
				break;
			case PARAM_MARK:
				param->value = Int64GetDatum(mark);
				break;
			case PARAM_MAX_COUNT:
				param->isnull = PG_ARGISNULL(1);
				param->value = param->isnull ? (Datum) 0 : Int64GetDatum(PG_GETARG_INT32(1));
				break;
			default:
				param->isnull = PG_ARGISNULL(i - PARAM_FILTERS + 2);
				param->value = PG_GETARG_DATUM(i - PARAM_FILTERS + 2);
				break;
		}
	}
	return params;
}
