/*
 * launcher.c
 *	  Starting and stopping the workers of the databases.
 *
 * The launcher runs with the server, connected to no database.  It knows
 * a database by its OID and keeps one worker in each that es.worker_databases
 * names: one that is renamed loses its worker, one that is created or renamed to such
 * a name gets one.  It looks pg_database up again only when that may have changed.
 *
 * Which databases have a worker is known from shared memory (wakeup.c), so a
 * launcher that has been restarted finds the workers of the one before.  A
 * second worker that it might start in the meantime finds out and ends.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "guc.h"
#include "launcher.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "wakeup.h"

#define LIBRARY         "pg_eventsourcing"
#define RESTART_TIME    1     /* seconds until the launcher itself is restarted */
#define IDLE_TIME       60000 /* milliseconds between two looks while no database is named */
#define STABLE_TIME     10000 /* milliseconds after which a worker is said to have worked */
#define MIN_RETRY_DELAY 1000  /* milliseconds until a worker is started again */
#define MAX_RETRY_DELAY 60000

/* A database that has, or is to have, a worker. */
typedef struct Database
{
	Oid oid;
	char name[NAMEDATALEN];
	bool wanted;
	BackgroundWorkerHandle *handle; /* null: none that we have started */
	TimestampTz started;
	TimestampTz next_start;
	int failures; /* in a row */
} Database;

static List *databases = NIL; /* of Database */
static List *missing = NIL;   /* names of databases that don't exist */
static bool catalog_changed = true;

static void database_changed(Datum arg, int cacheid, uint32 hashvalue);
static void look_up(void);
static List *wanted_names(void);
static void want(Form_pg_database database);
static void complain(List *names);
static bool is_listed(List *names, const char *name);
static long look_after_all(void);
static TimestampTz look_after(Database *database, TimestampTz now);
static void start_worker(Database *database, TimestampTz now);
static long retry_delay(int failures);

void
EsLauncherInit(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return;
	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_eventsourcing launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "pg_eventsourcing launcher");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), LIBRARY);
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "EsLauncherMain");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_TIME;
	RegisterBackgroundWorker(&worker);
}

void
EsLauncherMain(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	EsWakeupAttachLauncher();
	CacheRegisterSyscacheCallback(DATABASEOID, database_changed, (Datum) 0);

	for (;;)
	{
		long timeout;

		if (ShutdownRequestPending)
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			catalog_changed = true;
		}
		/* An empty transaction hears of changes in pg_database. */
		StartTransactionCommand();
		if (catalog_changed)
			look_up();
		CommitTransactionCommand();
		timeout = look_after_all();
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

static void
database_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	catalog_changed = true;
}

/* Finds the databases that are to have a worker. */
static void
look_up(void)
{
	List *names = wanted_names();
	List *unknown = list_copy(names);
	ListCell *lc;

	catalog_changed = false;
	foreach(lc, databases)
		((Database *) lfirst(lc))->wanted = false;
	if (names != NIL)
	{
		Relation relation = table_open(DatabaseRelationId, AccessShareLock);
		Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
		TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
		HeapTuple tuple;

		while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
		{
			Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

			if (!is_listed(names, NameStr(form->datname)))
				continue;
			foreach(lc, unknown)
				if (strcmp(lfirst(lc), NameStr(form->datname)) == 0)
					unknown = foreach_delete_current(unknown, lc);
			/* A limit below -1 marks a database that is half dropped. */
			if (form->datallowconn && form->datconnlimit >= -1)
				want(form);
		}
		table_endscan(scan);
		UnregisterSnapshot(snapshot);
		table_close(relation, AccessShareLock);
	}
	complain(unknown);
}

/* Returns the names that es.worker_databases lists. */
static List *
wanted_names(void)
{
	List *names = NIL;

	(void) SplitIdentifierString(pstrdup(EsWorkerDatabases), ',', &names);
	return names;
}

/* Notes a database that is to have a worker. */
static void
want(Form_pg_database form)
{
	Database *database = NULL;
	MemoryContext old;
	ListCell *lc;

	foreach(lc, databases)
		if (((Database *) lfirst(lc))->oid == form->oid)
			database = lfirst(lc);
	if (database == NULL)
	{
		old = MemoryContextSwitchTo(TopMemoryContext);
		database = palloc0(sizeof(Database));
		databases = lappend(databases, database);
		MemoryContextSwitchTo(old);
		database->oid = form->oid;
	}
	strlcpy(database->name, NameStr(form->datname), NAMEDATALEN);
	database->wanted = true;
}

/* Says once of each of the names that there is no such database. */
static void
complain(List *names)
{
	List *before = missing;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	ListCell *lc;

	missing = NIL;
	foreach(lc, names)
	{
		if (!is_listed(before, lfirst(lc)))
			ereport(LOG,
					(errmsg("database \"%s\" of es.worker_databases does not exist",
							(char *) lfirst(lc)),
					 errhint("It gets a worker when it is created. Names in capital letters need double quotes.")));
		missing = lappend(missing, pstrdup(lfirst(lc)));
	}
	list_free_deep(before);
	MemoryContextSwitchTo(old);
}

static bool
is_listed(List *names, const char *name)
{
	ListCell *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* Starts and stops workers; returns after how many milliseconds to look again. */
static long
look_after_all(void)
{
	static uint32 releases = 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = TimestampTzPlusMilliseconds(now, IDLE_TIME);
	bool released = releases != EsWakeupReleases();
	int count;
	Oid *running = EsWakeupDatabases(&count);
	ListCell *lc;

	releases = EsWakeupReleases();
	foreach(lc, databases)
	{
		Database *database = lfirst(lc);
		TimestampTz then;

		if (released)
			database->failures = database->next_start = 0;
		then = look_after(database, now);
		next = Min(next, then);
		for (int i = 0; i < count; i++)
			if (running[i] == database->oid)
				running[i] = InvalidOid;
		if (database->wanted || database->handle != NULL || EsWakeupHasWorker(database->oid))
			continue;
		databases = foreach_delete_current(databases, lc);
		pfree(database);
	}
	for (int i = 0; i < count; i++)
		if (OidIsValid(running[i]))
			EsWakeupStop(running[i]);
	pfree(running);
	if (EsWorkerDatabases[0] != '\0')
		next = Min(next, TimestampTzPlusMilliseconds(now, EsWorkerNaptime));
	return TimestampDifferenceMilliseconds(now, next);
}

/* Starts or stops the worker of a database; returns when to look again, at the latest. */
static TimestampTz
look_after(Database *database, TimestampTz now)
{
	pid_t pid;

	if (database->handle != NULL &&
		GetBackgroundWorkerPid(database->handle, &pid) == BGWH_STOPPED)
	{
		pfree(database->handle);
		database->handle = NULL;
		if (now < TimestampTzPlusMilliseconds(database->started, STABLE_TIME))
			database->failures++;
		else
			database->failures = 0;
		database->next_start =
			TimestampTzPlusMilliseconds(now, retry_delay(database->failures));
	}

	if (database->handle != NULL || EsWakeupHasWorker(database->oid))
	{
		if (!database->wanted && database->handle != NULL)
			TerminateBackgroundWorker(database->handle);
		else if (!database->wanted)
			EsWakeupStop(database->oid);
		return DT_NOEND;
	}
	if (!database->wanted || EsWakeupIsHeld(database->oid))
		return DT_NOEND;
	if (now >= database->next_start)
		start_worker(database, now);
	return database->handle != NULL ? DT_NOEND : database->next_start;
}

/* Starts the worker of a database. */
static void
start_worker(Database *database, TimestampTz now)
{
	BackgroundWorker worker = {0};
	MemoryContext old;

	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_eventsourcing worker of database %u", database->oid);
	snprintf(worker.bgw_type, BGW_MAXLEN, "pg_eventsourcing worker");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), LIBRARY);
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "EsWorkerMain");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database->oid);
	worker.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(TopMemoryContext);
	if (RegisterDynamicBackgroundWorker(&worker, &database->handle))
		database->started = now;
	else
	{
		database->handle = NULL;
		if (database->failures++ == 0)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("could not start the worker of database \"%s\"", database->name),
					 errdetail("No background worker slot is free."),
					 errhint("You might need to increase max_worker_processes.")));
		database->next_start =
			TimestampTzPlusMilliseconds(now, retry_delay(database->failures));
	}
	MemoryContextSwitchTo(old);
}

/* Returns how many milliseconds to wait after so many failures in a row. */
static long
retry_delay(int failures)
{
	return Min((long) MIN_RETRY_DELAY << Min(failures, 10), MAX_RETRY_DELAY);
}
