/*
 * async.c
 *	  Projections that run behind the writers: es.run_projections() and others.
 *
 * A run reads the settled events above the projection's checkpoint, applies
 * them and moves the checkpoint in one transaction, so every event is applied
 * exactly once whatever happens to the session.  Settled is what lies at or
 * below the high-water mark; the snapshot is taken after the mark.
 *
 * Locks: RowExclusiveLock on the state table, which a replay and DDL wait for,
 * then the checkpoint's lock, which lets one session at a time bring the table
 * up to date.  Readers and writers of the log wait for neither.  Who runs all
 * projections locks them first, in the order of their tables' OIDs.
 *
 * Errors.  Events are applied in chunks, each in a subtransaction.  If one
 * fails, the events before the one to blame are applied on their own.  A batch
 * statement doesn't tell which event is to blame, so the chunk is halved until
 * it is found.  Then the projection stops there, or the event is parked.
 * Errors that no event is to blame for (a cancel, a serialization failure) end
 * the transaction as ever.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "argument.h"
#include "async.h"
#include "catalog.h"
#include "catchup.h"
#include "checkpoint.h"
#include "compat.h"
#include "datatype/timestamp.h"
#include "errors.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "logscan.h"
#include "miscadmin.h"
#include "position.h"
#include "projection.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "version.h"
#include "wakeup.h"

#define CHUNK         10000  /* events that are applied together */
#define FOLD_CHUNK    100000 /* the same for folds: each row that they change is written once */
#define MAX_FAILURES  100    /* events that are parked in a batch of the worker's */
#define POLL_INTERVAL 20     /* milliseconds between two looks, unless the worker tells */
#define MAX_WAIT      100    /* also if it does: another session may run the projection */

/* Bringing one projection up to date. */
typedef struct Run
{
	EsProjection *projection;
	Relation target;
	EsCheckpoint checkpoint;
	MemoryContext context; /* that the checkpoint is in */
	int64 mark;            /* settled up to here */
	int64 up_to;           /* of the next chunk */
	int64 chunk;           /* events in it at most */
	int64 events;          /* applied */
	int64 failures;        /* events parked */
	bool narrowed;         /* the chunk ends before the event at which the last one has failed */
} Run;

/* A projection that may be behind. */
typedef struct Candidate
{
	char *name;
	Oid target;
	int64 position;
} Candidate;

ES_FUNCTION_INFO_V1(es_run_projections);
ES_FUNCTION_INFO_V1(es_wait_for);

static int64 run_all(int64 max_events);
static void lock_all(List *list);
static List *candidates(void);
static int compare_targets(const ListCell *a, const ListCell *b);
static int compare_positions(const ListCell *a, const ListCell *b);
static int64 run_projection(const char *name, int64 max_events, int64 max_failures, bool named,
							bool *more);
static bool open_run(Run *run, const char *name, bool named);
static EsProjection *open_listed(const char *name, Relation *target);
static void run_chunks(Run *run, int64 max_events, int64 max_failures);
static ErrorData *try_chunk(Run *run, EsRange range, EsApplied *applied);
static void handle_error(Run *run, ErrorData *error, int64 limit);
static void blame_event(Run *run, int64 position, ErrorData *error);
static const char *cause_of(ErrorData *error, const char *name);
static bool has_reached(const char *name, int64 position);
static bool is_visible(int64 position);

/*
 * es.run_projections(): brings async projections up to date, and returns how
 * many events were applied.
 */
Datum
es_run_projections(PG_FUNCTION_ARGS)
{
	int64 max_events = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT64(1);
	int64 events;

	EsRefuseReadOnly("es.run_projections()");
	EsRefuseFixedSnapshot("es.run_projections()");
	if (max_events < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_events must not be negative")));
	EsProjectionsEnter();
	if (PG_ARGISNULL(0))
		events = run_all(max_events);
	else
		events = run_projection(text_to_cstring(PG_GETARG_TEXT_PP(0)), max_events, PG_INT64_MAX,
								true, NULL);
	EsProjectionsLeave();
	EsHighWaterMarkPublish(EsHighWaterMark());
	PG_RETURN_INT64(events);
}

/*
 * es.wait_for(): waits until the projection's rows reflect the log up to a
 * position; false: not in time.
 */
Datum
es_wait_for(PG_FUNCTION_ARGS)
{
	TimestampTz end = DT_NOEND;
	MemoryContext context;
	MemoryContext old;
	char *name;
	bool reached;
	TimestampTz now;

	PreventCommandIfParallelMode("es.wait_for()");
	EsRefuseFixedSnapshot("es.wait_for()");
	name = EsTextArgument(fcinfo, 0, "projection", true);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("at_position must not be null")));
	if (!PG_ARGISNULL(2))
		end = DatumGetTimestampTz(
			DirectFunctionCall2(timestamptz_pl_interval,
								TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(2)));

	context = AllocSetContextCreate(CurrentMemoryContext, "es wait", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	while (!(reached = has_reached(name, PG_GETARG_INT64(1))) &&
		   (now = GetCurrentTimestamp()) < end)
	{
		EsWakeupSleep(ES_WAKEUP_RUN, Min(TimestampDifferenceMilliseconds(now, end), MAX_WAIT),
					  POLL_INTERVAL);
		MemoryContextReset(context);
	}
	EsWakeupSleepEnd();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	PG_RETURN_BOOL(reached);
}

List *
EsAsyncBehind(int64 mark)
{
	List *list;
	List *names = NIL;
	ListCell *lc;

	EsProjectionsEnter();
	list = candidates();
	EsProjectionsLeave();
	list_sort(list, compare_positions);
	foreach(lc, list)
	{
		Candidate *candidate = lfirst(lc);

		if (candidate->position < mark)
			names = lappend(names, candidate->name);
	}
	return names;
}

/*
 * The lock on the table is asked for here first; EsProjectionOpenOwned() gets
 * it again, or opens another table if the projection has got one meanwhile.
 */
bool
EsAsyncRun(const char *name, int64 max_events, bool *more)
{
	EsProjection *projection;
	Oid target;

	*more = false;
	EsProjectionsEnter();
	projection = EsProjectionLookup(name);
	if (projection == NULL)
	{
		EsProjectionsLeave();
		return true;
	}
	target = projection->target;
	if (ConditionalLockRelationOid(target, RowExclusiveLock) && EsCheckpointTryLock(target))
		(void) run_projection(name, max_events, MAX_FAILURES, false, more);
	else
		target = InvalidOid;
	EsProjectionsLeave();
	return OidIsValid(target);
}

/* Brings all async projections of the current user's up to date, the furthest behind first. */
static int64
run_all(int64 max_events)
{
	List *list = candidates();
	int64 events = 0;
	ListCell *lc;

	lock_all(list);
	list_sort(list, compare_positions);
	foreach(lc, list)
	{
		Candidate *candidate = lfirst(lc);

		if (events >= max_events)
			break;
		events += run_projection(candidate->name, max_events - events, PG_INT64_MAX, false, NULL);
	}
	return events;
}

/*
 * Locks projections in an order that is the same for everybody, so that those who
 * run them all don't deadlock; then finds out how far they are.
 */
static void
lock_all(List *list)
{
	ListCell *lc;

	list_sort(list, compare_targets);
	foreach(lc, list)
	{
		Candidate *candidate = lfirst(lc);
		EsCheckpoint checkpoint;

		LockRelationOid(candidate->target, RowExclusiveLock);
		EsCheckpointLock(candidate->target);
		if (EsCheckpointRead(candidate->name, &checkpoint))
			candidate->position = checkpoint.position;
	}
}

/* Returns the projections that may have to be brought up to date. */
static List *
candidates(void)
{
	List *list = NIL;
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);
		Candidate *candidate;
		EsCheckpoint checkpoint;

		if (!projection->async || !projection->enabled || !EsProjectionIsOwned(projection) ||
			!EsCheckpointRead(projection->name, &checkpoint) || checkpoint.stopped)
			continue;
		candidate = palloc(sizeof(Candidate));
		candidate->name = pstrdup(projection->name);
		candidate->target = projection->target;
		candidate->position = checkpoint.position;
		list = lappend(list, candidate);
	}
	return list;
}

static int
compare_targets(const ListCell *a, const ListCell *b)
{
	Oid ta = ((Candidate *) lfirst(a))->target;
	Oid tb = ((Candidate *) lfirst(b))->target;

	return ta < tb ? -1 : ta > tb;
}

static int
compare_positions(const ListCell *a, const ListCell *b)
{
	int64 pa = ((Candidate *) lfirst(a))->position;
	int64 pb = ((Candidate *) lfirst(b))->position;

	return pa < pb ? -1 : pa > pb;
}

/*
 * Brings one projection up to date, or part of the way: then there is more to do.
 * named: it was asked for by name, so it is run even if an error has stopped it.
 */
static int64
run_projection(const char *name, int64 max_events, int64 max_failures, bool named, bool *more)
{
	Run run = {.context = CurrentMemoryContext};
	EsCheckpoint before;

	if (open_run(&run, name, named))
	{
		before = run.checkpoint;
		run_chunks(&run, max_events, max_failures);
		if (memcmp(&before, &run.checkpoint, sizeof(EsCheckpoint)) != 0)
			EsCheckpointWrite(name, &run.checkpoint);
		if (more != NULL)
			*more = run.checkpoint.position < run.mark && !run.checkpoint.stopped;
	}
	if (run.target != NULL)
		table_close(run.target, NoLock);
	return run.events;
}

/* Locks and opens what the run needs; false: there is nothing to run. */
static bool
open_run(Run *run, const char *name, bool named)
{
	run->projection = named ? EsProjectionOpenOwned(name, RowExclusiveLock, &run->target)
							: open_listed(name, &run->target);
	if (run->projection == NULL)
		return false;
	if (!run->projection->enabled && named)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is disabled", name),
				 errhint("Enable it with es.alter_projection().")));
	if (!run->projection->enabled || !run->projection->async ||
		(run->projection->apply == NULL && run->projection->statements == NIL))
		return false;
	EsCheckpointLock(run->projection->target);
	(void) EsCheckpointRead(name, &run->checkpoint);
	if (run->checkpoint.stopped && !named)
		return false;
	return true;
}

/* Opens a projection that nobody has named; null: it was dropped, or given to another role. */
static EsProjection *
open_listed(const char *name, Relation *target)
{
	EsProjection *projection;

	do
	{
		projection = EsProjectionLookup(name);
		if (projection == NULL || !EsProjectionIsOwned(projection))
			return NULL;
		*target = EsProjectionOpen(projection, RowExclusiveLock);
	} while (*target == NULL);
	return projection;
}

/*
 * Applies the settled events above the checkpoint, chunk by chunk.  What a chunk has
 * allocated goes before the next one, for there may be many that fail.
 */
static void
run_chunks(Run *run, int64 max_events, int64 max_failures)
{
	EsCheckpoint *checkpoint = &run->checkpoint;
	int64 largest = run->projection->apply != NULL ? FOLD_CHUNK : CHUNK;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es chunk",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	if (checkpoint->stopped)
		EsCheckpointForgetError(checkpoint);
	run->mark = EsHighWaterMark();
	run->up_to = run->mark;
	run->chunk = largest;
	while (checkpoint->position < run->mark && !checkpoint->stopped &&
		   run->events < max_events && run->failures < max_failures)
	{
		EsRange range = {
			.after = checkpoint->position,
			.up_to = run->up_to,
			.max_events = Min(run->chunk, max_events - run->events),
		};
		EsApplied applied;
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		error = try_chunk(run, range, &applied);
		if (error != NULL)
		{
			handle_error(run, error, range.max_events);
			continue;
		}
		run->narrowed = false;
		run->events += applied.events;
		checkpoint->position = applied.all ? run->up_to : applied.up_to_position;
		if (checkpoint->position == run->up_to)
			run->up_to = run->mark;
		run->chunk = Min(run->chunk * 2, largest);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Applies a chunk, or nothing: then it returns the error. */
static ErrorData *
try_chunk(Run *run, EsRange range, EsApplied *applied)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	/* What fails may be another projection, of events that this one's code appends. */
	run->projection->failed_position = 0;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*applied = EsCatchUp(run->projection, run->target, range, false, NULL);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ES_ERRCODE_PROJECTION_FAILED)
			ReThrowError(error);
		EsProjectionRecover(run->projection);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Narrows the next chunk down, until the event is found that is to blame.  If the
 * events before the one at which a chunk has failed fail as well, that was where a
 * row was to be written, and an earlier event is to blame: then it is searched for
 * by halves.
 */
static void
handle_error(Run *run, ErrorData *error, int64 limit)
{
	int64 position = run->projection->failed_position;

	if (position != 0 && (run->projection->batch || run->narrowed) && limit > 1)
		run->chunk = limit / 2;
	else if (position > run->checkpoint.position + 1)
	{
		run->up_to = position - 1;
		run->narrowed = true;
	}
	else
		blame_event(run, position, error);
}

/* Stops at an event that can't be applied (0: it is not known which), or parks it. */
static void
blame_event(Run *run, int64 position, ErrorData *error)
{
	const char *name = run->projection->name;
	const char *cause = cause_of(error, name);

	run->checkpoint.error = MemoryContextStrdup(run->context, cause);
	run->checkpoint.error_position = position;
	if (run->projection->park && position != 0)
	{
		EsCheckpointPark(name, position, cause);
		run->checkpoint.position = position;
		run->up_to = run->mark;
		run->failures++;
		ereport(WARNING,
				(errmsg("projection \"%s\" parked the event at position " INT64_FORMAT, name,
						position),
				 errdetail_internal("%s", cause),
				 errhint("See es.parked_events and es.retry_parked().")));
		return;
	}
	run->checkpoint.stopped = true;
	ereport(WARNING,
			(position == 0 ? errmsg("projection \"%s\" is stopped", name) : errmsg("projection \"%s\" is stopped at position " INT64_FORMAT, name, position),
			 errdetail_internal("%s", cause),
			 errhint("When the cause is removed, es.run_projections('%s') goes on.", name)));
}

/* Returns an error's message without the words that name the projection. */
static const char *
cause_of(ErrorData *error, const char *name)
{
	char *prefix = psprintf("projection \"%s\" failed: ", name);
	size_t length = strlen(prefix);

	return strncmp(error->message, prefix, length) == 0 ? error->message + length : error->message;
}

/* Says whether the projection's rows reflect the log up to a position. */
static bool
has_reached(const char *name, int64 position)
{
	EsProjection *projection;
	EsCheckpoint checkpoint;
	bool live;

	EsProjectionsEnter();
	projection = EsProjectionFind(name);
	live = EsProjectionIsLive(projection);
	EsProjectionsLeave();
	if (live)
		return is_visible(position) || position <= EsHighWaterMark();
	return EsCheckpointRead(name, &checkpoint) && checkpoint.position >= position;
}

/* Says whether there is an event at the position, as of now. */
static bool
is_visible(int64 position)
{
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	EsLogScan scan = EsLogScanBegin(events, snapshot, Max(position, 1) - 1, position);
	TupleTableSlot *event = table_slot_create(events, NULL);
	bool found = EsLogScanNext(&scan, event, &position);

	ExecDropSingleTupleTableSlot(event);
	EsLogScanEnd(&scan);
	UnregisterSnapshot(snapshot);
	table_close(events, AccessShareLock);
	return found;
}
