/*
 * heaps.c
 *	  The heaps that a rebuild fills: one for the state table, or one for each of
 *	  its partitions.
 *
 * A partition gets its heap when the first row for it comes.  Rows are written
 * in batches.  A batch is made of the states that wait to be written, not of
 * copies, so it takes a few bytes for each whatever the number of partitions;
 * the slots that the rows are turned into, and the state of bulk insertion, are
 * shared by all heaps.
 *
 * Locks.  Attaching and detaching partitions needs a lock that conflicts with
 * ShareUpdateExclusiveLock on the parent, so the partitions stay what they
 * are.  Locks on several tables are always taken in the order of
 * find_all_inheritors(), parents first.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "commands/cluster.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "direct.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "heaps.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "route.h"
#include "storage/bufmgr.h"
#include "swap.h"
#include "utils/memutils.h"

#define BATCH   1000 /* rows that go to a heap at once */
#define OPTIONS (TABLE_INSERT_SKIP_FSM | TABLE_INSERT_FROZEN)

/* The new heap of a table that has rows. */
typedef struct NewHeap
{
	Oid relid;             /* of the table ... */
	Oid heap_relid;        /* ... and of its new heap */
	Relation heap;         /* null: no row has come for it */
	ResultRelInfo *result; /* of the table, for its constraints */
	EsLeaf *leaf;          /* null: it is the state table itself */
	EsStateEntry **batch;  /* that wait to be written */
	int nbatch;
	int max_batch; /* that batch has room for */
	int64 rows;    /* written */
	List *indexes; /* built on it, for EsSwapHeap() */
} NewHeap;

struct EsHeaps
{
	Relation target;
	EsKey *key;   /* of the states that wait */
	List *tables; /* OIDs of target and of its partitions, in the order of their locks */
	MemoryContext context;
	EState *estate;
	ResultRelInfo *root;
	EsRouter *router; /* null: target is not partitioned */
	List *list;       /* of NewHeap */
	BulkInsertState bulk;
	NewHeap *last; /* that bulk was used for; or null */
	MemoryContext batch_context;
	TupleTableSlot *slots[BATCH];      /* rows of target */
	TupleTableSlot *leaf_slots[BATCH]; /* those of partitions that have other columns; or null */
	TupleTableSlot *rows[BATCH];       /* of either */
};

static NewHeap *find_heap(EsHeaps *heaps, const Datum *key);
static NewHeap *add_heap(EsHeaps *heaps, ResultRelInfo *result, EsLeaf *leaf);
static void flush(EsHeaps *heaps, NewHeap *heap);
static TupleTableSlot *make_row(EsHeaps *heaps, NewHeap *heap, EsStateEntry *entry, int number);
static TupleTableSlot *leaf_slot(EsHeaps *heaps, NewHeap *heap, int number);
static Oid find_storage(EsStorage *storage, Relation table, Oid index, Oid *index_copy);
static void build_indexes(EsHeaps *heaps, NewHeap *heap);
static int64 swap(EsHeaps *heaps, Oid relid);
static NewHeap *heap_of(EsHeaps *heaps, Oid relid);
static NewHeap *make_heap(EsHeaps *heaps, Relation table);

EsHeaps *
EsHeapsOpen(Relation target)
{
	EsHeaps *heaps = palloc0(sizeof(EsHeaps));

	CheckTableNotInUse(target, "rebuild");
	CommandCounterIncrement();
	heaps->target = target;
	heaps->context = CurrentMemoryContext;
	heaps->estate = EsDirectBegin(target, &heaps->root);
	heaps->bulk = GetBulkInsertState();
	heaps->batch_context = AllocSetContextCreate(CurrentMemoryContext, "es heaps batch",
												 ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < BATCH; i++)
		heaps->slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsHeapTuple);
	if (target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		heaps->tables =
			find_all_inheritors(RelationGetRelid(target), ShareUpdateExclusiveLock, NULL);
		heaps->router = EsRouterBegin(heaps->estate, heaps->root);
	}
	else
	{
		heaps->tables = list_make1_oid(RelationGetRelid(target));
		(void) add_heap(heaps, heaps->root, NULL);
	}
	return heaps;
}

void
EsHeapsMakeAll(EsHeaps *heaps)
{
	ListCell *lc;

	foreach(lc, heaps->tables)
	{
		Relation table = table_open(lfirst_oid(lc), NoLock);

		if (table->rd_rel->relkind == RELKIND_RELATION &&
			heap_of(heaps, RelationGetRelid(table)) == NULL)
			(void) make_heap(heaps, table);
		table_close(table, NoLock);
	}
}

void
EsHeapsWrite(EsHeaps *heaps, EsKey *key, EsStateEntry *entry)
{
	NewHeap *heap;

	CHECK_FOR_INTERRUPTS();
	if (entry->state == NULL)
		return;
	heaps->key = key;
	heap = find_heap(heaps, entry->key);
	if (heap->nbatch == heap->max_batch)
	{
		heap->max_batch = Min(BATCH, heap->max_batch * 4);
		heap->batch = repalloc(heap->batch, sizeof(EsStateEntry *) * heap->max_batch);
	}
	heap->batch[heap->nbatch++] = entry;
	if (heap->nbatch == BATCH)
		flush(heaps, heap);
}

void
EsHeapsFlush(EsHeaps *heaps)
{
	ListCell *lc;

	foreach(lc, heaps->list)
		flush(heaps, lfirst(lc));
}

void
EsHeapsClose(EsHeaps *heaps)
{
	ListCell *lc;

	for (int i = 0; i < BATCH; i++)
	{
		ExecDropSingleTupleTableSlot(heaps->slots[i]);
		if (heaps->leaf_slots[i] != NULL)
			ExecDropSingleTupleTableSlot(heaps->leaf_slots[i]);
	}
	FreeBulkInsertState(heaps->bulk);
	foreach(lc, heaps->list)
	{
		NewHeap *heap = lfirst(lc);

		if (heap->heap == NULL)
			continue;
		table_finish_bulk_insert(heap->heap, OPTIONS);
		table_close(heap->heap, NoLock);
	}
	if (heaps->router != NULL)
		EsRouterEnd(heaps->router);
	EsDirectEnd(heaps->estate);
}

void
EsHeapsBuildIndexes(EsHeaps *heaps)
{
	ListCell *lc;

	foreach(lc, heaps->list)
		build_indexes(heaps, lfirst(lc));
}

EsStorage *
EsHeapsStorage(EsHeaps *heaps)
{
	EsStorage *storage = palloc(sizeof(EsStorage));

	storage->find = find_storage;
	storage->arg = heaps;
	return storage;
}

void
EsHeapsLock(EsHeaps *heaps)
{
	EsSwapLock(heaps->target, heaps->tables);
}

int64
EsHeapsSwap(EsHeaps *heaps)
{
	int64 rows = 0;
	ListCell *lc;

	foreach(lc, heaps->tables)
		rows += swap(heaps, lfirst_oid(lc));
	return rows;
}

List *
EsHeapsTables(EsHeaps *heaps)
{
	return heaps->tables;
}

/* Returns the heap for the rows of a key. */
static NewHeap *
find_heap(EsHeaps *heaps, const Datum *key)
{
	EsLeaf *leaf;

	if (heaps->router == NULL)
		return linitial(heaps->list);
	leaf = EsRouterFind(heaps->router, heaps->key, key);
	if (leaf->data == NULL)
		leaf->data = add_heap(heaps, leaf->result, leaf);
	return leaf->data;
}

/* Makes a new heap for a table; result is the executor's view of the table. */
static NewHeap *
add_heap(EsHeaps *heaps, ResultRelInfo *result, EsLeaf *leaf)
{
	MemoryContext old = MemoryContextSwitchTo(heaps->context);
	Relation table = result->ri_RelationDesc;
	NewHeap *heap = heap_of(heaps, RelationGetRelid(table));

	if (heap == NULL)
		heap = make_heap(heaps, table);
	heap->heap = table_open(heap->heap_relid, NoLock);
	heap->result = result;
	heap->leaf = leaf;
	heap->max_batch = 16;
	heap->batch = palloc(sizeof(EsStateEntry *) * heap->max_batch);
	MemoryContextSwitchTo(old);
	return heap;
}

/* Writes the states that wait for the heap. */
static void
flush(EsHeaps *heaps, NewHeap *heap)
{
	MemoryContext old = MemoryContextSwitchTo(heaps->batch_context);

	if (heaps->last != heap)
		ReleaseBulkInsertStatePin(heaps->bulk);
	heaps->last = heap;
	for (int i = 0; i < heap->nbatch; i++)
		heaps->rows[i] = make_row(heaps, heap, heap->batch[i], i);
	if (heap->nbatch > 0)
		table_multi_insert(heap->heap, heaps->rows, heap->nbatch, GetCurrentCommandId(true),
						   OPTIONS, heaps->bulk);
	for (int i = 0; i < heap->nbatch; i++)
	{
		ExecClearTuple(heaps->rows[i]);
		ExecClearTuple(heaps->slots[i]);
	}
	heap->rows += heap->nbatch;
	heap->nbatch = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(heaps->batch_context);
}

/* Turns a state into a row of the heap's table, in a slot of this number. */
static TupleTableSlot *
make_row(EsHeaps *heaps, NewHeap *heap, EsStateEntry *entry, int number)
{
	TupleTableSlot *row = heaps->slots[number];
	TupleConstr *constraints = RelationGetDescr(heap->result->ri_RelationDesc)->constr;

	ExecStoreHeapTuple(entry->state, row, false);
	EsStateCheckKey(heaps->key, entry->key, row);
	if (heap->leaf != NULL && heap->leaf->from_root != NULL)
		row = execute_attr_map_slot(heap->leaf->from_root->attrMap, row,
									leaf_slot(heaps, heap, number));
	if (constraints != NULL)
	{
		if (constraints->has_generated_stored)
			ExecComputeStoredGenerated(heap->result, heaps->estate, row, CMD_INSERT);
		ExecConstraints(heap->result, row, heaps->estate);
		ResetPerTupleExprContext(heaps->estate);
	}
	return row;
}

/* Returns the slot of this number for rows that the heap's table has in a form of its own. */
static TupleTableSlot *
leaf_slot(EsHeaps *heaps, NewHeap *heap, int number)
{
	TupleDesc desc = RelationGetDescr(heap->result->ri_RelationDesc);

	if (heaps->leaf_slots[number] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(heaps->context);

		heaps->leaf_slots[number] = MakeTupleTableSlot(NULL, &TTSOpsVirtual);
		MemoryContextSwitchTo(old);
	}
	if (heaps->leaf_slots[number]->tts_tupleDescriptor != desc)
		ExecSetSlotDescriptor(heaps->leaf_slots[number], desc);
	return heaps->leaf_slots[number];
}

/* EsStorage.find: a partition that no row has come for yet gets its heap now. */
static Oid
find_storage(EsStorage *storage, Relation table, Oid index, Oid *index_copy)
{
	EsHeaps *heaps = storage->arg;
	NewHeap *heap = heap_of(heaps, RelationGetRelid(table));

	if (heap == NULL)
	{
		heap = make_heap(heaps, table);
		build_indexes(heaps, heap);
	}
	*index_copy = EsSwapIndexOf(heap->indexes, index);
	return heap->heap_relid;
}

static void
build_indexes(EsHeaps *heaps, NewHeap *heap)
{
	bool is_target = heap->relid == RelationGetRelid(heaps->target);
	Relation table = is_target ? heaps->target : table_open(heap->relid, NoLock);
	MemoryContext old;

	old = MemoryContextSwitchTo(heaps->context);
	heap->indexes = EsSwapBuildIndexes(table, heap->heap_relid);
	MemoryContextSwitchTo(old);
	if (!is_target)
		table_close(table, NoLock);
}

/*
 * Puts the new heap in the place of a table's own, an empty one if no row has
 * come for it, and returns how many rows it has.
 */
static int64
swap(EsHeaps *heaps, Oid relid)
{
	bool is_target = relid == RelationGetRelid(heaps->target);
	Relation table = is_target ? heaps->target : table_open(relid, NoLock);
	NewHeap *heap = heap_of(heaps, relid);
	int64 rows = 0;

	if (heap == NULL && table->rd_rel->relkind == RELKIND_RELATION &&
		RelationGetNumberOfBlocks(table) > 0)
	{
		heap = make_heap(heaps, table);
		build_indexes(heaps, heap);
	}
	if (heap != NULL)
	{
		rows = heap->rows;
		EsSwapHeap(table, heap->heap_relid, heap->indexes);
		pgstat_count_truncate(table);
		pgstat_count_heap_insert(table, rows);
	}
	if (!is_target)
		table_close(table, NoLock);
	return rows;
}

/* Returns the table's new heap; null: there is none. */
static NewHeap *
heap_of(EsHeaps *heaps, Oid relid)
{
	ListCell *lc;

	foreach(lc, heaps->list)
	{
		NewHeap *heap = lfirst(lc);

		if (heap->relid == relid)
			return heap;
	}
	return NULL;
}

/* Creates a heap of the same kind as the table's. */
static NewHeap *
make_heap(EsHeaps *heaps, Relation table)
{
	MemoryContext old = MemoryContextSwitchTo(heaps->context);
	NewHeap *heap = palloc0(sizeof(NewHeap));

	heap->relid = RelationGetRelid(table);
	heap->heap_relid = make_new_heap(heap->relid, table->rd_rel->reltablespace,
									 table->rd_rel->relam, table->rd_rel->relpersistence,
									 ShareUpdateExclusiveLock);
	heaps->list = lappend(heaps->list, heap);
	MemoryContextSwitchTo(old);
	return heap;
}
