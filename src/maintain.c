/*
 * maintain.c
 *	  Folding events into the stored rows of a state table.
 *
 * The row of each key is fetched once, folded in memory, and written once.
 * Memory is bounded by work_mem: when the states outgrow it, they are written
 * and begun anew.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "maintain.h"
#include "miscadmin.h"
#include "state.h"
#include "utils/memutils.h"

struct EsMaintenance
{
	EsFold *fold;
	EsStateRows *rows;
	EsStates *states;
	volatile int64 *position;
};

/* Rows to write. */
typedef struct Changes
{
	EsStateEntry **entries;
	Size count;
} Changes;

static void collect_change(EsStateEntry *entry, void *arg);
static int compare_changes(const void *a, const void *b);

EsMaintenance *
EsMaintainBegin(EsProjection *projection, EsFold *fold, Relation target, bool quiet,
				EsStorage *storage, volatile int64 *position)
{
	EsMaintenance *maintenance = palloc(sizeof(EsMaintenance));

	maintenance->fold = fold;
	maintenance->rows = EsStateRowsOpen(target, fold->key, !projection->protect, quiet, storage);
	maintenance->states = EsStatesCreate(fold->key, 16);
	maintenance->position = position;
	return maintenance;
}

void
EsMaintainEvent(EsMaintenance *maintenance, TupleTableSlot *event, int64 position)
{
	EsFold *fold = maintenance->fold;
	Datum key[INDEX_MAX_KEYS];

	*maintenance->position = position;
	fold->key_econtext->ecxt_outertuple = event;
	if (EsKeyEval(fold->key, fold->key_econtext, key))
	{
		bool is_new;
		EsStateEntry *entry = EsStatesLookup(maintenance->states, key,
											 EsKeyHash(fold->key, key), &is_new);
		HeapTuple row;

		if (is_new)
			EsStateRowsFetch(maintenance->rows, maintenance->states, entry);
		row = EsApplyEvent(fold->apply, fold->econtext, entry->state, event);
		if (row != entry->state)
		{
			EsStatesKeep(maintenance->states, entry, row);
			entry->changed = true;
			entry->last_position = position;
		}
		ResetExprContext(fold->econtext);
	}
	ResetExprContext(fold->key_econtext);
	if (EsStatesMemory(maintenance->states) > (Size) work_mem * 1024)
	{
		EsMaintainWrite(maintenance);
		EsStatesDestroy(maintenance->states);
		maintenance->states = EsStatesCreate(fold->key, 16);
	}
}

/*
 * The rows are written in the order of their last changes, so that a unique
 * value can go from one row to another in a batch as it can event by event.
 * That is not enough where the batch holds the events of many transactions.  A
 * replay can remove all rows before it writes them.  The next command sees them.
 */
void
EsMaintainWrite(EsMaintenance *maintenance)
{
	Changes changes = {0};
	Size most = 1 + (Size) EsStatesCount(maintenance->states);

	changes.entries = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EsStateEntry *) * most);
	EsStatesVisit(maintenance->states, collect_change, &changes);
	qsort(changes.entries, changes.count, sizeof(EsStateEntry *), compare_changes);
	for (Size i = 0; i < changes.count; i++)
		EsStateRowsClear(maintenance->rows, changes.entries[i]);
	for (Size i = 0; i < changes.count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		*maintenance->position = changes.entries[i]->last_position;
		EsStateRowsWrite(maintenance->rows, changes.entries[i]);
	}
	pfree(changes.entries);
	CommandCounterIncrement();
}

int64
EsMaintainEnd(EsMaintenance *maintenance)
{
	int64 gained;

	EsStatesDestroy(maintenance->states);
	gained = EsStateRowsClose(maintenance->rows);
	pfree(maintenance);
	return gained;
}

static void
collect_change(EsStateEntry *entry, void *arg)
{
	Changes *changes = arg;

	if (entry->changed)
		changes->entries[changes->count++] = entry;
}

static int
compare_changes(const void *a, const void *b)
{
	int64 pa = (*(EsStateEntry *const *) a)->last_position;
	int64 pb = (*(EsStateEntry *const *) b)->last_position;

	return pa < pb ? -1 : pa > pb;
}
