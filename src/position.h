/*
 * position.h
 *	  Positions in the log, and up to where nothing can appear any more.
 */
#ifndef ES_POSITION_H
#define ES_POSITION_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Returns the last position that was given out, 0 if none. */
extern int64 EsPositionLast(void);

/* Returns a new position; the aggregate's lock must be held. */
extern int64 EsPositionNext(void);

/* Returns about how many events there are. */
extern int64 EsLogEstimate(void);

/* Returns the high-water mark; a snapshot to read with is taken afterwards. */
extern int64 EsHighWaterMark(void);

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
