/*
 * keylock.h
 *	  Serialising those who feed one row from several aggregates.
 */
#ifndef ES_KEYLOCK_H
#define ES_KEYLOCK_H

#include "postgres.h"

#include "nodes/bitmapset.h"
#include "projection.h"

/*
 * Says whether one row can get events of several aggregates, so that its key
 * must be locked.  Otherwise the aggregate's lock is enough.
 */
extern bool EsKeyLocksNeeded(EsProjection *projection, EsFold *fold);

/* Adds to the set the number of the lock for a key of this hash. */
extern Bitmapset *EsKeyLocksAdd(Bitmapset *locks, uint32 hash);

/* Takes all locks of the set, in one order for everybody, to the end of the transaction. */
extern void EsKeyLocksTake(Bitmapset *locks);

#endif /* ES_KEYLOCK_H */
