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
 * rows reflect, and those above the mark are folded into the new rows once they
 * are in place.  To have few of them, the new rows are brought up to later marks
 * while everybody goes on.  Who appends later does so to the new rows.  Each event is
 * applied once.
 */
#include "postgres.h"

#include "access/table.h"
#include "catchup.h"
#include "foldlog.h"
#include "heaps.h"
#include "position.h"
#include "rebuild.h"
#include "state.h"
#include "swap.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define FOLLOW_UP_TO  100 /* events that may be left for the moment when writers wait */
#define FOLLOW_PASSES 10

typedef struct Rebuild
{
	EsProjection *projection;
	Relation target;
	EsHeaps *heaps;
	EsKey *key; /* of the part at work */
	int64 mark; /* the heap is built from the events up to here */
	EsApplied result;
} Rebuild;

static void build_heaps(Rebuild *rebuild);
static void write_part(const EsFoldedPart *part, void *arg);
static void write_state(EsStateEntry *entry, void *arg);
static void follow(Rebuild *rebuild);
static int64 catch_up(Rebuild *rebuild, int64 up_to, const EsStorage *storage);

EsApplied
EsRebuild(EsProjection *projection, Relation target)
{
	Rebuild *rebuild;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsApplied result;

	rebuild = palloc0(sizeof(Rebuild));
	rebuild->projection = projection;
	rebuild->target = target;
	rebuild->heaps = EsHeapsOpen(target);
	rebuild->mark = EsHighWaterMark();
	build_heaps(rebuild);

	EsHeapsFinish(rebuild->heaps);
	follow(rebuild);
	rebuild->result.rows += EsHeapsSwap(rebuild->heaps);
	catch_up(rebuild, Max(rebuild->mark, EsProjectionBound(projection)), NULL);
	EsSwapCheckForeignKeys(EsHeapsTables(rebuild->heaps));

	result = rebuild->result;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/* Fills the new heaps. */
static void
build_heaps(Rebuild *rebuild)
{
	EsFoldSpec spec = {.projection = rebuild->projection,
					   .target = rebuild->target,
					   .up_to_position = rebuild->mark};
	EsFolded folded;

	PushActiveSnapshot(GetLatestSnapshot());
	folded = EsFoldLog(&spec, write_part, rebuild);
	PopActiveSnapshot();
	rebuild->result.events = folded.events;
	rebuild->result.up_to_position = folded.up_to_position;
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
 * Folds into the new rows, before they take the table's place, what has been
 * appended meanwhile, until little is left for the moment when writers wait.
 */
static void
follow(Rebuild *rebuild)
{
	EsStorage *storage = EsHeapsStorage(rebuild->heaps);
	int64 events = FOLLOW_UP_TO;

	if (storage == NULL)
		return;
	for (int pass = 0; pass < FOLLOW_PASSES && events >= FOLLOW_UP_TO; pass++)
		events = catch_up(rebuild, Max(rebuild->mark, EsHighWaterMark()), storage);
	table_close(storage->heap, NoLock);
}

/*
 * Folds into the new rows the events above the mark and up to a position, which
 * becomes the mark, and fires no triggers.  Returns how many there were.
 */
static int64
catch_up(Rebuild *rebuild, int64 up_to, const EsStorage *storage)
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
