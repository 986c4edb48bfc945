/*
 * catalog.c
 *	  OIDs of the extension's own tables.
 *
 * The OIDs are looked up once and kept until a relation is invalidated that is
 * one of them (DROP EXTENSION and CREATE EXTENSION in one session change them
 * all).  The invalidation callback only marks; the next caller looks up again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "version.h"

static const char *const object_names[ES_NOBJECTS] = {
	[ES_OBJECT_EVENTS] = "events",
	[ES_OBJECT_EVENTS_PKEY] = "events_pkey",
	[ES_OBJECT_EVENTS_AGGREGATE] = "events_aggregate_key",
	[ES_OBJECT_EVENTS_EVENT_ID] = "events_event_id_key",
	[ES_OBJECT_POSITION_SEQ] = "events_position_seq",
	[ES_OBJECT_PUBLISHED_SEQ] = "published_mark_seq",
	[ES_OBJECT_PROJECTION] = "projection",
	[ES_OBJECT_PROJECTION_PKEY] = "projection_pkey",
	[ES_OBJECT_HANDLER] = "projection_handler",
	[ES_OBJECT_HANDLER_KEY] = "projection_handler_key",
	[ES_OBJECT_CHECKPOINT] = "projection_checkpoint",
	[ES_OBJECT_CHECKPOINT_PKEY] = "projection_checkpoint_pkey",
	[ES_OBJECT_PARKED] = "projection_parked",
	[ES_OBJECT_PARKED_PKEY] = "projection_parked_pkey",
	[ES_OBJECT_SUBSCRIPTION] = "subscription",
	[ES_OBJECT_SUBSCRIPTION_PKEY] = "subscription_pkey",
	[ES_OBJECT_STREAM] = "subscription_stream",
	[ES_OBJECT_STREAM_PKEY] = "subscription_stream_pkey",
	[ES_OBJECT_STREAM_SUBSCRIPTION] = "subscription_stream_subscription_idx",
	[ES_OBJECT_STREAM_PARKED] = "subscription_parked",
	[ES_OBJECT_STREAM_PARKED_PKEY] = "subscription_parked_pkey",
	[ES_OBJECT_STREAM_PARKED_WAITING] = "subscription_parked_waiting_idx",
	[ES_OBJECT_WRITER] = "writer",
};

static Oid object_oids[ES_NOBJECTS];
static bool oids_valid = false;

static int check_columns(Relation table, int ncolumns);
static void load_oids(void);
static void relation_changed(Datum arg, Oid relid);

Oid
EsCatalogOid(EsObject object)
{
	EsCheckVersion();
	if (!oids_valid)
		load_oids();
	if (!OidIsValid(object_oids[object]))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"es.%s\" does not exist", object_names[object]),
				 errhint("Run CREATE EXTENSION pg_eventsourcing.")));
	return object_oids[object];
}

void
EsCatalogRead(Relation table, HeapTuple row, int ncolumns, Datum *values, bool *nulls)
{
	int natts = check_columns(table, ncolumns);
	Datum *all_values = palloc(sizeof(Datum) * natts);
	bool *all_nulls = palloc(sizeof(bool) * natts);

	heap_deform_tuple(row, RelationGetDescr(table), all_values, all_nulls);
	memcpy(values, all_values, sizeof(Datum) * ncolumns);
	memcpy(nulls, all_nulls, sizeof(bool) * ncolumns);
	pfree(all_values);
	pfree(all_nulls);
}

HeapTuple
EsCatalogRow(Relation table, int ncolumns, const Datum *values, const bool *nulls)
{
	int natts = check_columns(table, ncolumns);
	Datum *all_values = palloc0(sizeof(Datum) * natts);
	bool *all_nulls = palloc(sizeof(bool) * natts);
	HeapTuple row;

	memset(all_nulls, true, sizeof(bool) * natts);
	memcpy(all_values, values, sizeof(Datum) * ncolumns);
	memcpy(all_nulls, nulls, sizeof(bool) * ncolumns);
	row = heap_form_tuple(RelationGetDescr(table), all_values, all_nulls);
	pfree(all_values);
	pfree(all_nulls);
	return row;
}

/*
 * Returns how many columns a table has.  The version was right when the table's OID
 * was looked up; but who has waited for the lock on it may have waited for an upgrade.
 */
static int
check_columns(Relation table, int ncolumns)
{
	int natts = RelationGetNumberOfAttributes(table);

	EsCheckVersion();
	if (natts < ncolumns)
		elog(ERROR, "es.%s has %d columns instead of %d", RelationGetRelationName(table), natts,
			 ncolumns);
	return natts;
}

Oid
EsCatalogExtension(void)
{
	return get_extension_oid("pg_eventsourcing", false);
}

Oid
EsCatalogOwner(void)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(EsCatalogOid(ES_OBJECT_EVENTS)));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for es.events");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Looks all OIDs up.  They hold until an invalidation only if all were found:
 * nothing announces a relation that appears.
 */
static void
load_oids(void)
{
	static bool registered = false;
	bool all_found = true;
	Oid schema = get_namespace_oid("es", false);

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		registered = true;
	}

	for (int i = 0; i < ES_NOBJECTS; i++)
	{
		object_oids[i] = get_relname_relid(object_names[i], schema);
		if (!OidIsValid(object_oids[i]))
			all_found = false;
	}
	oids_valid = all_found;
}

/* Marks the OIDs as unknown when one of our relations changes. */
static void
relation_changed(Datum arg, Oid relid)
{
	if (!oids_valid)
		return;
	if (!OidIsValid(relid))
		oids_valid = false;
	for (int i = 0; i < ES_NOBJECTS; i++)
		if (object_oids[i] == relid)
			oids_valid = false;
}
