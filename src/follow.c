/*
 * follow.c
 *	  What becomes of projections in DDL, and in restores.
 *
 * The registry (registry.c) is a table; what else belongs to a projection is in
 * PostgreSQL's catalogs: the trigger of its table, and its dependencies on
 * what it uses.  Event triggers keep the two together: renamed functions are
 * followed, a DROP takes the projection with it or is refused.
 *
 * Dumps know of the rows and the triggers, but not of the dependencies, and
 * whatever comes last brings the rest in line with the registry:
 *
 * - a restored trigger (CREATE TRIGGER), if the rows were there before it;
 * - the rows, if the triggers were (a restore of the data alone);
 * - ENABLE TRIGGER ALL, after which pg_restore --disable-triggers leaves all
 *   triggers enabled the same way;
 * - after pg_upgrade, which copies files and runs no command, the next
 *   command that depends on dependencies.
 *
 * Locks.  The jobs of a parallel restore come here at the same time, and the rows
 * of the registry may be loaded while triggers are created.  Whoever adds one or
 * the other holds ShareRowExclusiveLock on es.projection, so the second of them
 * sees what the first has done (lock_registry).  A definition may change while a
 * table is being locked; then it is looked up again.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "append.h"
#include "catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "compat.h"
#include "errors.h"
#include "executor/spi.h"
#include "failure.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "projection.h"
#include "registry.h"
#include "statement.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "version.h"

/* Without a look at the version: see drops_extension(). */
PG_FUNCTION_INFO_V1(es_follow_ddl);
ES_FUNCTION_INFO_V1(es_forget_dropped);
ES_FUNCTION_INFO_V1(es_registry_changed);

static bool drops_extension(Node *command);
static void follow_restore(Node *command, bool before);
static void lock_registry(void);
static void follow_touched(void);
static void follow_functions(void);
static bool was_touched(EsProjection *projection);
static void follow_statements(const char *name);
static void restore_dependencies(void);
static void try_statements(const char *name);
static void triggers_enabled(Node *command);
static void restore_trigger(EsProjection *projection, Oid only);
static bool is_restricted(FunctionCallInfo fcinfo);
static void look_for_dropped(EsProjection *projection, bool *projection_dropped,
							 bool *function_dropped);

/*
 * es.follow_ddl(): event trigger before and after a command that may rename or
 * drop what a projection uses, or has restored a state table's trigger.
 */
Datum
es_follow_ddl(PG_FUNCTION_ARGS)
{
	EventTriggerData *command = (EventTriggerData *) fcinfo->context;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es.follow_ddl() must be called as an event trigger")));
	if (!OidIsValid(get_extension_oid("pg_eventsourcing", true)) || EsInOwnScript())
		PG_RETURN_NULL();
	if (drops_extension(command->parsetree) && !EsVersionFits())
		PG_RETURN_NULL();

	EsProjectionsEnter();
	if (EsRestoring())
		follow_restore(command->parsetree, strcmp(command->event, "ddl_command_start") == 0);
	else if (strcmp(command->event, "ddl_command_start") == 0)
		restore_dependencies();
	else
	{
		follow_touched();
		triggers_enabled(command->parsetree);
		/* This may lock the registry, so it comes when no other lock is needed any more. */
		follow_functions();
	}
	EsProjectionsLeave();
	PG_RETURN_NULL();
}

/* Says whether it is DROP EXTENSION, which must work whatever version is installed. */
static bool
drops_extension(Node *command)
{
	return IsA(command, DropStmt) && ((DropStmt *) command)->removeType == OBJECT_EXTENSION;
}

/* es.forget_dropped(): event trigger after a command that drops something. */
Datum
es_forget_dropped(PG_FUNCTION_ARGS)
{
	List *projections;
	ListCell *lc;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es.forget_dropped() must be called as an event trigger")));
	if (!OidIsValid(get_extension_oid("pg_eventsourcing", true)) || EsInOwnScript())
		PG_RETURN_NULL();

	EsProjectionsEnter();
	projections = EsProjections();
	foreach(lc, projections)
	{
		EsProjection *projection = lfirst(lc);
		bool projection_dropped;
		bool function_dropped;

		look_for_dropped(projection, &projection_dropped, &function_dropped);
		if (projection_dropped && is_restricted(fcinfo) && !EsRestoring())
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop what projection \"%s\" depends on", projection->name),
					 errhint("Use DROP ... CASCADE to drop the projection too, or drop it first with es.drop_projection().")));
		if (projection_dropped)
		{
			ereport(NOTICE,
					(errmsg("projection \"%s\" is removed with what it used", projection->name)));
			EsRegistryForget(projection->name);
		}
		else if (function_dropped)
			/* pg_upgrade has lost the dependency that says the same. */
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop function %s because projection \"%s\" uses it",
							projection->apply, projection->name),
					 errhint("Drop the projection first, with es.drop_projection().")));
	}
	EsProjectionsLeave();
	PG_RETURN_NULL();
}

/*
 * es.registry_changed(): trigger for whoever changes the registry by SQL, such
 * as a restore.  One of the data alone finds the triggers there.
 */
Datum
es_registry_changed(PG_FUNCTION_ARGS)
{
	ListCell *lc;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es.registry_changed() must be called as a trigger")));
	EsRegistryChanged();
	if (EsRestoring())
	{
		lock_registry();
		EsProjectionsEnter();
		foreach(lc, EsProjections())
			restore_trigger(lfirst(lc), InvalidOid);
		restore_dependencies();
		EsProjectionsLeave();
	}
	PG_RETURN_POINTER(NULL);
}

/*
 * Does what a command of a restore needs: it renames nothing.  A trigger may come
 * before the rows that it belongs to, after them, or, in another job, with them.
 */
static void
follow_restore(Node *command, bool before)
{
	bool is_protection = command != NULL && IsA(command, CreateTrigStmt) &&
		strcmp(((CreateTrigStmt *) command)->trigname, "es_protect") == 0;

	if (is_protection && before)
		lock_registry();
	else if (is_protection)
	{
		follow_touched();
		follow_functions();
	}
	else if (!before)
		triggers_enabled(command);
}

/*
 * Makes the current transaction the only one that brings restored triggers and
 * the registry together.  Locked before the table whose trigger is restored, as
 * whoever has this lock may need any state table.
 */
static void
lock_registry(void)
{
	LockRelationOid(EsCatalogOid(ES_OBJECT_PROJECTION), ShareRowExclusiveLock);
}

/* Looks at the statements that the running command may have changed the meaning of. */
static void
follow_touched(void)
{
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (projection->statements != NIL && was_touched(projection))
			follow_statements(projection->name);
	}
}

/* Brings names of apply functions, or lost dependencies on them, up to date. */
static void
follow_functions(void)
{
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (projection->apply != NULL)
			EsRegistryFollow(projection->name, projection->target, projection->apply);
	}
}

/*
 * Says whether the running command has changed something that the projection's
 * statements use, or created its trigger again.
 */
static bool
was_touched(EsProjection *projection)
{
	Oid argtypes[1] = {OIDOID};
	Datum args[1] = {ObjectIdGetDatum(projection->target)};
	bool touched;

	SPI_connect();
	if (SPI_execute_with_args(
			"SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() AS c"
			"  JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) $1"
			"   AND t.tgname OPERATOR(pg_catalog.=) 'es_protect'"
			" WHERE c.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass"
			"    OR c.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_trigger'::pg_catalog.regclass"
			"   AND c.objid OPERATOR(pg_catalog.=) t.oid"
			"    OR EXISTS (SELECT FROM pg_catalog.pg_depend AS d"
			"                WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_trigger'::pg_catalog.regclass"
			"                  AND d.objid OPERATOR(pg_catalog.=) t.oid"
			"                  AND d.refclassid OPERATOR(pg_catalog.=) c.classid"
			"                  AND d.refobjid OPERATOR(pg_catalog.=) c.objid)",
			1, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the commands that were run");
	touched = SPI_processed > 0;
	SPI_finish();
	return touched;
}

/*
 * Compiles the statements anew: if the command has made one invalid, such as by
 * renaming a table, it is refused here.
 */
static void
follow_statements(const char *name)
{
	EsProjection *projection;
	Relation target;

	do
	{
		projection = EsProjectionLookup(name);
		if (projection == NULL)
			return;
		target = EsProjectionOpen(projection, AccessShareLock);
	} while (target == NULL);
	EsProjectionReset(projection);
	EsStatementsDepend(projection, target);
	table_close(target, NoLock);
}

/* Makes the dependencies again that have been lost. */
static void
restore_dependencies(void)
{
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (projection->statements != NIL && EsRegistryDependsOnNothing(projection->target))
			try_statements(projection->name);
	}
	follow_functions();
}

/*
 * Makes a projection depend on what its statements use.  If they don't compile,
 * the next append says so: the running command may be the one that repairs it.
 */
static void
try_statements(const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		follow_statements(name);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!EsFailureToBlame(error))
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

/*
 * After ENABLE TRIGGER ALL: sets the triggers that protect a state table, and our
 * own, to what they have to be.  If it was the registry's that could not fire
 * meanwhile, does what they would have done.
 */
static void
triggers_enabled(Node *command)
{
	AlterTableStmt *statement = (AlterTableStmt *) command;
	bool enabled = false;
	bool all;
	Oid table;
	ListCell *lc;

	if (command == NULL || !IsA(command, AlterTableStmt))
		return;
	foreach(lc, statement->cmds)
		enabled |= lfirst_node(AlterTableCmd, lc)->subtype == AT_EnableTrigAll;
	table = enabled ? RangeVarGetRelid(statement->relation, NoLock, true) : InvalidOid;
	if (!OidIsValid(table))
		return;

	EsRegistryRestoreOwnTrigger(table);
	all = table == EsCatalogOid(ES_OBJECT_PROJECTION) || table == EsCatalogOid(ES_OBJECT_HANDLER);
	if (all)
	{
		lock_registry();
		EsRegistryChanged();
	}
	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (all)
			restore_trigger(projection, InvalidOid);
		else if (projection->target == EsRegistryStateTable(table))
			restore_trigger(projection, table);
	}
	if (all)
		restore_dependencies();
}

/*
 * Enables or disables the triggers of a projection's table and its partitions, or of
 * one of them (only), as the registry says.
 */
static void
restore_trigger(EsProjection *projection, Oid only)
{
	if (get_rel_name(projection->target) != NULL &&
		EsRelationOwnerCheck(projection->target, GetUserId()))
		EsRegistryRestoreTrigger(OidIsValid(only) ? only : projection->target,
								 projection->protect, !OidIsValid(only));
}

/*
 * Says whether the running command is a DROP without CASCADE.  PostgreSQL lets it
 * take a table together with its triggers, and knows nothing else that depends on
 * the table if the projection is kept by statements.
 */
static bool
is_restricted(FunctionCallInfo fcinfo)
{
	Node *command = ((EventTriggerData *) fcinfo->context)->parsetree;

	if (command != NULL && IsA(command, DropStmt))
		return ((DropStmt *) command)->behavior == DROP_RESTRICT;
	if (command != NULL && IsA(command, DropOwnedStmt))
		return ((DropOwnedStmt *) command)->behavior == DROP_RESTRICT;
	return false;
}

/*
 * Finds out whether the running command has dropped the projection's table or
 * trigger, or the function that its row names.
 */
static void
look_for_dropped(EsProjection *projection, bool *projection_dropped, bool *function_dropped)
{
	Oid argtypes[2] = {OIDOID, TEXTOID};
	Datum args[2] = {ObjectIdGetDatum(projection->target),
					 CStringGetTextDatum(projection->apply == NULL ? "" : projection->apply)};
	bool isnull;

	SPI_connect();
	if (SPI_execute_with_args(
			"SELECT coalesce(pg_catalog.bool_or("
			"         d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
			"         AND d.objid OPERATOR(pg_catalog.=) $1 AND d.objsubid OPERATOR(pg_catalog.=) 0"
			"         OR d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_trigger'::pg_catalog.regclass"
			"         AND d.address_names[3] OPERATOR(pg_catalog.=) 'es_protect'"
			"         AND pg_catalog.to_regclass(pg_catalog.format('%I.%I', d.address_names[1], d.address_names[2]))"
			"             OPERATOR(pg_catalog.=) $1), false),"
			"       coalesce(pg_catalog.bool_or("
			"         d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass"
			"         AND d.object_identity OPERATOR(pg_catalog.=) $2), false)"
			"  FROM pg_catalog.pg_event_trigger_dropped_objects() AS d",
			2, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the dropped objects");
	*projection_dropped = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
													 1, &isnull));
	*function_dropped = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
												   2, &isnull));
	SPI_finish();
}
