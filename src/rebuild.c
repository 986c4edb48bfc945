/*
 * rebuild.c
 *	  Building a state table anew from the log.
 *
 * The new rows go into a heap beside the table, which then takes the place of
 * the table's own, as in REFRESH MATERIALIZED VIEW: the table keeps its OID,
 * and so its views, foreign keys, grants and triggers.  Indexes are built once,
 * at the end.  Rows are written frozen; a transaction whose snapshot is older
 * sees the new rows rather than none.
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
 * Writers.  The log is folded up to the high-water mark while readers and
 * writers of the table go on: the caller's ShareUpdateExclusiveLock keeps out
 * only DDL and another rebuild.  Then AccessExclusiveLock is taken.  It waits
 * for every transaction that has applied the projection, since those hold
 * RowExclusiveLock from before they got a position; those that wait for the
 * table have not got theirs.  So a fresh snapshot shows all events that the old
 * rows reflect, and those above the mark are folded into the new rows once they
 * are in place.  Who appends later does so to the new rows.  Each event is
 * applied once.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog.h"
#include "catchup.h"
#include "commands/cluster.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "direct.h"
#include "errors.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "position.h"
#include "rebuild.h"
#include "state.h"
#include "storage/bufmgr.h"
#include "swap.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define READ_BATCH    64   /* events whose states are prefetched together */
#define WRITE_BATCH   1000 /* rows that go to the heap at once */
#define MAX_PART_BITS 31

/* Writes rows into the new heap. */
typedef struct Writer
{
	Relation heap;
	EsKey *key;
	EState *estate; /* of the state table, for its constraints */
	ResultRelInfo *target;
	BulkInsertState bulk;
	CommandId cid;
	MemoryContext batch;
	TupleTableSlot *slots[WRITE_BATCH];
	int nslots;
	int64 rows;
} Writer;

/* An event that has been read, to be folded with others. */
typedef struct ReadEvent
{
	TupleTableSlot *event;
	HeapTupleData tuple; /* of event */
	int64 position;
	uint32 hash;
	Datum key[INDEX_MAX_KEYS];
} ReadEvent;

typedef struct Rebuild
{
	EsProjection *projection;
	Relation target;
	EsFold *fold;
	Relation events;
	Snapshot snapshot;
	TupleTableSlot *scanned; /* of the log's scan */
	Buffer page;             /* that all events of the batch are in */
	ReadEvent batch[READ_BATCH];
	int nbatch;
	TupleTableSlot *event; /* at work, to name it in an error; or null */
	EsStates *states;
	Writer writer;
	int64 mark;          /* the heap is built from the events up to here */
	int part_bits;       /* a part is the keys whose hash starts with these bits ... */
	uint32 part;         /* ... of this value */
	bool misordered;     /* some states must be folded in position order ... */
	bool all_misordered; /* ... or all of them */
	int64 part_events;
	EsApplied result;
} Rebuild;

static void build_heap(Rebuild *rebuild, Relation target, Oid heap);
static void fold_parts(Rebuild *rebuild);
static void start_part(Rebuild *rebuild);
static bool fold_part(Rebuild *rebuild);
static bool try_physical_order(Rebuild *rebuild, bool *fits);
static bool fold_in_physical_order(Rebuild *rebuild);
static bool fold_in_position_order(Rebuild *rebuild);
static bool take_event(Rebuild *rebuild, bool in_position_order);
static bool stays_in_page(Rebuild *rebuild);
static ReadEvent *store_event(Rebuild *rebuild);
static bool fold_batch(Rebuild *rebuild, bool in_position_order);
static void fold_event(Rebuild *rebuild, ReadEvent *read, bool in_position_order);
static void clear_batch(Rebuild *rebuild);
static bool in_part(Rebuild *rebuild, uint32 hash);
static void forget_misordered(EsStateEntry *entry, void *arg);
static void open_writer(Writer *writer, Relation target, Oid heap, EsKey *key);
static void write_state(EsStateEntry *entry, void *arg);
static void flush_writer(Writer *writer);
static void close_writer(Writer *writer);
static void catch_up(Rebuild *rebuild);

EsApplied
EsRebuild(EsProjection *projection, Relation target)
{
	Rebuild *rebuild;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Oid relid = RelationGetRelid(target);
	EsApplied result;
	Oid heap;

	rebuild = palloc0(sizeof(Rebuild));
	rebuild->projection = projection;
	rebuild->target = target;
	CheckTableNotInUse(target, "rebuild");
	CommandCounterIncrement();
	heap = make_new_heap(relid, target->rd_rel->reltablespace, target->rd_rel->relam,
						 target->rd_rel->relpersistence, ShareUpdateExclusiveLock);
	rebuild->mark = EsHighWaterMark();
	build_heap(rebuild, target, heap);

	EsSwapHeap(target, heap);
	pgstat_count_truncate(target);
	pgstat_count_heap_insert(target, rebuild->result.rows);
	catch_up(rebuild);
	EsSwapCheckForeignKeys(target);

	result = rebuild->result;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/* Fills the new heap, as the projection's owner. */
static void
build_heap(Rebuild *rebuild, Relation target, Oid heap)
{
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	rebuild->fold = EsProjectionFold(rebuild->projection, target);
	rebuild->events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	rebuild->scanned = table_slot_create(rebuild->events, NULL);
	for (int i = 0; i < READ_BATCH; i++)
		rebuild->batch[i].event =
			MakeSingleTupleTableSlot(RelationGetDescr(rebuild->events), &TTSOpsHeapTuple);
	PushActiveSnapshot(GetLatestSnapshot());
	rebuild->snapshot = GetActiveSnapshot();
	EsProjectionAct(rebuild->projection, &acting);
	open_writer(&rebuild->writer, target, heap, rebuild->fold->key);
	PG_TRY();
	{
		fold_parts(rebuild);
	}
	PG_CATCH();
	{
		EsProjectionFailed(rebuild->projection, rebuild->event, context);
	}
	PG_END_TRY();
	close_writer(&rebuild->writer);
	EsActingEnd(&acting);
	PopActiveSnapshot();
	for (int i = 0; i < READ_BATCH; i++)
		ExecDropSingleTupleTableSlot(rebuild->batch[i].event);
	ExecDropSingleTupleTableSlot(rebuild->scanned);
	table_close(rebuild->events, NoLock);
	rebuild->result.rows = rebuild->writer.rows;
}

/*
 * Folds and writes part by part, in the order of the keys' hashes.  A part
 * that doesn't fit is halved; what follows it is halved as well, because it
 * would not fit either.
 */
static void
fold_parts(Rebuild *rebuild)
{
	do
	{
		bool fits;

		start_part(rebuild);
		fits = fold_part(rebuild);
		if (fits)
		{
			EsStatesVisit(rebuild->states, write_state, &rebuild->writer);
			flush_writer(&rebuild->writer);
			rebuild->result.events += rebuild->part_events;
			rebuild->part++;
		}
		else
		{
			rebuild->part_bits++;
			rebuild->part <<= 1;
		}
	} while (rebuild->part < ((uint32) 1 << rebuild->part_bits));
}

/* Forgets all states. */
static void
start_part(Rebuild *rebuild)
{
	if (rebuild->states != NULL)
		EsStatesDestroy(rebuild->states);
	rebuild->states = EsStatesCreate(rebuild->fold->key, 16);
	rebuild->misordered = false;
	rebuild->all_misordered = false;
	rebuild->part_events = 0;
}

/* Folds the events of the part's keys; false: they don't fit. */
static bool
fold_part(Rebuild *rebuild)
{
	bool fits;

	if (try_physical_order(rebuild, &fits))
	{
		if (!fits || !rebuild->misordered)
			return fits;
		EsStatesVisit(rebuild->states, forget_misordered, rebuild->states);
		return fold_in_position_order(rebuild);
	}
	start_part(rebuild);
	rebuild->all_misordered = true;
	return fold_in_position_order(rebuild);
}

/*
 * Folds in physical order; false: that failed.  An apply function may well
 * fail on an event that comes too early, and it is not known yet whether it
 * did.  In position order it will either succeed, or fail for good and on the
 * event that is to blame.
 */
static bool
try_physical_order(Rebuild *rebuild, bool *fits)
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
		*fits = fold_in_physical_order(rebuild);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		CurrentResourceOwner = inner;
		clear_batch(rebuild); /* which pins pages in the name of the subtransaction */
		RollbackAndReleaseCurrentSubTransaction();
		if (!EsProjectionToBlame(error))
			ReThrowError(error);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (done)
		return true;
	EsProjectionReset(rebuild->projection);
	rebuild->fold = EsProjectionFold(rebuild->projection, rebuild->target);
	return false;
}

/* The scan must not join another one in the middle of the table, hence the options. */
static bool
fold_in_physical_order(Rebuild *rebuild)
{
	TableScanDesc scan =
		table_beginscan_strat(rebuild->events, rebuild->snapshot, 0, NULL, true, false);
	bool fits = true;

	while (fits && table_scan_getnextslot(scan, ForwardScanDirection, rebuild->scanned))
		fits = take_event(rebuild, false);
	fits = fits && fold_batch(rebuild, false);
	clear_batch(rebuild);
	table_endscan(scan);
	return fits;
}

static bool
fold_in_position_order(Rebuild *rebuild)
{
	Relation index = index_open(EsCatalogOid(ES_OBJECT_EVENTS_PKEY), AccessShareLock);
	IndexScanDesc scan = EsIndexBeginScan(rebuild->events, index, rebuild->snapshot, 0);
	bool fits = true;

	index_rescan(scan, NULL, 0, NULL, 0);
	while (fits && index_getnext_slot(scan, ForwardScanDirection, rebuild->scanned))
		fits = take_event(rebuild, true);
	fits = fits && fold_batch(rebuild, true);
	clear_batch(rebuild);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	return fits;
}

/*
 * Adds the event just read to the batch, if it is one to fold: the state of
 * its key will be needed soon.  False: the states have outgrown the memory.
 */
static bool
take_event(Rebuild *rebuild, bool in_position_order)
{
	EsFold *fold = rebuild->fold;
	bool fits = true;
	ReadEvent *read;
	bool isnull;

	CHECK_FOR_INTERRUPTS();
	if (!stays_in_page(rebuild) || rebuild->nbatch == READ_BATCH)
		fits = fold_batch(rebuild, in_position_order);
	read = store_event(rebuild);
	read->position = DatumGetInt64(slot_getattr(read->event, ES_EVENT_POSITION, &isnull));
	if (read->position > rebuild->mark)
		return fits;
	rebuild->result.up_to_position = Max(rebuild->result.up_to_position, read->position);
	if (!EsProjectionMatches(rebuild->projection, read->event))
		return fits;
	fold->key_econtext->ecxt_outertuple = read->event;
	if (!EsKeyEval(fold->key, fold->key_econtext, read->key))
		return fits;
	read->hash = EsKeyHash(fold->key, read->key);
	if (!in_part(rebuild, read->hash))
		return fits;
	EsStatesPrefetch(rebuild->states, read->hash);
	rebuild->nbatch++;
	return fits;
}

/* Says whether the event just read is in the page that the batch is in. */
static bool
stays_in_page(Rebuild *rebuild)
{
	return ((BufferHeapTupleTableSlot *) rebuild->scanned)->buffer == rebuild->page;
}

/*
 * Stores the event just read in the batch's next slot, without a copy: the
 * batch pins the page that all its events are in, the scan's slot only the one
 * of its last event.
 */
static ReadEvent *
store_event(Rebuild *rebuild)
{
	BufferHeapTupleTableSlot *scanned = (BufferHeapTupleTableSlot *) rebuild->scanned;
	ReadEvent *read = &rebuild->batch[rebuild->nbatch];

	if (scanned->buffer != rebuild->page)
	{
		if (BufferIsValid(rebuild->page))
			ReleaseBuffer(rebuild->page);
		IncrBufferRefCount(scanned->buffer);
		rebuild->page = scanned->buffer;
	}
	read->tuple = *scanned->base.tuple;
	ExecStoreHeapTuple(&read->tuple, read->event, false);
	rebuild->event = read->event;
	return read;
}

/*
 * Folds the batch's events into their states and empties it; false: they have
 * outgrown the memory.
 */
static bool
fold_batch(Rebuild *rebuild, bool in_position_order)
{
	for (int i = 0; i < rebuild->nbatch; i++)
		EsStatesPrefetchRow(rebuild->states, rebuild->batch[i].hash);
	for (int i = 0; i < rebuild->nbatch; i++)
		fold_event(rebuild, &rebuild->batch[i], in_position_order);
	rebuild->nbatch = 0;
	ResetExprContext(rebuild->fold->econtext);
	ResetExprContext(rebuild->fold->key_econtext);
	return rebuild->part_bits == MAX_PART_BITS || EsStatesCount(rebuild->states) == 1 ||
		EsStatesMemory(rebuild->states) <= (Size) EsReplayMemory * 1024;
}

/* Folds one event into its state. */
static void
fold_event(Rebuild *rebuild, ReadEvent *read, bool in_position_order)
{
	EsFold *fold = rebuild->fold;
	bool is_new;
	EsStateEntry *entry = EsStatesLookup(rebuild->states, read->key, read->hash, &is_new);
	HeapTuple row;

	rebuild->event = read->event;
	if (!in_position_order || rebuild->all_misordered)
		rebuild->part_events++;
	if (!in_position_order)
	{
		if (read->position < entry->last_position)
			entry->misordered = rebuild->misordered = true;
		entry->last_position = read->position;
	}
	if ((entry->misordered || rebuild->all_misordered) != in_position_order)
		return;
	row = EsApplyEvent(fold->apply, fold->econtext, entry->state, read->event);
	if (row != entry->state)
		EsStatesKeep(rebuild->states, entry, row);
}

static void
clear_batch(Rebuild *rebuild)
{
	for (int i = 0; i < READ_BATCH; i++)
		ExecClearTuple(rebuild->batch[i].event);
	ExecClearTuple(rebuild->scanned);
	if (BufferIsValid(rebuild->page))
		ReleaseBuffer(rebuild->page);
	rebuild->page = InvalidBuffer;
	rebuild->nbatch = 0;
	rebuild->event = NULL;
	ResetExprContext(rebuild->fold->econtext);
	ResetExprContext(rebuild->fold->key_econtext);
}

static bool
in_part(Rebuild *rebuild, uint32 hash)
{
	return rebuild->part_bits == 0 || hash >> (32 - rebuild->part_bits) == rebuild->part;
}

static void
forget_misordered(EsStateEntry *entry, void *arg)
{
	if (entry->misordered)
		EsStatesKeep(arg, entry, NULL);
}

static void
open_writer(Writer *writer, Relation target, Oid heap, EsKey *key)
{
	writer->heap = table_open(heap, NoLock);
	writer->key = key;
	writer->estate = EsDirectBegin(target, &writer->target);
	writer->bulk = GetBulkInsertState();
	writer->cid = GetCurrentCommandId(true);
	writer->batch = AllocSetContextCreate(CurrentMemoryContext, "es rebuild batch",
										  ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < WRITE_BATCH; i++)
		writer->slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsHeapTuple);
}

/* Writes a state that is final, in batches: the states must outlive flush_writer(). */
static void
write_state(EsStateEntry *entry, void *arg)
{
	Writer *writer = arg;
	TupleTableSlot *row = writer->slots[writer->nslots];
	TupleConstr *constraints = writer->target->ri_RelationDesc->rd_att->constr;

	CHECK_FOR_INTERRUPTS();
	if (entry->state == NULL)
		return;
	ExecStoreHeapTuple(entry->state, row, false);
	EsStateCheckKey(writer->key, entry->key, row);
	if (constraints != NULL)
	{
		if (constraints->has_generated_stored)
			ExecComputeStoredGenerated(writer->target, writer->estate, row, CMD_INSERT);
		ExecConstraints(writer->target, row, writer->estate);
		ResetPerTupleExprContext(writer->estate);
	}
	if (++writer->nslots == WRITE_BATCH)
		flush_writer(writer);
}

static void
flush_writer(Writer *writer)
{
	MemoryContext old = MemoryContextSwitchTo(writer->batch);

	if (writer->nslots > 0)
		table_multi_insert(writer->heap, writer->slots, writer->nslots, writer->cid,
						   TABLE_INSERT_SKIP_FSM | TABLE_INSERT_FROZEN, writer->bulk);
	for (int i = 0; i < writer->nslots; i++)
		ExecClearTuple(writer->slots[i]);
	writer->rows += writer->nslots;
	writer->nslots = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->batch);
}

static void
close_writer(Writer *writer)
{
	for (int i = 0; i < WRITE_BATCH; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	FreeBulkInsertState(writer->bulk);
	table_finish_bulk_insert(writer->heap, TABLE_INSERT_SKIP_FSM | TABLE_INSERT_FROZEN);
	EsDirectEnd(writer->estate);
	table_close(writer->heap, NoLock);
}

/* Folds into the new rows the events above the mark, and fires no triggers. */
static void
catch_up(Rebuild *rebuild)
{
	EsRange range = {
		.after = rebuild->mark,
		.up_to = Max(rebuild->mark, EsProjectionBound(rebuild->projection)),
		.max_events = PG_INT64_MAX,
	};
	EsApplied caught_up = EsCatchUp(rebuild->projection, rebuild->target, range, true);

	rebuild->result.bound = caught_up.bound;
	rebuild->result.events += caught_up.events;
	rebuild->result.rows += caught_up.rows;
	if (caught_up.up_to_position > rebuild->mark)
		rebuild->result.up_to_position = caught_up.up_to_position;
}
