/*
 * registry.c
 *	  What is stored of a projection: its row, its trigger, its dependency.
 *
 * A projection is a row of es.projection and a trigger on its state table.
 * The trigger refuses direct writes (it is disabled where the table is not to
 * be protected).  It also stands for the projection in pg_depend: it depends
 * on the apply function, so the function can't be dropped without CASCADE, and
 * the function is found whatever it is renamed to.
 *
 * A statement-level trigger does not see statements that name a partition of
 * its table.  So while a partitioned table is protected, each of its
 * partitions, at every level, has such a trigger too.
 *
 * pg_dump knows nothing of that dependency.  It dumps the row, as the table
 * is a configuration table, and the trigger, as any trigger.  So the row names
 * the function by its text, and when both are there again after a restore, the
 * dependency is made from the text (follow.c, EsRegistryFollow).
 *
 * Whoever changes es.projection sends a relcache invalidation for it, which
 * the caches of projection.c listen to.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "apply.h"
#include "catalog.h"
#include "catalog/dependency.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_proc_d.h"
#include "catalog/pg_trigger_d.h"
#include "checkpoint.h"
#include "commands/trigger.h"
#include "errors.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "registry.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "version.h"

#define PROTECT_TRIGGER "es_protect"

static void add_trigger(const EsRegistryRow *row);
static SysScanDesc scan_dependencies(Oid trigger, Relation *depend, ScanKeyData *keys);
static void remove_leftover(Oid target);
static void set_trigger(Oid table, bool protect);
static char trigger_state(Oid relid);
static void set_partition_triggers(Oid target, bool protect);
static void protect_partition(Oid partition);
static void check_partition(Oid partition, Oid target);
static void add_row(const EsRegistryRow *row);
static SysScanDesc scan_handlers(Relation handlers, Snapshot snapshot, const char *name);
static bool is_followed(Oid target, const char *text);
static void set_apply(const char *name, Oid function);
static void change_row(const char *name, int ncolumns, int *columns, Datum *values, bool *nulls);
static void execute(const char *command);
static char *qualified_name(Oid relid);

void
EsRegistryAdd(const EsRegistryRow *row)
{
	add_trigger(row);
	EsRegistryProtectPartitions(row->target, row->protect);
	add_row(row);
	EsRegistryChanged();
}

void
EsRegistryRemove(const char *name, Oid target)
{
	EsRegistryForget(name);
	EsRegistryUnprotect(target, true);
	execute(psprintf("DROP TRIGGER IF EXISTS " PROTECT_TRIGGER " ON %s", qualified_name(target)));
}

void
EsRegistryForget(const char *name)
{
	Relation handlers = table_open(EsCatalogOid(ES_OBJECT_HANDLER), RowExclusiveLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = scan_handlers(handlers, snapshot, name);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(handlers, &tuple->t_self);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(handlers, NoLock);
	EsCheckpointRemove(name);
	(void) EsCheckpointUnpark(name, 0);
	change_row(name, 0, NULL, NULL, NULL);
}

bool
EsRegistrySetHandler(const char *name, const char *event_type, bool batch, const char *statement)
{
	Relation handlers = table_open(EsCatalogOid(ES_OBJECT_HANDLER), RowExclusiveLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = scan_handlers(handlers, snapshot, name);
	bool found = false;
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		Datum type = heap_getattr(tuple, ES_HANDLER_EVENT_TYPE, RelationGetDescr(handlers),
								  &isnull);

		if (isnull != (event_type == NULL) ||
			(!isnull && strcmp(TextDatumGetCString(type), event_type) != 0))
			continue;
		CatalogTupleDelete(handlers, &tuple->t_self);
		found = true;
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	if (found)
		CommandCounterIncrement();
	if (statement != NULL)
	{
		Datum values[ES_HANDLER_NCOLUMNS];
		bool nulls[ES_HANDLER_NCOLUMNS] = {false};

		values[ES_HANDLER_PROJECTION - 1] = CStringGetTextDatum(name);
		nulls[ES_HANDLER_EVENT_TYPE - 1] = event_type == NULL;
		values[ES_HANDLER_EVENT_TYPE - 1] =
			event_type == NULL ? (Datum) 0 : CStringGetTextDatum(event_type);
		values[ES_HANDLER_BATCH - 1] = BoolGetDatum(batch);
		values[ES_HANDLER_STATEMENT - 1] = CStringGetTextDatum(statement);
		CatalogTupleInsert(handlers, EsCatalogRow(handlers, ES_HANDLER_NCOLUMNS, values, nulls));
	}
	table_close(handlers, NoLock);
	EsRegistryChanged();
	return found;
}

void
EsRegistryDepend(Oid target, List *queries)
{
	ObjectAddress trigger;
	ObjectAddress referenced;
	ListCell *lc;

	ObjectAddressSet(trigger, TriggerRelationId, get_trigger_oid(target, PROTECT_TRIGGER, false));
	/* Two commands may touch, at the same time, what one projection uses. */
	LockDatabaseObject(trigger.classId, trigger.objectId, 0, ExclusiveLock);
	(void) deleteDependencyRecordsFor(trigger.classId, trigger.objectId, false);
	ObjectAddressSet(referenced, RelationRelationId, target);
	recordDependencyOn(&trigger, &referenced, DEPENDENCY_AUTO);
	ObjectAddressSet(referenced, ProcedureRelationId,
					 LookupFuncName(list_make2(makeString(pstrdup("es")),
											   makeString(pstrdup("refuse_direct_write"))),
									0, NULL, false));
	recordDependencyOn(&trigger, &referenced, DEPENDENCY_NORMAL);
	foreach(lc, queries)
		recordDependencyOnExpr(&trigger, lfirst(lc), NIL, DEPENDENCY_NORMAL);
	CommandCounterIncrement();
}

/* All triggers depend on their table and their function, nothing else. */
bool
EsRegistryDependsOnNothing(Oid target)
{
	Oid trigger = get_trigger_oid(target, PROTECT_TRIGGER, true);
	Relation depend;
	ScanKeyData keys[2];
	SysScanDesc scan;
	int count = 0;

	if (!OidIsValid(trigger))
		return false;
	scan = scan_dependencies(trigger, &depend, keys);
	while (HeapTupleIsValid(systable_getnext(scan)))
		count++;
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return count <= 2;
}

void
EsRegistrySetFunction(const char *name, Oid target, Oid function)
{
	Oid old = EsRegistryFunction(target);
	Oid trigger = get_trigger_oid(target, PROTECT_TRIGGER, false);

	if (OidIsValid(old))
		(void) changeDependencyFor(TriggerRelationId, trigger, ProcedureRelationId, old, function);
	else
	{
		ObjectAddress dependent;
		ObjectAddress referenced;

		ObjectAddressSet(dependent, TriggerRelationId, trigger);
		ObjectAddressSet(referenced, ProcedureRelationId, function);
		recordDependencyOn(&dependent, &referenced, DEPENDENCY_NORMAL);
	}
	set_apply(name, function);
}

void
EsRegistryFollow(const char *name, Oid target, const char *text)
{
	Oid function;

	if (is_followed(target, text))
		return;
	LockRelationOid(EsCatalogOid(ES_OBJECT_PROJECTION), ShareRowExclusiveLock);
	if (is_followed(target, text))
		return;
	function = EsRegistryFunction(target);
	if (OidIsValid(function))
		set_apply(name, function);
	else
		EsRegistrySetFunction(name, target, EsApplyFind(target, text));
}

/*
 * Says whether text and dependency agree, or there is nothing to depend.  The
 * jobs of a parallel restore may all find that they don't, at the same time.
 */
static bool
is_followed(Oid target, const char *text)
{
	Oid function = EsRegistryFunction(target);

	if (OidIsValid(function))
		return strcmp(EsApplyText(function), text) == 0;
	return !OidIsValid(get_trigger_oid(target, PROTECT_TRIGGER, true)) ||
		!OidIsValid(EsApplyFind(target, text));
}

void
EsRegistrySetProtect(const char *name, Oid target, bool protect)
{
	int column = ES_PROJECTION_PROTECT;
	Datum value = BoolGetDatum(protect);
	bool isnull = false;

	set_trigger(target, protect);
	if (get_rel_relkind(target) == RELKIND_PARTITIONED_TABLE)
		set_partition_triggers(target, protect);
	change_row(name, 1, &column, &value, &isnull);
}

void
EsRegistryRestoreTrigger(Oid table, bool protect, bool recurse)
{
	char expected = protect ? TRIGGER_FIRES_ALWAYS : TRIGGER_DISABLED;
	List *tables =
		recurse ? find_all_inheritors(table, AccessShareLock, NULL) : list_make1_oid(table);
	ListCell *lc;

	foreach(lc, tables)
	{
		char state = trigger_state(lfirst_oid(lc));

		if (state != '\0' && state != expected)
			set_trigger(lfirst_oid(lc), protect);
	}
}

void
EsRegistryRestoreOwnTrigger(Oid table)
{
	if (table == EsCatalogOid(ES_OBJECT_EVENTS))
		execute("ALTER TABLE es.events ENABLE ALWAYS TRIGGER refuse_change");
	else if (table == EsCatalogOid(ES_OBJECT_WRITER))
		execute("ALTER TABLE es.writer ENABLE ALWAYS TRIGGER writer_changed");
}

void
EsRegistryProtectPartitions(Oid target, bool protect)
{
	ListCell *lc;

	if (get_rel_relkind(target) != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(lc, find_all_inheritors(target, NoLock, NULL))
	{
		Oid partition = lfirst_oid(lc);

		if (partition == target)
			continue;
		check_partition(partition, target);
		if (protect && !OidIsValid(get_trigger_oid(partition, PROTECT_TRIGGER, true)))
			protect_partition(partition);
	}
	CommandCounterIncrement();
}

void
EsRegistryUnprotect(Oid table, bool only_partitions)
{
	ListCell *lc;

	if (only_partitions && get_rel_relkind(table) != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(lc, find_all_inheritors(table, NoLock, NULL))
	{
		Oid partition = lfirst_oid(lc);
		ObjectAddress trigger;

		ObjectAddressSet(trigger, TriggerRelationId,
						 get_trigger_oid(partition, PROTECT_TRIGGER, true));
		if (OidIsValid(trigger.objectId) && !(only_partitions && partition == table))
			performDeletion(&trigger, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	}
}

Oid
EsRegistryStateTable(Oid table)
{
	return get_rel_relispartition(table) ? llast_oid(get_partition_ancestors(table)) : table;
}

bool
EsRegistryIsAsync(const char *mode)
{
	if (strcmp(mode, "inline") != 0 && strcmp(mode, "async") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode \"%s\"", mode),
				 errhint("It is \"inline\", in the writer's transaction, or \"async\", behind it.")));
	return strcmp(mode, "async") == 0;
}

bool
EsRegistryIsPark(const char *on_error)
{
	if (strcmp(on_error, "stop") != 0 && strcmp(on_error, "park") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid on_error \"%s\"", on_error),
				 errhint("It is \"stop\" or \"park\".")));
	return strcmp(on_error, "park") == 0;
}

void
EsRegistrySetRunning(const char *name, bool async, bool park, bool enabled)
{
	int columns[] = {ES_PROJECTION_MODE, ES_PROJECTION_ON_ERROR, ES_PROJECTION_ENABLED};
	Datum values[] = {CStringGetTextDatum(async ? "async" : "inline"),
					  CStringGetTextDatum(park ? "park" : "stop"), BoolGetDatum(enabled)};
	bool nulls[] = {false, false, false};

	change_row(name, lengthof(columns), columns, values, nulls);
}

/* The trigger depends on two functions: the one that it runs returns trigger. */
Oid
EsRegistryFunction(Oid target)
{
	Oid trigger = get_trigger_oid(target, PROTECT_TRIGGER, true);
	Oid function = InvalidOid;
	Relation depend;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	if (!OidIsValid(trigger))
		return InvalidOid;
	scan = scan_dependencies(trigger, &depend, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);

		if (dependency->refclassid == ProcedureRelationId &&
			get_func_rettype(dependency->refobjid) == get_rel_type_id(target))
			function = dependency->refobjid;
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return function;
}

void
EsRegistryChanged(void)
{
	CacheInvalidateRelcacheByRelid(EsCatalogOid(ES_OBJECT_PROJECTION));
	CommandCounterIncrement();
}

/* Starts a scan of what a trigger depends on. */
static SysScanDesc
scan_dependencies(Oid trigger, Relation *depend, ScanKeyData *keys)
{
	*depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(TriggerRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	return systable_beginscan(*depend, DependDependerIndexId, true, NULL, 2, keys);
}

/* Adds the trigger that protects the table and depends on the apply function. */
static void
add_trigger(const EsRegistryRow *row)
{
	char *table = qualified_name(row->target);
	ObjectAddress trigger;
	ObjectAddress function;

	remove_leftover(row->target);
	execute(psprintf("CREATE TRIGGER " PROTECT_TRIGGER
					 " BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s"
					 " FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write()",
					 table));
	set_trigger(row->target, row->protect);
	if (!OidIsValid(row->function))
		return;
	ObjectAddressSet(trigger, TriggerRelationId,
					 get_trigger_oid(row->target, PROTECT_TRIGGER, false));
	ObjectAddressSet(function, ProcedureRelationId, row->function);
	recordDependencyOn(&trigger, &function, DEPENDENCY_NORMAL);
}

/* Removes the trigger of a table that a dump of parts has brought here without its projection. */
static void
remove_leftover(Oid target)
{
	Relation table = table_open(target, AccessShareLock);
	bool found = false;

	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		Trigger *trigger = &table->trigdesc->triggers[i];

		if (strcmp(trigger->tgname, PROTECT_TRIGGER) == 0 &&
			strcmp(get_func_name(trigger->tgfoid), "refuse_direct_write") == 0 &&
			get_func_namespace(trigger->tgfoid) == get_namespace_oid("es", false))
			found = true;
	}
	table_close(table, NoLock);
	if (!found)
		return;
	EsRegistryUnprotect(target, false);
	CommandCounterIncrement();
}

/* Enables or disables the trigger of a table. */
static void
set_trigger(Oid table, bool protect)
{
	execute(psprintf("ALTER TABLE %s %s TRIGGER " PROTECT_TRIGGER, qualified_name(table),
					 protect ? "ENABLE ALWAYS" : "DISABLE"));
}

/* Returns how the trigger of a table is enabled, '\0' if there is none. */
static char
trigger_state(Oid relid)
{
	Relation table = table_open(relid, AccessShareLock);
	char state = '\0';

	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
		if (strcmp(table->trigdesc->triggers[i].tgname, PROTECT_TRIGGER) == 0)
			state = table->trigdesc->triggers[i].tgenabled;
	table_close(table, NoLock);
	return state;
}

/* Enables or disables those of partitions; enabled, all partitions have one. */
static void
set_partition_triggers(Oid target, bool protect)
{
	ListCell *lc;

	foreach(lc, find_all_inheritors(target, ShareRowExclusiveLock, NULL))
	{
		Oid partition = lfirst_oid(lc);

		if (partition != target && OidIsValid(get_trigger_oid(partition, PROTECT_TRIGGER, true)))
			set_trigger(partition, protect);
	}
	EsRegistryProtectPartitions(target, protect);
}

/* Adds to a partition the trigger that protects it. */
static void
protect_partition(Oid partition)
{
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);

	statement->trigname = pstrdup(PROTECT_TRIGGER);
	statement->funcname = list_make2(makeString(pstrdup("es")),
									 makeString(pstrdup("refuse_direct_write")));
	statement->timing = TRIGGER_TYPE_BEFORE;
	statement->events =
		TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE;
	(void) CreateTriggerFiringOn(statement, NULL, partition, InvalidOid, InvalidOid, InvalidOid,
								 InvalidOid, InvalidOid, NULL, false, false, TRIGGER_FIRES_ALWAYS);
}

/* Refuses a partition that can't hold state. */
static void
check_partition(Oid partition, Oid target)
{
	char kind = get_rel_relkind(partition);
	const char *problem = NULL;

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		problem = "It is a foreign table.";
	else if (get_rel_persistence(partition) != RELPERSISTENCE_PERMANENT)
		problem = "It is unlogged, so it would be empty after a crash, unlike the log.";
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("\"%s\" cannot be a partition of state table \"%s\"",
						get_rel_name(partition), get_rel_name(target)),
				 errdetail_internal("%s", problem)));
}

static void
add_row(const EsRegistryRow *row)
{
	Relation registry = table_open(EsCatalogOid(ES_OBJECT_PROJECTION), RowExclusiveLock);
	Datum values[ES_PROJECTION_NCOLUMNS];
	bool nulls[ES_PROJECTION_NCOLUMNS] = {false};

#define SET(column, value)          values[ES_PROJECTION_##column - 1] = (value)
#define SET_NULL_IF(column, isnull) nulls[ES_PROJECTION_##column - 1] = (isnull)
	SET(NAME, CStringGetTextDatum(row->name));
	SET(TARGET, ObjectIdGetDatum(row->target));
	SET(APPLY, (Datum) 0);
	if (OidIsValid(row->function))
		SET(APPLY, CStringGetTextDatum(EsApplyText(row->function)));
	SET(KEY, row->key == NULL ? (Datum) 0 : CStringGetTextDatum(row->key));
	SET(AGGREGATE_TYPES, PointerGetDatum(row->aggregate_types));
	SET(EVENT_TYPES, PointerGetDatum(row->event_types));
	SET(MODE, CStringGetTextDatum(row->mode));
	SET(ON_ERROR, CStringGetTextDatum(row->on_error));
	SET(PROTECT, BoolGetDatum(row->protect));
	SET(SETTINGS, PointerGetDatum(row->settings));
	SET(ENABLED, BoolGetDatum(true));
	SET_NULL_IF(APPLY, !OidIsValid(row->function));
	SET_NULL_IF(KEY, row->key == NULL);
	SET_NULL_IF(AGGREGATE_TYPES, row->aggregate_types == NULL);
	SET_NULL_IF(EVENT_TYPES, row->event_types == NULL);
#undef SET
#undef SET_NULL_IF
	CatalogTupleInsert(registry, EsCatalogRow(registry, ES_PROJECTION_NCOLUMNS, values, nulls));
	table_close(registry, NoLock);
}

/* Starts a scan of the projection's statements. */
static SysScanDesc
scan_handlers(Relation handlers, Snapshot snapshot, const char *name)
{
	static ScanKeyData key;

	ScanKeyInit(&key, ES_HANDLER_PROJECTION, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	key.sk_collation = C_COLLATION_OID;
	return systable_beginscan(handlers, EsCatalogOid(ES_OBJECT_HANDLER_KEY), true, snapshot, 1,
							  &key);
}

/* Names another function in the projection's row. */
static void
set_apply(const char *name, Oid function)
{
	int column = ES_PROJECTION_APPLY;
	Datum value = CStringGetTextDatum(EsApplyText(function));
	bool isnull = false;

	change_row(name, 1, &column, &value, &isnull);
}

/* Changes columns of the projection's row, or removes it (no columns), if it is there. */
static void
change_row(const char *name, int ncolumns, int *columns, Datum *values, bool *nulls)
{
	Relation registry = table_open(EsCatalogOid(ES_OBJECT_PROJECTION), RowExclusiveLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, ES_PROJECTION_NAME, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	key.sk_collation = C_COLLATION_OID;
	scan = systable_beginscan(registry, EsCatalogOid(ES_OBJECT_PROJECTION_PKEY), true, snapshot,
							  1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) && ncolumns == 0)
		CatalogTupleDelete(registry, &tuple->t_self);
	else if (HeapTupleIsValid(tuple))
		CatalogTupleUpdate(registry, &tuple->t_self,
						   heap_modify_tuple_by_cols(tuple, RelationGetDescr(registry), ncolumns,
													 columns, values, nulls));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(registry, NoLock);
	EsRegistryChanged();
}

/* Runs DDL as the current user. */
static void
execute(const char *command)
{
	SPI_connect();
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command);
	SPI_finish();
}

static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}
