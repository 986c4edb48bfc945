/*
 * catchup.h
 *	  Folding into a state table's rows the events that they lack.
 */
#ifndef ES_CATCHUP_H
#define ES_CATCHUP_H

#include "postgres.h"

#include "projection.h"

typedef struct EsCaughtUp
{
	int64 events;         /* folded */
	int64 rows;           /* gained */
	int64 up_to_position; /* of the last event read; as given if there was none */
} EsCaughtUp;

/*
 * Folds the visible events above a position, with a fold of the projection.
 * The caller has opened target, with a lock that keeps all others who apply
 * the projection away.  quiet: fire none of the table's triggers.
 */
extern EsCaughtUp EsCatchUp(EsProjection *projection, EsFold *fold, Relation target, int64 after,
							bool quiet);

#endif /* ES_CATCHUP_H */
