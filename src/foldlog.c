/*
 * foldlog.c
 *	  Folding the log into states.
 *
 * Order.  The log is read in physical order, which is cheaper by far than the
 * order of an index.  An aggregate's events lie nearly always in the order of
 * their positions, but not surely: writers fill different pages, and pages
 * that a rolled-back transaction left empty are filled again.  So each state
 * remembers the last position folded into it.  If an earlier one turns up, the
 * state is thrown away, and folded anew in a second pass which reads the log
 * in position order and looks at such states only.  If the apply function
 * fails in the first pass, the second one looks at all states.
 *
 * Memory.  If the states outgrow es.replay_memory, only those are kept whose
 * key's hash lies in the first half of what is still to do, and the pass
 * starts again: the log is read once for each part of the keys that fits.
 *
 * Parallel workers fold a slice of the keys each (see parallel.c).  A worker
 * can't start a subtransaction, so an error of the first pass is left to the
 * leader, which folds everything itself then.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "failure.h"
#include "foldlog.h"
#include "guc.h"
#include "miscadmin.h"
#include "position.h"
#include "progress.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define READ_BATCH    64 /* events whose states are prefetched together */
#define READ_AHEAD    16 /* events of a chunk fetched into the processor's cache */
#define MAX_PART_BITS 31
#define PROGRESS_STEP 1000 /* events read between two reports */

/* An event that has been read, to be folded with others. */
typedef struct ReadEvent
{
	TupleTableSlot *event;
	HeapTupleData tuple; /* of event */
	int64 position;
	uint32 hash;
	Datum key[INDEX_MAX_KEYS];
} ReadEvent;

typedef struct LogFold
{
	const EsFoldSpec *spec;
	bool filtered; /* spec leaves out events by their time or id */
	EsFold *fold;
	Relation events;
	Snapshot snapshot;
	TupleTableSlot *scanned; /* of the log's scan */
	Buffer page;             /* that all events of the batch are in */
	ReadEvent batch[READ_BATCH];
	int nbatch;
	TupleTableSlot *event; /* at work, to name it in an error; or null */
	EsFoldedPart part;
	bool misordered;     /* some states must be folded in position order ... */
	bool all_misordered; /* ... or all of them */
	Size max_memory;     /* of the states */
	int64 part_events;
	int64 estimate;   /* events in the log */
	int64 unreported; /* read since progress was reported */
	EsFolded result;
} LogFold;

static void begin(LogFold *log, const EsFoldSpec *spec);
static void compile(LogFold *log);
static void fold_parts(LogFold *log, EsPartTaker take, void *arg, MemoryContext caller);
static bool fold_part(LogFold *log);
static void start_part(LogFold *log);
static bool fold_in_any_order(LogFold *log);
static bool try_physical_order(LogFold *log, bool *fits);
static bool fold_in_physical_order(LogFold *log);
static bool fold_from_feed(LogFold *log);
static void fill_chunk(LogFold *log, TableScanDesc scan, EsFeedChunk *chunk);
static bool fold_chunk(LogFold *log, EsFeedChunk *chunk);
static bool fold_in_position_order(LogFold *log);
static bool take_event(LogFold *log, bool in_position_order);
static void count_read(LogFold *log);
static bool is_wanted(LogFold *log, ReadEvent *read);
static bool has_parked(const EsFoldSpec *spec, int64 position);
static int compare_ids(const void *a, const void *b);
static int compare_positions(const void *a, const void *b);
static bool stays_in_page(LogFold *log);
static ReadEvent *store_event(LogFold *log);
static bool fold_batch(LogFold *log, bool in_position_order);
static void fold_event(LogFold *log, ReadEvent *read, bool in_position_order);
static void clear_batch(LogFold *log);
static void forget_misordered(EsStateEntry *entry, void *arg);
static void end(LogFold *log);

EsFolded
EsFoldLog(const EsFoldSpec *spec, EsPartTaker take, void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es fold log",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	LogFold *log = palloc0(sizeof(LogFold));
	EsReplayState state;
	EsFolded result;

	state = EsReplayBegin(spec->projection->name, spec->projection->target);
	PG_TRY();
	{
		EsProgressPhase(ES_PHASE_FOLDING);
		begin(log, spec);
		fold_parts(log, take, arg, caller);
		end(log);
	}
	PG_FINALLY();
	{
		EsReplayEnd(state);
	}
	PG_END_TRY();
	result = log->result;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return result;
}

void
EsFoldAct(const EsFoldSpec *spec, EsActing *acting)
{
	if (OidIsValid(spec->function))
		EsActingBegin(acting, spec->projection->owner, spec->projection->settings);
	else
		EsProjectionAct(spec->projection, acting);
}

static void
begin(LogFold *log, const EsFoldSpec *spec)
{
	log->spec = spec;
	log->part.slices = Max(spec->slices, 1);
	log->part.slice = spec->slice;
	log->max_memory = (Size) EsReplayMemory * 1024 / log->part.slices;
	log->filtered = spec->as_of != NULL || spec->nexcluded > 0 || spec->nparked > 0;
	compile(log);
	log->events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	log->estimate = EsLogEstimate();
	log->snapshot = GetActiveSnapshot();
	log->scanned = table_slot_create(log->events, NULL);
	for (int i = 0; i < READ_BATCH; i++)
		log->batch[i].event =
			MakeSingleTupleTableSlot(RelationGetDescr(log->events), &TTSOpsHeapTuple);
}

static void
end(LogFold *log)
{
	for (int i = 0; i < READ_BATCH; i++)
		ExecDropSingleTupleTableSlot(log->batch[i].event);
	ExecDropSingleTupleTableSlot(log->scanned);
	table_close(log->events, NoLock);
}

/* Gets the fold; a function of the caller's is compiled for this time only. */
static void
compile(LogFold *log)
{
	const EsFoldSpec *spec = log->spec;

	if (OidIsValid(spec->function))
		log->fold = EsProjectionFoldWith(spec->projection, spec->target, spec->function);
	else
		log->fold = EsProjectionFold(spec->projection, spec->target);
}

/*
 * Folds part by part, in the order of the keys' hashes, and has each taken.  A
 * part that doesn't fit is halved; what follows it is halved as well, because
 * it would not fit either.
 */
static void
fold_parts(LogFold *log, EsPartTaker take, void *arg, MemoryContext caller)
{
	EsFoldedPart *part = &log->part;

	do
	{
		/* The parts to come may have to be halved again: then it takes longer. */
		EsProgressExpect(log->estimate * (((int64) 1 << part->bits) - part->number));
		if (fold_part(log))
		{
			MemoryContext old = MemoryContextSwitchTo(caller);

			part->key = log->fold->key;
			take(part, arg);
			MemoryContextSwitchTo(old);
			log->result.events += log->part_events;
			part->number++;
		}
		else
		{
			part->bits++;
			part->number <<= 1;
		}
	} while (part->number < ((uint32) 1 << part->bits));
}

/* Folds the part's states, as the projection's owner; false: they don't fit. */
static bool
fold_part(LogFold *log)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool fits = false;
	EsActing acting;

	EsFoldAct(log->spec, &acting);
	PG_TRY();
	{
		start_part(log);
		fits = fold_in_any_order(log);
	}
	PG_CATCH();
	{
		EsProjectionFailed(log->spec->projection, log->event, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
	return fits;
}

/* Forgets all states. */
static void
start_part(LogFold *log)
{
	if (log->part.states != NULL)
		EsStatesDestroy(log->part.states);
	log->part.states = EsStatesCreate(log->fold->key, 16);
	log->misordered = false;
	log->all_misordered = false;
	log->part_events = 0;
}

/* Folds the events of the part's keys; false: they don't fit. */
static bool
fold_in_any_order(LogFold *log)
{
	bool fits = true;
	bool done = true;

	if (log->spec->feed != NULL)
		fits = fold_from_feed(log);
	else if (IsParallelWorker())
		fits = fold_in_physical_order(log);
	else
		done = try_physical_order(log, &fits);
	if (done)
	{
		if (!fits || !log->misordered)
			return fits;
		if (log->spec->feed != NULL)
			EsFeedLeave(log->spec->feed, log->spec->reader);
		EsStatesVisit(log->part.states, forget_misordered, log->part.states);
		return fold_in_position_order(log);
	}
	start_part(log);
	log->all_misordered = true;
	return fold_in_position_order(log);
}

/*
 * Folds in physical order; false: that failed.  An apply function may well
 * fail on an event that comes too early, and it is not known yet whether it
 * did.  In position order it will either succeed, or fail for good and on the
 * event that is to blame.
 */
static bool
try_physical_order(LogFold *log, bool *fits)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ResourceOwner inner;
	volatile bool done = true;

	BeginInternalSubTransaction(NULL);
	inner = CurrentResourceOwner;
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*fits = fold_in_physical_order(log);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		CurrentResourceOwner = inner;
		clear_batch(log); /* which pins pages in the name of the subtransaction */
		RollbackAndReleaseCurrentSubTransaction();
		if (!EsFailureToBlame(error))
			ReThrowError(error);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (done)
		return true;
	EsProjectionReset(log->spec->projection);
	compile(log);
	return false;
}

/* The scan must not join another one in the middle of the table, hence the options. */
static bool
fold_in_physical_order(LogFold *log)
{
	TableScanDesc scan =
		table_beginscan_strat(log->events, log->snapshot, 0, NULL, true, false);
	bool fits = true;

	while (fits && table_scan_getnextslot(scan, ForwardScanDirection, log->scanned))
		fits = take_event(log, false);
	fits = fits && fold_batch(log, false);
	clear_batch(log);
	table_endscan(scan);
	return fits;
}

/*
 * Does the same together with other processes, each of which reads some of the
 * log for all.
 */
static bool
fold_from_feed(LogFold *log)
{
	/* For a scan that begins again with each chunk, which statistics shall not count. */
	uint32 flags = SO_TYPE_TIDRANGESCAN | SO_ALLOW_STRAT | SO_ALLOW_PAGEMODE;
	TableScanDesc scan = heap_beginscan(log->events, log->snapshot, 0, NULL, NULL, flags);
	bool fits = true;
	EsFeedChunk *chunk;
	EsFeedTurn turn;

	PredicateLockRelation(log->events, log->snapshot);
	EsFeedBegin(log->spec->feed, log->spec->reader);
	while (fits && (turn = EsFeedNext(log->spec->feed, log->spec->reader, &chunk)) != ES_FEED_END)
	{
		if (turn == ES_FEED_FILL)
		{
			fill_chunk(log, scan, chunk);
			EsFeedFilled(log->spec->feed, chunk);
			continue;
		}
		fits = fold_chunk(log, chunk);
		EsFeedDone(log->spec->feed, log->spec->reader);
	}
	if (!fits)
		EsFeedSkip(log->spec->feed, log->spec->reader);
	clear_batch(log);
	table_endscan(scan);
	return fits;
}

/* Reads the events of a chunk, and puts those that some process wants. */
static void
fill_chunk(LogFold *log, TableScanDesc scan, EsFeedChunk *chunk)
{
	ReadEvent read = {.event = log->scanned};

	table_rescan(scan, NULL);
	heap_setscanlimits(scan, chunk->first, chunk->nblocks);
	log->event = log->scanned;
	while (table_scan_getnextslot(scan, ForwardScanDirection, log->scanned))
	{
		CHECK_FOR_INTERRUPTS();
		count_read(log);
		if (is_wanted(log, &read))
			EsFeedPut(chunk, ((BufferHeapTupleTableSlot *) log->scanned)->base.tuple, read.hash);
		ResetExprContext(log->fold->key_econtext);
	}
	log->event = NULL;
}

/* Folds the events of a chunk that are the part's; false: the states have outgrown the memory. */
static bool
fold_chunk(LogFold *log, EsFeedChunk *chunk)
{
	EsFold *fold = log->fold;
	bool fits = true;

	for (uint32 i = 0; i < chunk->nevents && fits; i++)
	{
		ReadEvent *read = &log->batch[log->nbatch];
		uint32 ahead = i + READ_AHEAD;
		bool isnull;

		if (ahead < chunk->nevents && EsPartHas(&log->part, chunk->events[ahead].hash))
			EsFeedPrefetch(chunk, ahead);
		if (!EsPartHas(&log->part, chunk->events[i].hash))
			continue;
		CHECK_FOR_INTERRUPTS();
		EsFeedTuple(chunk, i, &read->tuple);
		read->tuple.t_tableOid = RelationGetRelid(log->events);
		ItemPointerSetInvalid(&read->tuple.t_self);
		ExecStoreHeapTuple(&read->tuple, read->event, false);
		read->position = DatumGetInt64(slot_getattr(read->event, ES_EVENT_POSITION, &isnull));
		read->hash = chunk->events[i].hash;
		fold->key_econtext->ecxt_outertuple = read->event;
		if (!EsKeyEval(fold->key, fold->key_econtext, read->key))
			ereport(ERROR,
					(errcode(ES_ERRCODE_INVALID_PROJECTION),
					 errmsg("the key of the event at position " INT64_FORMAT " has become null",
							read->position),
					 errhint("The functions that a key calls must be immutable.")));
		EsStatesPrefetch(log->part.states, read->hash);
		if (++log->nbatch == READ_BATCH)
			fits = fold_batch(log, false);
	}
	return fold_batch(log, false) && fits;
}

static bool
fold_in_position_order(LogFold *log)
{
	Relation index = index_open(EsCatalogOid(ES_OBJECT_EVENTS_PKEY), AccessShareLock);
	IndexScanDesc scan = EsIndexBeginScan(log->events, index, log->snapshot, 0);
	bool fits = true;

	index_rescan(scan, NULL, 0, NULL, 0);
	while (fits && index_getnext_slot(scan, ForwardScanDirection, log->scanned))
		fits = take_event(log, true);
	fits = fits && fold_batch(log, true);
	clear_batch(log);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	return fits;
}

/*
 * Adds the event just read to the batch, if it is one to fold: the state of
 * its key will be needed soon.  False: the states have outgrown the memory.
 */
static bool
take_event(LogFold *log, bool in_position_order)
{
	bool fits = true;
	ReadEvent *read;

	CHECK_FOR_INTERRUPTS();
	count_read(log);
	if (!stays_in_page(log) || log->nbatch == READ_BATCH)
		fits = fold_batch(log, in_position_order);
	read = store_event(log);
	if (!is_wanted(log, read) || !EsPartHas(&log->part, read->hash))
		return fits;
	if (log->spec->only != NULL && EsStatesFind(log->spec->only, read->key, read->hash) == NULL)
		return fits;
	EsStatesPrefetch(log->part.states, read->hash);
	log->nbatch++;
	return fits;
}

/* Counts an event that has been read, to report progress. */
static void
count_read(LogFold *log)
{
	if (++log->unreported < PROGRESS_STEP)
		return;
	EsProgressAdd(log->unreported);
	log->unreported = 0;
}

/* Says whether the event is to be folded, into whatever row, and computes its key. */
static bool
is_wanted(LogFold *log, ReadEvent *read)
{
	EsFold *fold = log->fold;
	bool isnull;

	read->position = DatumGetInt64(slot_getattr(read->event, ES_EVENT_POSITION, &isnull));
	if (read->position > log->spec->up_to_position)
		return false;
	log->result.up_to_position = Max(log->result.up_to_position, read->position);
	if (!EsProjectionMatches(log->spec->projection, read->event))
		return false;
	if (log->filtered && !EsFoldPasses(log->spec, read->event, read->position))
		return false;
	fold->key_econtext->ecxt_outertuple = read->event;
	if (!EsKeyEval(fold->key, fold->key_econtext, read->key))
		return false;
	read->hash = EsKeyHash(fold->key, read->key);
	return true;
}

bool
EsFoldPasses(const EsFoldSpec *spec, TupleTableSlot *event, int64 position)
{
	bool isnull;

	if (spec->as_of != NULL)
	{
		Datum recorded_at = slot_getattr(event, ES_EVENT_RECORDED_AT, &isnull);

		if (DatumGetTimestampTz(recorded_at) > *spec->as_of)
			return false;
	}
	if (spec->nparked > 0 && has_parked(spec, position))
		return false;
	return spec->nexcluded == 0 ||
		bsearch(DatumGetUUIDP(slot_getattr(event, ES_EVENT_EVENT_ID, &isnull)),
				spec->excluded, spec->nexcluded, sizeof(pg_uuid_t), compare_ids) == NULL;
}

static bool
has_parked(const EsFoldSpec *spec, int64 position)
{
	return bsearch(&position, spec->parked, spec->nparked, sizeof(int64),
				   compare_positions) != NULL;
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t));
}

static int
compare_positions(const void *a, const void *b)
{
	int64 pa = *(const int64 *) a;
	int64 pb = *(const int64 *) b;

	return pa < pb ? -1 : pa > pb;
}

/* Says whether the event just read is in the page that the batch is in. */
static bool
stays_in_page(LogFold *log)
{
	return ((BufferHeapTupleTableSlot *) log->scanned)->buffer == log->page;
}

/*
 * Stores the event just read in the batch's next slot, without a copy: the
 * batch pins the page that all its events are in, the scan's slot only the one
 * of its last event.
 */
static ReadEvent *
store_event(LogFold *log)
{
	BufferHeapTupleTableSlot *scanned = (BufferHeapTupleTableSlot *) log->scanned;
	ReadEvent *read = &log->batch[log->nbatch];

	if (scanned->buffer != log->page)
	{
		if (BufferIsValid(log->page))
			ReleaseBuffer(log->page);
		IncrBufferRefCount(scanned->buffer);
		log->page = scanned->buffer;
	}
	read->tuple = *scanned->base.tuple;
	ExecStoreHeapTuple(&read->tuple, read->event, false);
	log->event = read->event;
	return read;
}

/*
 * Folds the batch's events into their states and empties it; false: they have
 * outgrown the memory.
 */
static bool
fold_batch(LogFold *log, bool in_position_order)
{
	for (int i = 0; i < log->nbatch; i++)
		EsStatesPrefetchRow(log->part.states, log->batch[i].hash);
	for (int i = 0; i < log->nbatch; i++)
		fold_event(log, &log->batch[i], in_position_order);
	log->nbatch = 0;
	ResetExprContext(log->fold->econtext);
	ResetExprContext(log->fold->key_econtext);
	return log->part.bits == MAX_PART_BITS || log->fold->key->unhashable ||
		EsStatesCount(log->part.states) == 1 ||
		EsStatesMemory(log->part.states) <= log->max_memory;
}

/* Folds one event into its state. */
static void
fold_event(LogFold *log, ReadEvent *read, bool in_position_order)
{
	EsFold *fold = log->fold;
	bool is_new;
	EsStateEntry *entry = EsStatesLookup(log->part.states, read->key, read->hash, &is_new);
	HeapTuple row;

	log->event = read->event;
	if (!in_position_order || log->all_misordered)
		log->part_events++;
	if (!in_position_order)
	{
		if (read->position < entry->last_position)
			entry->misordered = log->misordered = true;
		entry->last_position = read->position;
	}
	if ((entry->misordered || log->all_misordered) != in_position_order)
		return;
	row = EsApplyEvent(fold->apply, fold->econtext, entry->state, read->event);
	if (row != entry->state)
		EsStatesKeep(log->part.states, entry, row);
}

static void
clear_batch(LogFold *log)
{
	for (int i = 0; i < READ_BATCH; i++)
		ExecClearTuple(log->batch[i].event);
	ExecClearTuple(log->scanned);
	if (BufferIsValid(log->page))
		ReleaseBuffer(log->page);
	log->page = InvalidBuffer;
	log->nbatch = 0;
	log->event = NULL;
	ResetExprContext(log->fold->econtext);
	ResetExprContext(log->fold->key_econtext);
}

static void
forget_misordered(EsStateEntry *entry, void *arg)
{
	if (entry->misordered)
		EsStatesKeep(arg, entry, NULL);
}
