/*
 * maintain.h
 *	  Folding events into the stored rows of a state table.
 */
#ifndef ES_MAINTAIN_H
#define ES_MAINTAIN_H

#include "postgres.h"

#include "projection.h"
#include "state.h"

typedef struct EsMaintenance EsMaintenance;

/*
 * Starts to maintain the rows of target, which the caller has opened with
 * RowExclusiveLock, acting as the projection's owner.  quiet: fire none of its
 * triggers, foreign keys' included.  storage: see EsStateRowsOpen().  *position
 * is set to the event at work, or to the last one of the row at work.
 */
extern EsMaintenance *EsMaintainBegin(EsProjection *projection, EsFold *fold, Relation target,
									  bool quiet, EsStorage *storage,
									  volatile int64 *position);

/* Folds the next event, in position order, that the projection wants. */
extern void EsMaintainEvent(EsMaintenance *maintenance, TupleTableSlot *event, int64 position);

/* Writes what is folded and not yet written. */
extern void EsMaintainWrite(EsMaintenance *maintenance);

/*
 * Fires the triggers of the rows written, and closes the table's rows.  Returns
 * how many rows the table has gained.
 */
extern int64 EsMaintainEnd(EsMaintenance *maintenance);

#endif /* ES_MAINTAIN_H */
