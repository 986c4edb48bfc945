/*
 * progress.c
 *	  That this session replays, and how far it is.
 *
 * The figures go where VACUUM or CREATE INDEX put theirs, into the backend's
 * entry of the activity statistics: so they are seen by every session, need no
 * library preloaded, and are gone when the transaction ends in whatever way.
 * The command's number is one that PostgreSQL's own views don't look for.
 *
 * PostgreSQL's functions that swap a heap and build indexes report to the same
 * slots, whether or not the command is theirs; ours are some that they leave
 * alone.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "compat.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "progress.h"
#include "utils/backend_progress.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "version.h"

#define PROGRESS_COMMAND 0x4553 /* a ProgressCommandType of our own */

/* Slots that we report to. */
#define SLOT_STARTED 13
#define SLOT_PHASE   17
#define SLOT_DONE    18
#define SLOT_TOTAL   19

static const char *const phases[] = {
	[0] = "starting",
	[ES_PHASE_FOLDING] = "folding",
	[ES_PHASE_WAITING] = "waiting for transactions",
	[ES_PHASE_INDEXING] = "building indexes",
	[ES_PHASE_CATCHING_UP] = "catching up",
	[ES_PHASE_CHECKING] = "checking foreign keys",
};

/* The replay that is going on. */
static bool replaying = false;
static char name[NAMEDATALEN * 2];
static Oid target;
static EsPhase current_phase;
static int64 done;
static int64 total;
static TimestampTz started;
static TimestampTz last_message;
static pg_atomic_uint64 *shared_done = NULL;

static void report(void);
static void tell_client(void);

ES_FUNCTION_INFO_V1(es_is_replaying);
ES_FUNCTION_INFO_V1(es_replays);

EsReplayState
EsReplayBegin(const char *projection, Oid table)
{
	EsReplayState state = {.outer = replaying};

	if (replaying)
		return state;
	replaying = true;
	strlcpy(name, projection, sizeof(name));
	target = table;
	current_phase = 0;
	done = 0;
	total = 0;
	started = last_message = GetCurrentTimestamp();
	report();
	return state;
}

void
EsReplayEnd(EsReplayState state)
{
	replaying = state.outer;
	if (replaying)
		return;
	shared_done = NULL;
	pgstat_progress_end_command();
}

bool
EsReplaying(void)
{
	return replaying;
}

/* es.is_replaying(): says whether this session is replaying. */
Datum
es_is_replaying(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(replaying);
}

void
EsProgressPhase(EsPhase phase)
{
	current_phase = phase;
	report();
}

void
EsProgressExpect(int64 events)
{
	total = done + events;
	report();
}

void
EsProgressAdd(int64 events)
{
	if (shared_done != NULL)
	{
		(void) pg_atomic_fetch_add_u64(shared_done, events);
		return;
	}
	if (!replaying)
		return;
	done += events;
	report();
	tell_client();
}

void
EsProgressShare(pg_atomic_uint64 *counter)
{
	shared_done = counter;
}

/*
 * Makes the figures known.  The end of a subtransaction that is rolled back is
 * for PostgreSQL the end of the command, so it is begun again.
 */
static void
report(void)
{
	static const int slots[] = {SLOT_STARTED, SLOT_PHASE, SLOT_DONE, SLOT_TOTAL};
	int64 values[] = {started, current_phase, done, total};

	if (!replaying || shared_done != NULL || MyBEEntry == NULL)
		return;
	if (MyBEEntry->st_progress_command != (ProgressCommandType) PROGRESS_COMMAND)
		pgstat_progress_start_command((ProgressCommandType) PROGRESS_COMMAND, target);
	pgstat_progress_update_multi_param(lengthof(slots), slots, values);
}

/* Sends a message, unless the last one was sent just now. */
static void
tell_client(void)
{
	TimestampTz now = GetCurrentTimestamp();
	double seconds = (now - started) / (double) USECS_PER_SEC;
	double rate = done / Max(seconds, 0.001);

	if (EsProgressInterval == 0 || now < last_message + EsProgressInterval * INT64CONST(1000))
		return;
	last_message = now;
	ereport(INFO,
			(errmsg("replay of \"%s\": " INT64_FORMAT " of about " INT64_FORMAT
					" events, %.0f per second, %.0f s left",
					name, done, Max(done, total), rate, Max(total - done, 0) / Max(rate, 1))));
}

/* es.replays(): the replays in this database, as the statistics have them. */
Datum
es_replays(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result;
	int backends = pgstat_fetch_stat_numbackends();

	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;
	for (int i = 1; i <= backends; i++)
	{
		PgBackendStatus *backend = &EsLocalBackendEntry(i)->backendStatus;
		int64 phase = backend->st_progress_param[SLOT_PHASE];
		Datum values[6];
		bool nulls[6] = {false};

		if (backend->st_progress_command != (ProgressCommandType) PROGRESS_COMMAND ||
			backend->st_databaseid != MyDatabaseId)
			continue;
		values[0] = Int32GetDatum(backend->st_procpid);
		values[1] = ObjectIdGetDatum(backend->st_progress_command_target);
		values[2] = CStringGetTextDatum(phase >= 0 && phase < lengthof(phases) ? phases[phase] : "");
		values[3] = Int64GetDatum(backend->st_progress_param[SLOT_DONE]);
		values[4] = Int64GetDatum(backend->st_progress_param[SLOT_TOTAL]);
		values[5] = TimestampTzGetDatum(backend->st_progress_param[SLOT_STARTED]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
