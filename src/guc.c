/*
 * guc.c
 *	  Settings of pg_eventsourcing.
 */
#include "postgres.h"

#include <limits.h>

#include "guc.h"
#include "postmaster/bgworker_internals.h"
#include "utils/guc.h"
#include "utils/varlena.h"

int EsMaxAggregateLocks = 1000;
int EsReplayMemory = 256 * 1024;
int EsReplayWorkers = 2;
int EsProgressInterval = 2000;
bool EsRestore = false;
char *EsWorkerDatabases = NULL;
int EsWorkerNaptime = 1000;

static bool check_databases(char **value, void **extra, GucSource source);

/* Defines the settings and reserves the prefix "es". */
void
EsGucInit(void)
{
	DefineCustomIntVariable("es.max_aggregate_locks",
							"Sets how many aggregates one transaction locks at most.",
							"Further aggregates of the transaction are serialised by waiting for "
							"each other's transaction instead of a lock of their own.",
							&EsMaxAggregateLocks, 1000, 0, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("es.progress_interval",
							"Sets how often a replay tells the client how far it is.",
							"Zero turns these messages off.",
							&EsProgressInterval, 2000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("es.replay_memory",
							"Sets the memory that a replay may use to hold states.",
							"A replay whose states do not fit reads the log once per part that does.",
							&EsReplayMemory, 256 * 1024, 64, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("es.replay_workers",
							"Sets how many parallel workers a replay uses.",
							"Zero lets the session do all of it. No more are started than "
							"max_parallel_workers allows.",
							&EsReplayWorkers, 2, 0, MAX_PARALLEL_WORKER_LIMIT,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("es.restore",
							 "Loads events with the position, version and recorded_at they come with.",
							 "Projections do not run. For superusers and the extension's owner.",
							 &EsRestore, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("es.worker_databases",
							   "Sets the databases in which a worker runs the async projections.",
							   "A list of names. It needs the library in shared_preload_libraries.",
							   &EsWorkerDatabases, "",
							   PGC_SIGHUP, GUC_LIST_INPUT, check_databases, NULL, NULL);
	DefineCustomIntVariable("es.worker_naptime",
							"Sets how often a worker looks for what nobody tells it.",
							"It is told of events at once.",
							&EsWorkerNaptime, 1000, 10, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	MarkGUCPrefixReserved("es");
}

/* Checks that es.worker_databases is a list of names. */
static bool
check_databases(char **value, void **extra, GucSource source)
{
	char *copy = pstrdup(*value);
	List *names = NIL;
	bool valid = SplitIdentifierString(copy, ',', &names);

	list_free(names);
	pfree(copy);
	if (!valid)
		GUC_check_errdetail("List syntax is invalid.");
	return valid;
}
