/*
 * definition.c
 *	  Creating and dropping projections.
 *
 * Locks.  Creating takes ShareRowExclusiveLock on es.events, which waits for
 * all writers and holds them off until commit: those in flight know nothing of
 * the new projection.  (An async one is built from the settled events and goes
 * on from there, so it needs no such lock.)  Then it takes the same lock on the
 * state table, so that readers are let in.  Dropping needs no lock on
 * es.events: AccessExclusiveLock on the state table waits for those who have
 * applied the projection, and those who come later look at the registry again
 * once they have the table.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "append.h"
#include "argument.h"
#include "catalog.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type_d.h"
#include "checkpoint.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "compat.h"
#include "errors.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parallel.h"
#include "position.h"
#include "progress.h"
#include "projection.h"
#include "rebuild.h"
#include "redirect.h"
#include "registry.h"
#include "handler.h"
#include "statement.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "version.h"

/* What es.create_projection() was called with. */
typedef struct Definition
{
	EsRegistryRow row;
	char *apply;
	bool populate;
} Definition;

ES_FUNCTION_INFO_V1(es_create_projection);
ES_FUNCTION_INFO_V1(es_drop_projection);
ES_FUNCTION_INFO_V1(es_set_handler);
ES_FUNCTION_INFO_V1(es_set_batch_handler);
ES_FUNCTION_INFO_V1(es_refuse_direct_write);

static void read_arguments(FunctionCallInfo fcinfo, Definition *definition);
static bool boolean_argument(FunctionCallInfo fcinfo, int arg, const char *name);
static void check_rights(Definition *definition);
static void check_unused(Definition *definition);
static void check_target(Relation target);
static void compile_definition(Definition *definition, Relation target);
static int64 populate(const char *name);
static int64 try_populate(const char *name);
static void set_handler(const char *name, const char *event_type, bool batch,
						const char *statement);
static EsProjection *open_for_handler(const char *name, bool batch, Relation *target);
static void check_statement(EsProjection *projection, bool batch, const char *statement);

/* es.create_projection(): see the COMMENT and the locks above. */
Datum
es_create_projection(PG_FUNCTION_ARGS)
{
	Definition definition = {0};
	EsCheckpoint checkpoint = {0};
	Relation target;
	bool async;

	EsRefuseReadOnly("es.create_projection()");
	read_arguments(fcinfo, &definition);
	check_rights(&definition);

	async = EsRegistryIsAsync(definition.row.mode);
	if (!async || !definition.populate)
		LockRelationOid(EsCatalogOid(ES_OBJECT_EVENTS), ShareRowExclusiveLock);
	target = try_table_open(definition.row.target, ShareRowExclusiveLock);
	if (target == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", definition.row.target)));
	EsProjectionsEnter();
	check_unused(&definition);
	check_target(target);
	if (definition.apply != NULL)
		compile_definition(&definition, target);
	table_close(target, NoLock);

	EsRegistryAdd(&definition.row);
	if (!definition.populate)
		checkpoint.position = EsPositionLast();
	else if (definition.apply != NULL && async && EsRegistryIsPark(definition.row.on_error))
		checkpoint.position = try_populate(definition.row.name);
	else if (definition.apply != NULL)
		checkpoint.position = populate(definition.row.name);
	if (async)
		EsCheckpointWrite(definition.row.name, &checkpoint);
	EsProjectionsLeave();
	PG_RETURN_VOID();
}

/* es.drop_projection(): waits for whoever reads or writes the state table. */
Datum
es_drop_projection(PG_FUNCTION_ARGS)
{
	char *name = EsNameArgument(fcinfo, 0, "name", true);
	EsProjection *projection;
	Relation target = NULL; /* its table was dropped unseen by es.forget_dropped() */

	EsRefuseReadOnly("es.drop_projection()");
	EsProjectionsEnter();
	do
	{
		projection = EsProjectionFind(name);
		EsProjectionCheckOwner(projection);
		if (get_rel_name(projection->target) == NULL)
			break;
		target = EsProjectionOpen(projection, AccessExclusiveLock);
	} while (target == NULL);

	if (target != NULL)
	{
		table_close(target, NoLock);
		EsRegistryRemove(name, projection->target);
	}
	else
		EsRegistryForget(name);
	EsProjectionsLeave();
	PG_RETURN_VOID();
}

/* es.set_handler(): sets, replaces or (null) removes the statement of an event type. */
Datum
es_set_handler(PG_FUNCTION_ARGS)
{
	EsRefuseReadOnly("es.set_handler()");
	set_handler(EsNameArgument(fcinfo, 0, "projection", true),
				EsNameArgument(fcinfo, 1, "event_type", false), false,
				EsNameArgument(fcinfo, 2, "statement", false));
	PG_RETURN_VOID();
}

/* es.set_batch_handler(): sets, replaces or (null) removes the statement for many events. */
Datum
es_set_batch_handler(PG_FUNCTION_ARGS)
{
	EsRefuseReadOnly("es.set_batch_handler()");
	set_handler(EsNameArgument(fcinfo, 0, "projection", true), NULL, true,
				EsNameArgument(fcinfo, 1, "statement", false));
	PG_RETURN_VOID();
}

/*
 * es.refuse_direct_write(): trigger before any statement that changes a state
 * table.  Folds don't use statements.  A restore of the data alone loads the
 * rows as they were.
 */
Datum
es_refuse_direct_write(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Oid table;
	Oid target;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es.refuse_direct_write() must be called as a trigger")));
	table = RelationGetRelid(trigger->tg_relation);
	target = EsRegistryStateTable(table);
	if (EsRedirected(target))
		ereport(ERROR,
				(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
				 errmsg("a replay cannot keep this change of table \"%s\" apart from its rows",
						get_rel_name(table)),
				 errdetail("TRUNCATE and COPY, in what a statement calls, act on the table itself."),
				 errhint(ES_IN_PLACE_HINT)));
	if (EsStatementsWriting(target))
		PG_RETURN_POINTER(NULL);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event) && EsRestoring())
		PG_RETURN_POINTER(NULL);
	ereport(ERROR,
			(errcode(ES_ERRCODE_PROTECTED_STATE),
			 target == table ? errmsg("table \"%s\" is a state table and cannot be changed directly",
									  get_rel_name(table))
							 : errmsg("table \"%s\" is a partition of state table \"%s\" and cannot be changed directly",
									  get_rel_name(table), get_rel_name(target)),
			 errdetail("Its rows change only through events."),
			 errhint("Append an event, or drop the projection with es.drop_projection() to make the table an ordinary one.")));
}

static void
read_arguments(FunctionCallInfo fcinfo, Definition *definition)
{
	definition->row.name = EsNameArgument(fcinfo, 0, "name", true);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null")));
	definition->row.target = PG_GETARG_OID(1);
	definition->apply = EsNameArgument(fcinfo, 2, "apply", false);
	definition->row.key = EsNameArgument(fcinfo, 3, "key", false);
	definition->row.aggregate_types = EsListArgument(fcinfo, 4, "aggregate_types");
	definition->row.event_types = EsListArgument(fcinfo, 5, "event_types");
	definition->row.mode = EsNameArgument(fcinfo, 6, "mode", true);
	definition->row.on_error = EsNameArgument(fcinfo, 7, "on_error", true);
	definition->row.protect = boolean_argument(fcinfo, 8, "protect");
	definition->populate = boolean_argument(fcinfo, 9, "populate");
	definition->row.settings = EsActingSettings();

	if (definition->apply == NULL && definition->row.key != NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("projection \"%s\" has a key but no apply function", definition->row.name),
				 errhint("Give apply the name of a function (state, es.events) -> state, "
						 "or leave out key and set statements with es.set_handler().")));
	(void) EsRegistryIsAsync(definition->row.mode);
	(void) EsRegistryIsPark(definition->row.on_error);
}

static bool
boolean_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return PG_GETARG_BOOL(arg);
}

/*
 * The projection sees every event, and can make every append fail.  So its
 * owner must be allowed to read the log, and to write it or to make objects that
 * hang on it.
 */
static void
check_rights(Definition *definition)
{
	Oid events = EsCatalogOid(ES_OBJECT_EVENTS);
	char *table = get_rel_name(definition->row.target);

	if (table != NULL && !EsRelationOwnerCheck(definition->row.target, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, table);
	if (pg_class_aclcheck(events, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
		pg_class_aclmask(events, GetUserId(), ACL_INSERT | ACL_TRIGGER | ACL_REFERENCES,
						 ACLMASK_ANY) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table events"),
				 errdetail("A projection reads all events, and its failure makes appends fail."),
				 errhint("Who creates one needs SELECT, and INSERT or REFERENCES, on es.events.")));
}

static void
check_unused(Definition *definition)
{
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *other = lfirst(lc);

		if (strcmp(other->name, definition->row.name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("projection \"%s\" already exists", definition->row.name)));
		if (other->target == definition->row.target)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("table \"%s\" is the state table of projection \"%s\" already",
							get_rel_name(definition->row.target), other->name),
					 errhint("A state table is kept by one projection.")));
	}
}

/* Refuses a relation that can't be kept, or can't be rebuilt, by a projection. */
static void
check_target(Relation target)
{
	Oid relid = RelationGetRelid(target);
	const char *problem = NULL;

	if (target->rd_rel->relispartition)
		problem = "It is a partition.";
	else if (target->rd_rel->relkind != RELKIND_RELATION &&
			 target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		problem = "It is not a table.";
	else if (target->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		problem = "It is temporary, so other sessions could not maintain it.";
	else if (target->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		problem = "It is unlogged, so it would be empty after a crash, unlike the log.";
	else if (IsCatalogRelation(target) ||
			 getExtensionOfObject(RelationRelationId, relid) == EsCatalogExtension())
		problem = "It is a table of the system.";
	else if (has_superclass(relid))
		problem = "It inherits from another table, through which it could be changed.";
	else if (check_enable_rls(relid, target->rd_rel->relowner, true) == RLS_ENABLED)
		problem = "Its owner is subject to its row-level security.";
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("\"%s\" cannot be a state table", RelationGetRelationName(target)),
				 errdetail_internal("%s", problem),
				 errhint("Use an ordinary or a partitioned table with a primary key.")));
}

/*
 * Resolves the apply function and compiles the whole as the table's owner, to
 * see that it can be.
 * What PostgreSQL finds wrong with the text is reported as a faulty projection.
 */
static void
compile_definition(Definition *definition, Relation target)
{
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	EsActingBegin(&acting, target->rd_rel->relowner, NULL);
	PG_TRY();
	{
		definition->row.function = EsApplyFind(definition->row.target, definition->apply);
		EsApplyCheck(target, definition->row.function, definition->apply);
		(void) EsKeyCompile(target, events, definition->row.key);
		(void) EsApplyCompile(target, definition->row.function);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) !=
				ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION) &&
			error->sqlerrcode != ERRCODE_INVALID_TEXT_REPRESENTATION)
			PG_RE_THROW();
		if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
			PG_RE_THROW();
		FlushErrorState();
		error->sqlerrcode = ES_ERRCODE_INVALID_PROJECTION;
		if (error->hint == NULL)
			error->hint = pstrdup("Give apply the name of a function (state, es.events) -> state.");
		ReThrowError(error);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
	table_close(events, NoLock);
}

/* Replaces the table's rows by the fold of the log; returns up to where. */
static int64
populate(const char *name)
{
	EsProjection *projection = EsProjectionFind(name);
	Relation target = EsProjectionOpen(projection, ShareRowExclusiveLock);
	EsReplayState state;
	EsApplied rebuilt;

	if (target == NULL)
		elog(ERROR, "projection \"%s\" has changed while it was created", name);
	state = EsReplayBegin(name, projection->target);
	PG_TRY();
	{
		rebuilt = EsRebuild(projection, target, ES_WORKERS_BY_SETTING);
	}
	PG_FINALLY();
	{
		EsReplayEnd(state);
	}
	PG_END_TRY();
	table_close(target, NoLock);
	return rebuilt.bound;
}

/*
 * The same for a projection that puts aside what it fails on: then the table is
 * left empty, and the first run applies all events, but for those.
 */
static int64
try_populate(const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	EsProjection *projection;
	Relation target;
	volatile int64 up_to = 0;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		up_to = populate(name);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ES_ERRCODE_PROJECTION_FAILED)
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (error == NULL)
		return up_to;

	projection = EsProjectionFind(name);
	target = EsProjectionOpen(projection, ShareRowExclusiveLock);
	if (target == NULL)
		elog(ERROR, "projection \"%s\" has changed while it was created", name);
	EsStatementsEmpty(projection, target);
	table_close(target, NoLock);
	ereport(WARNING,
			(errmsg("projection \"%s\" is not built yet", name),
			 errdetail_internal("%s", error->message),
			 errhint("es.run_projections('%s') builds it, and puts aside the events that fail.", name)));
	return 0;
}

/*
 * Changes the statements of a projection.  ShareRowExclusiveLock on the state
 * table waits for those who have run the old ones.
 */
static void
set_handler(const char *name, const char *event_type, bool batch, const char *statement)
{
	Relation target;
	EsProjection *projection;

	EsProjectionsEnter();
	projection = open_for_handler(name, batch, &target);
	if (statement != NULL)
		check_statement(projection, batch, statement);
	if (!EsRegistrySetHandler(name, event_type, batch, statement) && statement == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 event_type == NULL ? errmsg("projection \"%s\" has no such statement", name) : errmsg("projection \"%s\" has no statement for events of type \"%s\"", name, event_type),
				 errhint("The view es.projection_handlers lists them.")));
	table_close(target, NoLock);

	projection = open_for_handler(name, batch, &target);
	EsStatementsDepend(projection, target);
	table_close(target, NoLock);
	EsProjectionsLeave();
}

/* Opens the state table of a projection that may get such a statement. */
static EsProjection *
open_for_handler(const char *name, bool batch, Relation *target)
{
	EsProjection *projection = EsProjectionOpenOwned(name, ShareRowExclusiveLock, target);

	if (projection->apply != NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("projection \"%s\" has an apply function and takes no statements", name),
				 errhint("Create a projection without apply.")));
	if (projection->statements != NIL && projection->batch != batch)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 batch ? errmsg("projection \"%s\" has statements for single events", name) : errmsg("projection \"%s\" has a statement for batches", name),
				 errhint("A projection has the one or the other; remove it first, by setting it to null.")));
	return projection;
}

/* Compiles a statement as the projection's owner, to see that it can be. */
static void
check_statement(EsProjection *projection, bool batch, const char *statement)
{
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	EsActing acting;

	EsActingBegin(&acting, projection->owner, projection->settings);
	SPI_connect();
	(void) EsHandlerCompile(statement, events, batch);
	SPI_finish();
	EsActingEnd(&acting);
	table_close(events, NoLock);
}
