/*
 * state.h
 *	  The rows of a state table: those being folded in memory, and those stored.
 */
#ifndef ES_STATE_H
#define ES_STATE_H

#include "postgres.h"

#include "access/htup.h"
#include "key.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"
#include "utils/rel.h"

/* A row being folded. */
typedef struct EsStateEntry
{
	Datum *key;
	HeapTuple state;     /* null: there is no row */
	int64 last_position; /* of the last event folded (inline: that changed it) */
	uint32 allocated;    /* bytes that state may take in place */
	uint32 hash;
	ItemPointerData tid; /* of the stored row; invalid: not stored */
	bool changed;
	bool misordered; /* an event came after one that follows it */
	char status;     /* of the hash table */
} EsStateEntry;

/* The rows being folded, by key. */
typedef struct EsStates EsStates;

/* Makes an empty set of states in a memory context of its own below the current one. */
extern EsStates *EsStatesCreate(EsKey *key, uint32 expected);
extern void EsStatesDestroy(EsStates *states);

/* Returns the entry of a key; a new one has no row. */
extern EsStateEntry *EsStatesLookup(EsStates *states, const Datum *key, uint32 hash, bool *is_new);

/* Returns the entry of a key, or null. */
extern EsStateEntry *EsStatesFind(EsStates *states, const Datum *key, uint32 hash);

/*
 * Fetch into the processor's cache what a lookup of this hash will need, and
 * then what folding into the row will need.
 */
extern void EsStatesPrefetch(EsStates *states, uint32 hash);
extern void EsStatesPrefetchRow(EsStates *states, uint32 hash);

/* Keeps a copy of the row as the entry's state; null: no row. */
extern void EsStatesKeep(EsStates *states, EsStateEntry *entry, HeapTuple row);

/* Bytes in use, counting those that the next new key may need. */
extern Size EsStatesMemory(EsStates *states);
extern uint32 EsStatesCount(EsStates *states);

/* Calls visit for each entry, in no order. */
typedef void (*EsStateVisitor)(EsStateEntry *entry, void *arg);
extern void EsStatesVisit(EsStates *states, EsStateVisitor visit, void *arg);

/*
 * Storage that a table and its partitions are to get: heaps of their columns,
 * without their triggers and constraints.
 */
typedef struct EsStorage
{
	/*
	 * Returns the heap of a table that has rows, and the index on it that is like
	 * one of the table's; makes them if they are not there.
	 */
	Oid (*find)(struct EsStorage *storage, Relation table, Oid index, Oid *index_copy);
	void *arg;
} EsStorage;

/* Direct access to the stored rows of a state table. */
typedef struct EsStateRows EsStateRows;

/*
 * Opens the state table's rows for reading and writing.  The caller holds
 * RowExclusiveLock on the table, and whatever keeps other projections' writers
 * off the keys that it will fetch.  lock_rows: others may write the table too,
 * so lock each row that is fetched.  quiet: fire no triggers.  storage, unless
 * null, has the rows instead of the table.
 */
extern EsStateRows *EsStateRowsOpen(Relation table, EsKey *key, bool lock_rows, bool quiet,
									EsStorage *storage);

/*
 * Fetches the newest version of the key's row as the entry's state, waiting
 * for whoever is writing it.  Raises 40001 where the transaction's snapshot
 * is too old to see it.
 */
extern void EsStateRowsFetch(EsStateRows *rows, EsStates *states, EsStateEntry *entry);

/*
 * Deletes the row to be written, if it is in storage that nobody sees yet.  Once
 * all those of a batch are gone, it doesn't matter for unique values in which
 * order they are written.
 */
extern void EsStateRowsClear(EsStateRows *rows, EsStateEntry *entry);

/* Inserts, updates or deletes the row as the entry's state says. */
extern void EsStateRowsWrite(EsStateRows *rows, EsStateEntry *entry);

/* Fires the table's AFTER triggers and closes the rows; returns how many there are more. */
extern int64 EsStateRowsClose(EsStateRows *rows);

/* Raises an error unless the row in slot has the key. */
extern void EsStateCheckKey(EsKey *key, const Datum *values, TupleTableSlot *row);

#endif /* ES_STATE_H */
