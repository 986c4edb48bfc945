/*
 * heaps.h
 *	  The heaps that a rebuild fills: one for the state table, or one for each of
 *	  its partitions.
 */
#ifndef ES_HEAPS_H
#define ES_HEAPS_H

#include "postgres.h"

#include "key.h"
#include "state.h"
#include "utils/rel.h"

typedef struct EsHeaps EsHeaps;

/*
 * Starts filling heaps for target, which the caller has opened with
 * ShareUpdateExclusiveLock or a stronger one.  The same lock is taken on its
 * partitions.
 */
extern EsHeaps *EsHeapsOpen(Relation target);

/* Makes the heaps of all partitions now: it can't be done in a parallel operation. */
extern void EsHeapsMakeAll(EsHeaps *heaps);

/* Writes a state that is final.  It must stay as it is until EsHeapsFlush(). */
extern void EsHeapsWrite(EsHeaps *heaps, EsKey *key, EsStateEntry *entry);
extern void EsHeapsFlush(EsHeaps *heaps);

/* Ends the writing. */
extern void EsHeapsClose(EsHeaps *heaps);

/* Builds indexes on the heaps, like those of the tables. */
extern void EsHeapsBuildIndexes(EsHeaps *heaps);

/* Returns the storage that is to be the tables', with its indexes, to be kept up to date. */
extern EsStorage *EsHeapsStorage(EsHeaps *heaps);

/* Takes AccessExclusiveLock on the state table and its partitions: see EsSwapLock(). */
extern void EsHeapsLock(EsHeaps *heaps);

/*
 * Puts the heaps, with their indexes, in the place of the tables' own, which are
 * locked, and returns how many rows were written.
 */
extern int64 EsHeapsSwap(EsHeaps *heaps);

/* Returns the OIDs of the state table and of its partitions. */
extern List *EsHeapsTables(EsHeaps *heaps);

#endif /* ES_HEAPS_H */
