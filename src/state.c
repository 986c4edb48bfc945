/*
 * state.c
 *	  The rows of a state table: those being folded in memory, and those stored.
 *
 * In memory, the states are a hash table by key.  Each row is kept as a plain
 * heap tuple, overwritten in place as long as the next one fits.
 *
 * Stored rows are found through the primary key and changed as logical
 * replication does it: constraints, indexes and row triggers work as ever,
 * permissions and statement triggers are not looked at (which is how the
 * trigger that refuses direct writes lets the projection through).
 *
 * Rows are found with a dirty snapshot: the caller's lock on the key keeps
 * other projections' writers away, so the newest committed version, or our
 * own, is the one to fold on.  It may have been written after the
 * transaction's snapshot was taken; then REPEATABLE READ and SERIALIZABLE
 * transactions fail with 40001, as an UPDATE of the row would.
 *
 * Rows of a partitioned table are found, locked and changed in the partition
 * that the key belongs to.  In memory they are rows of the whole table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "compat.h"
#include "direct.h"
#include "errors.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "route.h"
#include "state.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define SH_PREFIX          entries
#define SH_ELEMENT_TYPE    EsStateEntry
#define SH_KEY_TYPE        Datum *
#define SH_KEY             key
#define SH_HASH_KEY(tb, k) EsKeyHash((EsKey *) (tb)->private_data, k)
#define SH_EQUAL(tb, a, b) EsKeyEqual((EsKey *) (tb)->private_data, a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) (entry)->hash
#define SH_SCOPE               static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define PREFETCH_DISTANCE 8

struct EsStates
{
	MemoryContext context;
	EsKey *key;
	entries_hash *entries;
};

/* A table that has rows: the state table, or one of its partitions. */
typedef struct Store
{
	Relation table;
	Relation index; /* of the primary key */
	IndexScanDesc scan;
	ResultRelInfo *result;
	TupleTableSlot *stored; /* a row of the table */
	EsLeaf *leaf;           /* null: it is the state table itself */
	ResultRelInfo *checks;  /* of the table that this is to be the storage of; or null */
} Store;

struct EsStateRows
{
	EsKey *key;
	bool lock_rows;
	bool quiet;
	SnapshotData dirty;
	EState *estate;
	EPQState epqstate;
	Store whole;         /* the state table, unless it is partitioned */
	EsRouter *router;    /* if it is */
	EsStorage *storage;  /* that has the rows; null: the table has */
	TupleTableSlot *row; /* the row to write */
	int64 gained;        /* rows inserted, less those deleted */
};

static void open_store(EsStateRows *rows, Store *store, ResultRelInfo *result, Oid index);
static void open_storage(EsStateRows *rows, Store *store, ResultRelInfo *result, Oid index);
static void write_storage(EsStateRows *rows, Store *store, EsStateEntry *entry,
						  TupleTableSlot *row);
static void close_store(Store *store);
static Store *find_store(EsStateRows *rows, const Datum *key);
static bool find_row(EsStateRows *rows, Store *store, const Datum *key);
static bool wait_for_writer(EsStateRows *rows, Store *store);
static bool lock_row(Store *store);
static void check_visible(Store *store);
pg_noreturn static void serialization_failure(Store *store);

EsStates *
EsStatesCreate(EsKey *key, uint32 expected)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es states",
												  ALLOCSET_DEFAULT_SIZES);
	EsStates *states = MemoryContextAlloc(context, sizeof(EsStates));

	states->context = context;
	states->key = key;
	states->entries = entries_create(context, expected, key);
	return states;
}

void
EsStatesDestroy(EsStates *states)
{
	MemoryContextDelete(states->context);
}

EsStateEntry *
EsStatesLookup(EsStates *states, const Datum *key, uint32 hash, bool *is_new)
{
	bool found;
	EsStateEntry *entry = entries_insert_hash(states->entries, (Datum *) key, hash, &found);

	*is_new = !found;
	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(states->context);

		entry->key = EsKeyCopy(states->key, key);
		entry->state = NULL;
		entry->allocated = 0;
		entry->last_position = 0;
		ItemPointerSetInvalid(&entry->tid);
		entry->changed = false;
		entry->misordered = false;
		MemoryContextSwitchTo(old);
	}
	return entry;
}

EsStateEntry *
EsStatesFind(EsStates *states, const Datum *key, uint32 hash)
{
	return entries_lookup_hash(states->entries, (Datum *) key, hash);
}

void
EsStatesPrefetch(EsStates *states, uint32 hash)
{
	EsStateEntry *entry = &states->entries->data[hash & states->entries->sizemask];

	EsPrefetch(entry);
	EsPrefetch((char *) entry + PG_CACHE_LINE_SIZE / 2);
}

void
EsStatesPrefetchRow(EsStates *states, uint32 hash)
{
	/* An entry is seldom far from its place; one that is, is not prefetched. */
	for (uint32 distance = 0; distance < PREFETCH_DISTANCE; distance++)
	{
		EsStateEntry *entry = &states->entries->data[(hash + distance) & states->entries->sizemask];

		if (entry->status != entries_SH_IN_USE)
			return;
		if (entry->hash == hash)
		{
			EsPrefetch(entry->key);
			if (entry->state != NULL)
			{
				EsPrefetch(entry->state);
				EsPrefetch((char *) entry->state + PG_CACHE_LINE_SIZE / 2);
			}
			return;
		}
	}
}

void
EsStatesKeep(EsStates *states, EsStateEntry *entry, HeapTuple row)
{
	if (row == NULL)
	{
		if (entry->state != NULL)
			pfree(entry->state);
		entry->state = NULL;
		entry->allocated = 0;
		return;
	}
	if (row->t_len > entry->allocated)
	{
		if (entry->state != NULL)
			pfree(entry->state);
		entry->state = MemoryContextAlloc(states->context, HEAPTUPLESIZE + row->t_len);
		entry->allocated = row->t_len;
	}
	entry->state->t_len = row->t_len;
	entry->state->t_self = row->t_self;
	entry->state->t_tableOid = row->t_tableOid;
	entry->state->t_data = (HeapTupleHeader) ((char *) entry->state + HEAPTUPLESIZE);
	memcpy(entry->state->t_data, row->t_data, row->t_len);
}

Size
EsStatesMemory(EsStates *states)
{
	Size memory = MemoryContextMemAllocated(states->context, true);

	if (states->entries->members + 1 >= states->entries->grow_threshold)
		memory += 2 * states->entries->size * sizeof(EsStateEntry);
	return memory;
}

uint32
EsStatesCount(EsStates *states)
{
	return states->entries->members;
}

void
EsStatesVisit(EsStates *states, EsStateVisitor visit, void *arg)
{
	entries_iterator iterator;
	EsStateEntry *entry;

	entries_start_iterate(states->entries, &iterator);
	while ((entry = entries_iterate(states->entries, &iterator)) != NULL)
		visit(entry, arg);
}

EsStateRows *
EsStateRowsOpen(Relation table, EsKey *key, bool lock_rows, bool quiet, EsStorage *storage)
{
	EsStateRows *rows = palloc0(sizeof(EsStateRows));
	ResultRelInfo *result;

	rows->key = key;
	rows->lock_rows = lock_rows;
	rows->quiet = quiet;
	rows->storage = storage;
	InitDirtySnapshot(rows->dirty);
	rows->estate = EsDirectBegin(table, &result);
	EsEvalPlanQualInit(&rows->epqstate, rows->estate);
	if (table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		rows->router = EsRouterBegin(rows->estate, result);
	else if (storage != NULL)
		open_storage(rows, &rows->whole, result, key->index);
	else
		open_store(rows, &rows->whole, result, key->index);
	rows->row = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsHeapTuple);
	AfterTriggerBeginQuery();
	return rows;
}

void
EsStateRowsFetch(EsStateRows *rows, EsStates *states, EsStateEntry *entry)
{
	Store *store = find_store(rows, entry->key);
	TupleTableSlot *slot;
	HeapTuple row;
	bool should_free;

	do
	{
		if (!find_row(rows, store, entry->key))
			return;
	} while (rows->lock_rows && !lock_row(store));
	check_visible(store);

	slot = store->leaf == NULL ? store->stored
							   : EsLeafToRoot(rows->router, store->leaf, store->stored);
	row = ExecFetchSlotHeapTuple(slot, false, &should_free);
	EsStatesKeep(states, entry, row);
	entry->tid = store->stored->tts_tid;
	if (should_free)
		heap_freetuple(row);
	ExecClearTuple(store->stored);
}

void
EsStateRowsClear(EsStateRows *rows, EsStateEntry *entry)
{
	if (rows->storage == NULL || !ItemPointerIsValid(&entry->tid))
		return;
	simple_table_tuple_delete(find_store(rows, entry->key)->table, &entry->tid,
							  rows->estate->es_snapshot);
	ItemPointerSetInvalid(&entry->tid);
	rows->gained--;
}

void
EsStateRowsWrite(EsStateRows *rows, EsStateEntry *entry)
{
	bool stored = ItemPointerIsValid(&entry->tid);
	Store *store = find_store(rows, entry->key);
	TupleTableSlot *row = rows->row;

	if (entry->state != NULL)
	{
		ExecStoreHeapTuple(entry->state, row, false);
		EsStateCheckKey(rows->key, entry->key, row);
		if (store->leaf != NULL)
			row = EsLeafFromRoot(store->leaf, row);
	}
	store->stored->tts_tid = entry->tid;

	if (store->checks != NULL)
		write_storage(rows, store, entry, row);
	else if (stored && entry->state != NULL)
		ExecSimpleRelationUpdate(store->result, rows->estate, &rows->epqstate, store->stored, row);
	else if (stored)
		ExecSimpleRelationDelete(store->result, rows->estate, &rows->epqstate, store->stored);
	else if (entry->state != NULL)
		ExecSimpleRelationInsert(store->result, rows->estate, row);
	rows->gained += (entry->state != NULL) - stored;

	ExecClearTuple(row);
	ExecClearTuple(rows->row);
	ResetPerTupleExprContext(rows->estate);
}

int64
EsStateRowsClose(EsStateRows *rows)
{
	int64 gained = rows->gained;
	ListCell *lc;

	AfterTriggerEndQuery(rows->estate);
	EvalPlanQualEnd(&rows->epqstate);
	if (rows->router != NULL)
	{
		foreach(lc, EsRouterLeaves(rows->router))
			close_store(((EsLeaf *) lfirst(lc))->data);
		EsRouterEnd(rows->router);
	}
	else
		close_store(&rows->whole);
	ExecDropSingleTupleTableSlot(rows->row);
	EsDirectEnd(rows->estate);
	pfree(rows);
	return gained;
}

void
EsStateCheckKey(EsKey *key, const Datum *values, TupleTableSlot *row)
{
	Datum actual[INDEX_MAX_KEYS];

	if (EsKeyMatches(key, values, row))
		return;
	for (int i = 0; i < key->ncolumns; i++)
	{
		bool isnull;

		actual[i] = slot_getattr(row, key->columns[i].attnum, &isnull);
		if (isnull)
			ereport(ERROR,
					(errcode(ES_ERRCODE_INVALID_PROJECTION),
					 errmsg("apply function returned a row without a key for the key %s",
							EsKeyText(key, values)),
					 errhint("The first event of a row must set its primary key; return NULL for no row.")));
	}
	ereport(ERROR,
			(errcode(ES_ERRCODE_INVALID_PROJECTION),
			 errmsg("apply function returned a row with the key %s for the key %s",
					EsKeyText(key, actual), EsKeyText(key, values)),
			 errhint("The key is computed from the event; the row must have the same.")));
}

/* Opens storage beside the table that result is the executor's view of. */
static void
open_storage(EsStateRows *rows, Store *store, ResultRelInfo *result, Oid index)
{
	ResultRelInfo *beside = makeNode(ResultRelInfo);
	Oid index_copy;
	Oid heap = rows->storage->find(rows->storage, result->ri_RelationDesc, index, &index_copy);

	InitResultRelInfo(beside, table_open(heap, NoLock), 1, NULL, 0);
	ExecOpenIndices(beside, false);
	open_store(rows, store, beside, index_copy);
	store->checks = result;
}

/* Puts a row in place of the stored one in storage beside the table. */
static void
write_storage(EsStateRows *rows, Store *store, EsStateEntry *entry, TupleTableSlot *row)
{
	TupleConstr *constraints = RelationGetDescr(store->checks->ri_RelationDesc)->constr;

	if (ItemPointerIsValid(&entry->tid))
		simple_table_tuple_delete(store->table, &entry->tid, rows->estate->es_snapshot);
	if (entry->state == NULL)
		return;
	if (constraints != NULL)
	{
		if (constraints->has_generated_stored)
			ExecComputeStoredGenerated(store->checks, rows->estate, row, CMD_INSERT);
		ExecConstraints(store->checks, row, rows->estate);
	}
	simple_table_tuple_insert(store->table, row);
	(void) EsExecInsertIndexTuples(store->result, row, rows->estate, false, false, NULL, NIL);
}

/* Opens a table that has rows; result is the executor's view of it. */
static void
open_store(EsStateRows *rows, Store *store, ResultRelInfo *result, Oid index)
{
	store->result = result;
	store->table = result->ri_RelationDesc;
	store->index = index_open(index, RowExclusiveLock);
	store->scan = EsIndexBeginScan(store->table, store->index, &rows->dirty, rows->key->ncolumns);
	store->stored = table_slot_create(store->table, NULL);
	if (rows->quiet)
		result->ri_TrigDesc = NULL;
}

static void
close_store(Store *store)
{
	index_endscan(store->scan);
	index_close(store->index, NoLock);
	ExecDropSingleTupleTableSlot(store->stored);
	if (store->checks != NULL)
	{
		ExecCloseIndices(store->result);
		table_close(store->table, NoLock);
	}
}

/* Returns the table that the key's row is in, or would be. */
static Store *
find_store(EsStateRows *rows, const Datum *key)
{
	EsLeaf *leaf;

	if (rows->router == NULL)
		return &rows->whole;
	leaf = EsRouterFind(rows->router, rows->key, key);
	if (leaf->data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(rows->estate->es_query_cxt);
		Store *store = palloc0(sizeof(Store));

		store->leaf = leaf;
		if (rows->storage != NULL)
			open_storage(rows, store, leaf->result, EsLeafIndex(leaf, rows->key->index));
		else
			open_store(rows, store, leaf->result, EsLeafIndex(leaf, rows->key->index));
		leaf->data = store;
		MemoryContextSwitchTo(old);
	}
	return leaf->data;
}

/*
 * Finds the newest version of the key's row that is committed or our own.  The
 * index is a B-tree, which finds nothing that must be looked at again.
 */
static bool
find_row(EsStateRows *rows, Store *store, const Datum *key)
{
	ScanKeyData scankeys[INDEX_MAX_KEYS];

	EsKeyScanKeys(rows->key, key, scankeys);
	do
	{
		index_rescan(store->scan, scankeys, rows->key->ncolumns, NULL, 0);
		if (!index_getnext_slot(store->scan, ForwardScanDirection, store->stored))
			return false;
	} while (wait_for_writer(rows, store));
	return true;
}

/* Waits for the transaction that is writing the row found; false: there is none. */
static bool
wait_for_writer(EsStateRows *rows, Store *store)
{
	TransactionId writer = rows->dirty.xmin;
	ItemPointerData tid = store->stored->tts_tid;

	if (!TransactionIdIsValid(writer))
		writer = rows->dirty.xmax;

	if (!TransactionIdIsValid(writer))
		return false;
	ExecClearTuple(store->stored);
	XactLockTableWait(writer, store->table, &tid, XLTW_FetchUpdated);
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* Locks the row found; false: it changed meanwhile and must be found again. */
static bool
lock_row(Store *store)
{
	TM_FailureData failure;
	TM_Result result = table_tuple_lock(store->table, &store->stored->tts_tid, GetActiveSnapshot(),
										store->stored, GetCurrentCommandId(false),
										LockTupleNoKeyExclusive, LockWaitBlock, 0, &failure);

	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			if (IsolationUsesXactSnapshot())
				serialization_failure(store);
			return false;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("row of state table \"%s\" was already changed by the current command",
							RelationGetRelationName(store->table))));
	}
}

/* Refuses a row that the transaction's fixed snapshot can't see. */
static void
check_visible(Store *store)
{
	Datum xmin;
	bool isnull;

	if (!IsolationUsesXactSnapshot())
		return;
	xmin = slot_getsysattr(store->stored, MinTransactionIdAttributeNumber, &isnull);
	if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin)))
		return;
	if (!table_tuple_satisfies_snapshot(store->table, store->stored, GetTransactionSnapshot()))
		serialization_failure(store);
}

static void
serialization_failure(Store *store)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update of state table \"%s\"",
					RelationGetRelationName(store->table))));
}
