/*
 * swap.h
 *	  Putting a new heap in the place of a table's own.
 */
#ifndef ES_SWAP_H
#define ES_SWAP_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/rel.h"

/*
 * New storage is brought up to date before the lock is taken: until fewer events
 * than these were new, or for so many passes.
 */
#define ES_SWAP_EVENTS 100
#define ES_SWAP_PASSES 10

/*
 * Takes AccessExclusiveLock on the tables, in their order, their indexes and
 * toast tables, and a weaker one on tables at the other ends of foreign keys.
 * Raises 55P03 in the name of state if they can't be had in time.
 */
extern void EsSwapLock(Relation state, List *tables);

/*
 * Builds, on a heap made by make_new_heap() for the table and filled since,
 * indexes like the table's, for EsSwapHeap() to take.
 */
extern List *EsSwapBuildIndexes(Relation table, Oid heap);

/* Says whether there is one for each of the table's. */
extern bool EsSwapHasAll(List *indexes);

/* Returns the one that is like an index of the table; invalid: there is none. */
extern Oid EsSwapIndexOf(List *indexes, Oid index);

/*
 * Gives the table, which the caller has opened once and locked, the storage of
 * heap and of its indexes, and drops the former.
 */
extern void EsSwapHeap(Relation table, Oid heap, List *indexes);

/* Checks the foreign keys from and to the tables' new rows, which nothing has looked at. */
extern void EsSwapCheckForeignKeys(List *tables);

#endif /* ES_SWAP_H */
