/*
 * utility.c
 *	  What the extension does before and after other commands.
 *
 * Databases.  Some commands want a database to themselves: to drop, rename,
 * move or copy it.  Its worker is in their way, and the user can't be asked to
 * stop it.  So it is ended before such a command, if the user may give it, and
 * may start again when the transaction has ended.
 *
 * Prepared transactions.  Whoever ends one tells the worker, for the writer is
 * gone.
 *
 * Restoring.  While a dump is loaded into an empty log, the sequence of
 * positions can be set before the events are there, above all by pg_restore -j.
 * Whoever took these positions for settled would pass over the events.  A
 * session that bears the marks of a dump (see sequence.c) is known by its first
 * SET commands; from then on it holds the mark at 0.  With -j there are several
 * such sessions, which all last until the data are there.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "compat.h"
#include "miscadmin.h"
#include "position.h"
#include "sequence.h"
#include "tcop/utility.h"
#include "utility.h"
#include "utils/syscache.h"
#include "wakeup.h"

static ProcessUtility_hook_type next_hook = NULL;

static void process_utility(PlannedStmt *pstmt, const char *query, bool read_only,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *environment, DestReceiver *dest,
							QueryCompletion *completion);
static Oid wanted_database(Node *statement);
static const char *option_value(List *options, const char *name);
static bool may_change(Oid database);
static bool may_copy(Oid database);
static void watch_restore(void);

void
EsUtilityInit(void)
{
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}

/* Runs a utility command, and does what it needs before and after. */
static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type process = next_hook == NULL ? standard_ProcessUtility : next_hook;
	NodeTag tag = nodeTag(pstmt->utilityStmt);
	Oid database = wanted_database(pstmt->utilityStmt);
	bool ends_prepared = tag == T_TransactionStmt &&
		((TransactionStmt *) pstmt->utilityStmt)->gid != NULL &&
		((TransactionStmt *) pstmt->utilityStmt)->kind != TRANS_STMT_PREPARE;

	if (OidIsValid(database))
		EsWakeupHold(database);
	process(pstmt, query, read_only, context, params, environment, dest, completion);
	if (tag == T_VariableSetStmt || tag == T_CreateExtensionStmt)
		watch_restore();
	if (ends_prepared)
		EsWakeupWriterEnded();
}

/* Returns the database, if it has a worker, that the command wants to itself. */
static Oid
wanted_database(Node *statement)
{
	const char *name = NULL;
	Oid database;

	if (IsA(statement, DropdbStmt))
		name = ((DropdbStmt *) statement)->dbname;
	else if (IsA(statement, RenameStmt) &&
			 ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) statement)->subname;
	else if (IsA(statement, AlterDatabaseStmt) &&
			 option_value(((AlterDatabaseStmt *) statement)->options, "tablespace") != NULL)
		name = ((AlterDatabaseStmt *) statement)->dbname;
	else if (IsA(statement, CreatedbStmt))
	{
		name = option_value(((CreatedbStmt *) statement)->options, "template");
		if (name == NULL)
			name = "template1";
	}
	if (name == NULL || !IsTransactionState())
		return InvalidOid;

	database = get_database_oid(name, true);
	if (!OidIsValid(database) || database == MyDatabaseId ||
		!(may_change(database) || (IsA(statement, CreatedbStmt) && may_copy(database))))
		return InvalidOid;
	return database;
}

/* Returns the value of an option as text; null: it is not given. */
static const char *
option_value(List *options, const char *name)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *option = lfirst(lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* Says whether the current user owns the database. */
static bool
may_change(Oid database)
{
	return EsDatabaseOwnerCheck(database, GetUserId());
}

/* Says whether the current user may create databases, and this is a template. */
static bool
may_copy(Oid database)
{
	HeapTuple role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool may = HeapTupleIsValid(role) && ((Form_pg_authid) GETSTRUCT(role))->rolcreatedb &&
		HeapTupleIsValid(tuple) && ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;

	if (HeapTupleIsValid(role))
		ReleaseSysCache(role);
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return may;
}

/* Holds the mark as long as the session loads a dump into an empty log, or a new one. */
static void
watch_restore(void)
{
	static bool holding = false;

	if (creating_extension || IsBinaryUpgrade || !IsTransactionState())
		return;
	if (!EsRestoreMarked())
		holding = false;
	else if (holding)
		return;
	else if (OidIsValid(get_extension_oid("pg_eventsourcing", true)))
		holding = EsRestoring() && EsPositionLast() == 0;
	else
		holding = superuser();
	EsPositionHold(holding);
}
