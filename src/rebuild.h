/*
 * rebuild.h
 *	  Building a state table anew from the log.
 */
#ifndef ES_REBUILD_H
#define ES_REBUILD_H

#include "postgres.h"

#include "projection.h"

typedef struct EsRebuilt
{
	int64 events;         /* folded */
	int64 rows;           /* in the table now */
	int64 up_to_position; /* the log was read up to here */
} EsRebuilt;

/*
 * Replaces the rows of the projection's state table by the fold of all events
 * that are visible now.  The caller has opened target with
 * ShareRowExclusiveLock, so that nobody who applies this projection is under
 * way, and closes it before anything else uses it.
 */
extern EsRebuilt EsRebuild(EsProjection *projection, Relation target);

#endif /* ES_REBUILD_H */
