/*
 * swap.h
 *	  Putting a new heap in the place of a table's own.
 */
#ifndef ES_SWAP_H
#define ES_SWAP_H

#include "postgres.h"

#include "utils/rel.h"

/*
 * Takes AccessExclusiveLock on the table, which the caller has opened once,
 * gives it the storage of heap (made by make_new_heap()), drops that, and
 * rebuilds the indexes.  Raises 55P03 if the lock can't be had in time.
 */
extern void EsSwapHeap(Relation table, Oid heap);

/* Checks the foreign keys from and to the new rows, which nothing has looked at. */
extern void EsSwapCheckForeignKeys(Relation table);

#endif /* ES_SWAP_H */
