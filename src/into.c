/*
 * into.c
 *	  es.replay_into(): a projection's rows as of a moment, in another table.
 *
 * ShareRowExclusiveLock on that table, to the end of the transaction: it must
 * be empty, and nobody else shall fill it meanwhile.  The state table is locked
 * as by any reader, and the log not at all, so writers go on.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "argument.h"
#include "catalog.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type_d.h"
#include "compat.h"
#include "errors.h"
#include "fill.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "past.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "version.h"

ES_FUNCTION_INFO_V1(es_replay_into);

static void check_statements(EsProjection *projection, const char *apply);
static Relation open_table(Oid relid);
static void check_table(Relation table);
static void check_empty(Relation table);
static bool has_rows(Oid relid);
static void exclude_events(EsFoldSpec *spec, ArrayType *ids);
static int compare_ids(const void *a, const void *b);
static void check_event(Relation events, Relation index, const pg_uuid_t *id);

/* es.replay_into(): see the COMMENT. */
Datum
es_replay_into(PG_FUNCTION_ARGS)
{
	char *name = EsTextArgument(fcinfo, 0, "projection", true);
	char *apply = EsTextArgument(fcinfo, 4, "apply", false);
	EsProjection *projection;
	Relation target;
	Relation table;
	EsMoment moment;
	EsFoldSpec spec;
	int64 up_to_position;
	int64 rows;

	PreventCommandDuringRecovery("es.replay_into()");
	PreventCommandIfParallelMode("es.replay_into()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null")));
	EsProjectionsEnter();
	projection = EsPastOpen(name, AccessShareLock, &target);
	check_statements(projection, apply);
	table = open_table(PG_GETARG_OID(1));
	check_empty(table);

	moment = EsMomentBegin(fcinfo, 2, 3);
	spec = EsPastSpec(projection, target, &moment);
	spec.function = EsPastFunction(projection, target, apply);
	if (!PG_ARGISNULL(5))
		exclude_events(&spec, PG_GETARG_ARRAYTYPE_P(5));
	rows = EsFill(&spec, table, &up_to_position);
	EsMomentEnd();

	table_close(table, NoLock);
	table_close(target, NoLock);
	EsProjectionsLeave();
	PG_RETURN_INT64(rows);
}

/*
 * Statements run for the owner only: who may read what they have written may not
 * have them do it again.
 */
static void
check_statements(EsProjection *projection, const char *apply)
{
	if (projection->apply != NULL)
		return;
	EsProjectionCheckOwner(projection);
	if (apply != NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("projection \"%s\" has statements, not an apply function",
						projection->name)));
}

/* Opens the table to fill, for somebody who may insert into it. */
static Relation
open_table(Oid relid)
{
	char *name = get_rel_name(relid);
	Relation table;

	if (name != NULL && pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)), name);
	table = try_relation_open(relid, ShareRowExclusiveLock);
	if (table == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	check_table(table);
	return table;
}

/* Refuses what is not an ordinary table, or is kept by the extension. */
static void
check_table(Relation table)
{
	Oid relid = RelationGetRelid(table);
	ListCell *lc;

	if (table->rd_rel->relkind != RELKIND_RELATION &&
		table->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(table))));
	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (projection->target == relid)
			ereport(ERROR,
					(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
					 errmsg("table \"%s\" is the state table of projection \"%s\"",
							RelationGetRelationName(table), projection->name),
					 errhint("es.replay() builds it anew; es.replay_into() fills other tables.")));
	}
	if (getExtensionOfObject(RelationRelationId, relid) == EsCatalogExtension())
		ereport(ERROR,
				(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
				 errmsg("table \"%s\" belongs to the extension", RelationGetRelationName(table))));
}

/* Refuses a table that has rows, in a partition of its own or an heir either. */
static void
check_empty(Relation table)
{
	ListCell *lc;

	foreach(lc, find_all_inheritors(RelationGetRelid(table), AccessShareLock, NULL))
		if (has_rows(lfirst_oid(lc)))
			ereport(ERROR,
					(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
					 errmsg("table \"%s\" is not empty", RelationGetRelationName(table)),
					 errhint("TRUNCATE it first, or use another table.")));
}

static bool
has_rows(Oid relid)
{
	Relation table = table_open(relid, NoLock);
	bool found = false;

	if (RELKIND_HAS_TABLE_AM(table->rd_rel->relkind))
	{
		Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
		TableScanDesc scan = table_beginscan(table, snapshot, 0, NULL);
		TupleTableSlot *row = table_slot_create(table, NULL);

		found = table_scan_getnextslot(scan, ForwardScanDirection, row);
		ExecDropSingleTupleTableSlot(row);
		table_endscan(scan);
		UnregisterSnapshot(snapshot);
	}
	table_close(table, NoLock);
	return found;
}

/* Leaves out the events with these ids, each of which must be in the log. */
static void
exclude_events(EsFoldSpec *spec, ArrayType *ids)
{
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	Relation index = index_open(EsCatalogOid(ES_OBJECT_EVENTS_EVENT_ID), AccessShareLock);
	pg_uuid_t *excluded;
	Datum *items;
	bool *nulls;
	int nitems;

	deconstruct_array(ids, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &items, &nulls, &nitems);
	excluded = palloc(sizeof(pg_uuid_t) * (nitems + 1));
	for (int i = 0; i < nitems; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("exclude_event_ids must not contain nulls")));
		excluded[i] = *DatumGetUUIDP(items[i]);
		check_event(events, index, &excluded[i]);
	}
	qsort(excluded, nitems, sizeof(pg_uuid_t), compare_ids);
	spec->excluded = excluded;
	spec->nexcluded = nitems;
	index_close(index, AccessShareLock);
	table_close(events, NoLock);
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t));
}

/* Raises SE006 unless the active snapshot shows the event. */
static void
check_event(Relation events, Relation index, const pg_uuid_t *id)
{
	IndexScanDesc scan = EsIndexBeginScan(events, index, GetActiveSnapshot(), 1);
	TupleTableSlot *event = table_slot_create(events, NULL);
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	index_rescan(scan, &key, 1, NULL, 0);
	if (!index_getnext_slot(scan, ForwardScanDirection, event))
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 errmsg("event %s does not exist",
						DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id))))));
	ExecDropSingleTupleTableSlot(event);
	index_endscan(scan);
}
