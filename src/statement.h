/*
 * statement.h
 *	  Keeping a projection by SQL statements.
 */
#ifndef ES_STATEMENT_H
#define ES_STATEMENT_H

#include "postgres.h"

#include "projection.h"
#include "utils/tuplestore.h"

/*
 * Runs the projection's statements for the events of a tuplestore, in their
 * order, as the projection's owner.  *position is set to the event at work.
 * The caller has opened target with RowExclusiveLock, and es.events.
 */
extern void EsStatementsRun(EsProjection *projection, Relation target, Tuplestorestate *events,
							volatile int64 *position);

/* Says whether a statement of the table's projection is running, so that it may be written. */
extern bool EsStatementsWriting(Oid table);

/* Deletes all rows of the state table, as the projection's owner. */
extern void EsStatementsEmpty(EsProjection *projection, Relation target);

/*
 * Runs the statements for a range of the visible events.  The caller has opened
 * target, and keeps all others who run them away.
 */
extern EsApplied EsStatementsCatchUp(EsProjection *projection, Relation target, EsRange range);

/*
 * Empties the state table and runs the statements for all events that are
 * visible now, as far as EsProjectionBound() goes.  Takes ShareRowExclusiveLock
 * on target, which the caller has opened.
 * Raises SE009 if the statements write other tables, which are not emptied.
 */
extern EsApplied EsStatementsRebuild(EsProjection *projection, Relation target);

#endif /* ES_STATEMENT_H */
