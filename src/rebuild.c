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

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog.h"
#include "catchup.h"
#include "commands/cluster.h"
#include "commands/tablecmds.h"
#include "direct.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "foldlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "position.h"
#include "rebuild.h"
#include "state.h"
#include "statement.h"
#include "storage/lmgr.h"
#include "swap.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define WRITE_BATCH 1000 /* rows that go to the heap at once */

/* Writes rows into the new heap. */
typedef struct Writer
{
	Relation heap;
	EsKey *key;     /* of the part at work */
	EState *estate; /* of the state table, for its constraints */
	ResultRelInfo *target;
	BulkInsertState bulk;
	CommandId cid;
	MemoryContext batch;
	TupleTableSlot *slots[WRITE_BATCH];
	int nslots;
	int64 rows;
} Writer;

typedef struct Rebuild
{
	EsProjection *projection;
	Relation target;
	Writer writer;
	int64 mark; /* the heap is built from the events up to here */
	EsApplied result;
} Rebuild;

static void build_heap(Rebuild *rebuild, Oid heap);
static void write_part(const EsFoldedPart *part, void *arg);
static void open_writer(Writer *writer, Relation target, Oid heap);
static void write_state(EsStateEntry *entry, void *arg);
static void flush_writer(Writer *writer);
static void close_writer(Writer *writer);
static void catch_up(Rebuild *rebuild);

/* Empties the table and folds all events into it. */
static EsApplied
rebuild_in_place(EsProjection *projection, Relation target)
{
	EsRange range = {.max_events = PG_INT64_MAX};

	LockRelation(target, ShareRowExclusiveLock);
	range.up_to = EsProjectionBound(projection);
	CommandCounterIncrement();
	EsStatementsEmpty(projection, target);
	CommandCounterIncrement();
	return EsCatchUp(projection, target, range, true);
}

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

	if (target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		MemoryContextSwitchTo(old);
		return rebuild_in_place(projection, target);
	}
	rebuild = palloc0(sizeof(Rebuild));
	rebuild->projection = projection;
	rebuild->target = target;
	CheckTableNotInUse(target, "rebuild");
	CommandCounterIncrement();
	heap = make_new_heap(relid, target->rd_rel->reltablespace, target->rd_rel->relam,
						 target->rd_rel->relpersistence, ShareUpdateExclusiveLock);
	rebuild->mark = EsHighWaterMark();
	build_heap(rebuild, heap);

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

/* Fills the new heap. */
static void
build_heap(Rebuild *rebuild, Oid heap)
{
	EsFoldSpec spec = {.projection = rebuild->projection,
					   .target = rebuild->target,
					   .up_to_position = rebuild->mark};
	EsFolded folded;

	PushActiveSnapshot(GetLatestSnapshot());
	open_writer(&rebuild->writer, rebuild->target, heap);
	folded = EsFoldLog(&spec, write_part, rebuild);
	close_writer(&rebuild->writer);
	PopActiveSnapshot();
	rebuild->result.events = folded.events;
	rebuild->result.up_to_position = folded.up_to_position;
	rebuild->result.rows = rebuild->writer.rows;
}

/* Writes the states of a part, as the projection's owner. */
static void
write_part(const EsFoldedPart *part, void *arg)
{
	Rebuild *rebuild = arg;
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	rebuild->writer.key = part->key;
	EsProjectionAct(rebuild->projection, &acting);
	PG_TRY();
	{
		EsStatesVisit(part->states, write_state, &rebuild->writer);
		flush_writer(&rebuild->writer);
	}
	PG_CATCH();
	{
		EsProjectionFailed(rebuild->projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
}

static void
open_writer(Writer *writer, Relation target, Oid heap)
{
	writer->heap = table_open(heap, NoLock);
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
