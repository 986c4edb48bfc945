/*
 * rebuild.h
 *	  Building a state table anew from the log.
 */
#ifndef ES_REBUILD_H
#define ES_REBUILD_H

#include "postgres.h"

#include "projection.h"

/*
 * Replaces the rows of the projection's state table by the fold of all events
 * that are visible now, as far as EsProjectionBound() goes.  The caller has opened target with
 * ShareUpdateExclusiveLock or a stronger one, but not one that conflicts with
 * those who read the table and then append to it, and closes it afterwards.
 * AccessExclusiveLock is taken for the end.  nworkers parallel workers may help
 * (see EsParallelWorkers()).
 */
extern EsApplied EsRebuild(EsProjection *projection, Relation target, int nworkers);

#endif /* ES_REBUILD_H */
