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
 * Takes AccessExclusiveLock on the tables, in their order.  Raises 55P03 in the
 * name of state if they can't be had in time.
 */
extern void EsSwapLock(Relation state, List *tables);

/*
 * Gives the table, which the caller has opened once and locked, the storage of
 * heap (made by make_new_heap()), drops that, and rebuilds the indexes.
 */
extern void EsSwapHeap(Relation table, Oid heap);

/* Checks the foreign keys from and to the tables' new rows, which nothing has looked at. */
extern void EsSwapCheckForeignKeys(List *tables);

#endif /* ES_SWAP_H */
