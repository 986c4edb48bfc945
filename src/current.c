/*
 * current.c
 *	  es.current_version(): an aggregate's version, for readers and writers.
 *
 * Whoever may append to an aggregate may ask for its version, without SELECT on
 * es.events.  For him we read as the owner of the log; whoever may read it
 * reads as himself, so that row-level security holds.
 */
#include "postgres.h"

#include "acting.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "version.h"
#include "writer.h"

static bool may_read(void);
static SPIPlanPtr version_plan(void);

ES_FUNCTION_INFO_V1(es_current_version);

/* es.current_version(): 0 if the aggregate does not exist. */
Datum
es_current_version(PG_FUNCTION_ARGS)
{
	Datum args[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	const char nulls[] = {PG_ARGISNULL(0) ? 'n' : ' ', PG_ARGISNULL(1) ? 'n' : ' ', '\0'};
	bool as_owner = !PG_ARGISNULL(0) && !may_read() && EsWriterMayAppend(args[0]);
	int64 version = 0;
	EsActing acting;

	if (as_owner)
		EsActingBegin(&acting, EsCatalogOwner(), NULL);
	SPI_connect();
	if (SPI_execute_plan(version_plan(), args, nulls, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read es.events");
	if (SPI_processed > 0)
	{
		bool isnull;

		version = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											  &isnull));
	}
	SPI_finish();
	if (as_owner)
		EsActingEnd(&acting);
	PG_RETURN_INT64(version);
}

/* Says whether the caller may read the columns that tell an aggregate's version. */
static bool
may_read(void)
{
	static const EsEventColumn columns[] = {ES_EVENT_VERSION, ES_EVENT_AGGREGATE_TYPE,
											ES_EVENT_AGGREGATE_ID};
	Oid events = EsCatalogOid(ES_OBJECT_EVENTS);

	if (pg_class_aclcheck(events, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return true;
	for (int i = 0; i < (int) lengthof(columns); i++)
		if (pg_attribute_aclcheck(events, columns[i], GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			return false;
	return true;
}

/* Returns the plan that reads an aggregate's version. */
static SPIPlanPtr
version_plan(void)
{
	static SPIPlanPtr kept = NULL;

	if (kept == NULL)
	{
		Oid types[] = {TEXTOID, TEXTOID};
		SPIPlanPtr plan =
			SPI_prepare("SELECT e.version FROM es.events AS e"
						" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
						" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
						" ORDER BY e.version DESC LIMIT 1",
						lengthof(types), types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare to read es.events");
		kept = plan;
	}
	return kept;
}
