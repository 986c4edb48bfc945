/*
 * position.h
 *	  Positions in the log, and up to where nothing can appear any more.
 */
#ifndef ES_POSITION_H
#define ES_POSITION_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * A position has the number of the node above this many bits.  So there are
 * 2^15 nodes, of 2^48 positions each, and the positions of the first 32 nodes are
 * below 2^53, up to where a double is exact.
 */
#define ES_NODE_SHIFT 48
#define ES_MAX_NODE   0x7fff
#define ES_NODE_MASK  ((UINT64CONST(1) << ES_NODE_SHIFT) - 1)

#define ES_NODE_OF(position) ((int64) (position) >> ES_NODE_SHIFT)
#define ES_NODE_ORIGIN(node) ((int64) (node) << ES_NODE_SHIFT) /* before its first position */

/* Returns the last position that was given out; if none, the node's origin. */
extern int64 EsPositionLast(void);

/* Returns a new position; the aggregate's lock must be held. */
extern int64 EsPositionNext(void);

/* Says whether this transaction is registered as one that may add positions. */
extern bool EsPositionInFlight(void);

/* Returns about how many events there are. */
extern int64 EsLogEstimate(void);

/* Returns the high-water mark; a snapshot to read with is taken afterwards. */
extern int64 EsHighWaterMark(void);

/* Returns an older mark, which is as right, without computing it; 0 if none is known. */
extern int64 EsHighWaterMarkKnown(void);

/* Says whether the session has just computed a mark, and should wait before it does again. */
extern bool EsHighWaterMarkIsRecent(void);

/* Lets hot standbys know a mark: EsHighWaterMark() returns it there. */
extern void EsHighWaterMarkPublish(int64 mark);

/*
 * Keeps the mark at 0 as long as this session lasts, or no longer: it loads
 * positions that it brings along.
 */
extern void EsPositionHold(bool hold);

/*
 * Waits until the mark is above the one seen before, or the time is over (DT_NOEND:
 * never is); returns the mark.  Takes no lock and no snapshot.
 */
extern int64 EsHighWaterMarkWait(int64 seen, TimestampTz until);

#endif /* ES_POSITION_H */
