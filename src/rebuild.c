/*
 * rebuild.c
 *	  Building a state table anew from the log.
 *
 * The new rows go into a heap beside the table, or one beside each of its
 * partitions (heaps.c), which then takes the place of the table's own, as in
 * REFRESH MATERIALIZED VIEW: the table keeps its OID, and so its views, foreign
 * keys, grants and triggers.  Indexes are built once all rows are written, beside
 * the table's own, and take their place.  Rows are written frozen; a transaction
 * whose snapshot is older sees the new rows rather than none.
 *
 * Writers.  The log is folded up to the high-water mark while readers and
 * writers of the table go on: the caller's ShareUpdateExclusiveLock keeps out
 * only DDL and another rebuild.  Then AccessExclusiveLock is taken.  It waits
 * for every transaction that has applied the projection, since those hold
 * RowExclusiveLock from before they got a position; those that wait for the
 * table have not got theirs.  So a fresh snapshot shows all events that the old
 * rows reflect, and those above the mark are folded into the new rows.  To have
 * few of them, the new rows are brought up to later marks while everybody goes
 * on.  Who appends later does so to the new rows.  Each event is applied once.
 *
 * Parallel workers may do the folding (see parallel.c).  If an apply function
 * fails in one, then perhaps because an event came too early for it, which a
 * worker can't find out.  So all that the workers have done is rolled back, and
 * done again without them: either it succeeds, or the error names the event
 * that is to blame.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catchup.h"
#include "errors.h"
#include "failure.h"
#include "foldlog.h"
#include "heaps.h"
#include "parallel.h"
#include "position.h"
#include "rebuild.h"
#include "state.h"
#include "swap.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

typedef struct Rebuild
{
	EsProjection *projection;
	Relation target;
	EsHeaps *heaps;
	EsKey *key; /* of the part at work */
	int64 mark; /* the heap is built from the events up to here */
	EsApplied result;
} Rebuild;

static void build_heaps(Rebuild *rebuild, int nworkers);
static bool build_in_parallel(Rebuild *rebuild, const EsFoldSpec *spec, int nworkers,
							  EsFolded *folded);
static bool try_workers(Rebuild *rebuild, const EsFoldSpec *spec, int nworkers, EsFolded *folded);
static void write_rows(EsKey *key, EsStateEntry *rows, int nrows, void *arg);
static void write_part(const EsFoldedPart *part, void *arg);
static void write_state(EsStateEntry *entry, void *arg);
static void finish(Rebuild *rebuild);
static void follow(Rebuild *rebuild, EsStorage *storage);
static int64 catch_up(Rebuild *rebuild, int64 up_to, EsStorage *storage);

EsApplied
EsRebuild(EsProjection *projection, Relation target, int nworkers)
{
	Rebuild *rebuild;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsApplied result;

	rebuild = palloc0(sizeof(Rebuild));
	rebuild->projection = projection;
	rebuild->target = target;
	rebuild->mark = EsHighWaterMark();
	build_heaps(rebuild, nworkers);

	EsHeapsBuildIndexes(rebuild->heaps);
	finish(rebuild);
	EsSwapCheckForeignKeys(EsHeapsTables(rebuild->heaps));

	result = rebuild->result;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/* Makes new heaps and fills them. */
static void
build_heaps(Rebuild *rebuild, int nworkers)
{
	EsFoldSpec spec = {.projection = rebuild->projection,
					   .target = rebuild->target,
					   .up_to_position = rebuild->mark};
	EsFolded folded;

	nworkers = EsParallelWorkers(rebuild->projection, rebuild->target, nworkers);
	if (nworkers == 0 || !build_in_parallel(rebuild, &spec, nworkers, &folded))
	{
		rebuild->heaps = EsHeapsOpen(rebuild->target);
		PushActiveSnapshot(GetLatestSnapshot());
		folded = EsFoldLog(&spec, write_part, rebuild);
		PopActiveSnapshot();
		EsHeapsClose(rebuild->heaps);
	}
	rebuild->result.events = folded.events;
	rebuild->result.up_to_position = folded.up_to_position;
}

/*
 * Makes and fills the heaps with workers; false: there are none, or something
 * has failed that may not fail without them.
 */
static bool
build_in_parallel(Rebuild *rebuild, const EsFoldSpec *spec, int nworkers, EsFolded *folded)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;
	volatile bool failed = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		done = try_workers(rebuild, spec, nworkers, folded);
		if (done)
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ES_ERRCODE_PROJECTION_FAILED && !EsFailureToBlame(error))
			ReThrowError(error);
		ereport(DEBUG1,
				(errmsg_internal("parallel replay starts again without workers: %s", error->message)));
		EsProjectionReset(rebuild->projection);
		done = false;
		failed = true;
	}
	PG_END_TRY();
	if (!done && !failed)
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

static bool
try_workers(Rebuild *rebuild, const EsFoldSpec *spec, int nworkers, EsFolded *folded)
{
	bool done;

	rebuild->heaps = EsHeapsOpen(rebuild->target);
	EsHeapsMakeAll(rebuild->heaps);
	(void) GetCurrentTransactionId();
	PushActiveSnapshot(GetLatestSnapshot());
	done = EsParallelFold(spec, nworkers, write_rows, rebuild, folded);
	PopActiveSnapshot();
	EsHeapsClose(rebuild->heaps);
	return done;
}

/* Writes rows that workers have folded, as the projection's owner. */
static void
write_rows(EsKey *key, EsStateEntry *rows, int nrows, void *arg)
{
	Rebuild *rebuild = arg;
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	EsProjectionAct(rebuild->projection, &acting);
	PG_TRY();
	{
		for (int i = 0; i < nrows; i++)
			EsHeapsWrite(rebuild->heaps, key, &rows[i]);
		EsHeapsFlush(rebuild->heaps);
	}
	PG_CATCH();
	{
		EsProjectionFailed(rebuild->projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
}

/* Writes the states of a part, as the projection's owner. */
static void
write_part(const EsFoldedPart *part, void *arg)
{
	Rebuild *rebuild = arg;
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	rebuild->key = part->key;
	EsProjectionAct(rebuild->projection, &acting);
	PG_TRY();
	{
		EsStatesVisit(part->states, write_state, rebuild);
		EsHeapsFlush(rebuild->heaps);
	}
	PG_CATCH();
	{
		EsProjectionFailed(rebuild->projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
}

static void
write_state(EsStateEntry *entry, void *arg)
{
	Rebuild *rebuild = arg;

	EsHeapsWrite(rebuild->heaps, rebuild->key, entry);
}

/*
 * Brings the new rows up to date and puts them in the table's place.  They are
 * complete before they get there: to logical replication, which has sent the same
 * changes from the old rows, later ones would be changes of the table.
 */
static void
finish(Rebuild *rebuild)
{
	EsStorage *storage = EsHeapsStorage(rebuild->heaps);

	follow(rebuild, storage);
	EsHeapsLock(rebuild->heaps);
	catch_up(rebuild, Max(rebuild->mark, EsProjectionBound(rebuild->projection)), storage);
	rebuild->result.rows += EsHeapsSwap(rebuild->heaps);
}

/*
 * Folds into the new rows, before they take the table's place, what has been
 * appended meanwhile, until little is left for the moment when writers wait.
 */
static void
follow(Rebuild *rebuild, EsStorage *storage)
{
	int64 events = ES_SWAP_EVENTS;

	for (int pass = 0; pass < ES_SWAP_PASSES && events >= ES_SWAP_EVENTS; pass++)
		events = catch_up(rebuild, Max(rebuild->mark, EsHighWaterMark()), storage);
}

/*
 * Folds into the new rows the events above the mark and up to a position, which
 * becomes the mark, and fires no triggers.  Returns how many there were.
 */
static int64
catch_up(Rebuild *rebuild, int64 up_to, EsStorage *storage)
{
	EsRange range = {.after = rebuild->mark, .up_to = up_to, .max_events = PG_INT64_MAX};
	EsApplied caught_up =
		EsCatchUp(rebuild->projection, rebuild->target, range, true, storage);

	rebuild->result.bound = caught_up.bound;
	rebuild->result.events += caught_up.events;
	rebuild->result.rows += caught_up.rows;
	if (caught_up.up_to_position > rebuild->mark)
		rebuild->result.up_to_position = caught_up.up_to_position;
	rebuild->mark = up_to;
	return caught_up.events;
}
