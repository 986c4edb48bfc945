/*
 * catchup.h
 *	  Bringing a state table up to date with events that it lacks.
 */
#ifndef ES_CATCHUP_H
#define ES_CATCHUP_H

#include "postgres.h"

#include "projection.h"
#include "state.h"

/*
 * Applies a range of the visible events to a state table, in their order.  The
 * caller has opened target, and keeps all others who apply the projection away.
 * quiet: fire none of the table's triggers; storage: see EsStateRowsOpen() (both
 * for folds only).
 */
extern EsApplied EsCatchUp(EsProjection *projection, Relation target, EsRange range, bool quiet,
						   EsStorage *storage);

#endif /* ES_CATCHUP_H */
