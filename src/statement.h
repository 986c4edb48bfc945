/*
 * statement.h
 *	  Keeping a projection by SQL statements.
 */
#ifndef ES_STATEMENT_H
#define ES_STATEMENT_H

#include "postgres.h"

#include "projection.h"
#include "rebuild.h"
#include "utils/tuplestore.h"

/*
 * Runs the projection's statements for the events of a tuplestore, in their
 * order, as the projection's owner.  *position is set to the event at work.
 * The caller has opened target with RowExclusiveLock.
 */
extern void EsStatementsRun(EsProjection *projection, Relation target, Tuplestorestate *events,
							volatile int64 *position);

/* Says whether a statement of the table's projection is running, so that it may be written. */
extern bool EsStatementsWriting(Oid table);

/* Says whether the statements of some projection are being replayed. */
extern bool EsStatementsReplaying(void);

/*
 * Runs the statements for the visible events above a position and returns how
 * many there were.  The caller has opened target with ShareRowExclusiveLock.
 */
extern int64 EsStatementsCatchUp(EsProjection *projection, Relation target, int64 after);

/*
 * Empties the state table and runs the statements for all events that are
 * visible now.  Takes ShareRowExclusiveLock on target, which the caller has opened.
 * Raises SE009 if the statements write other tables, which are not emptied.
 */
extern EsRebuilt EsStatementsRebuild(EsProjection *projection, Relation target);

#endif /* ES_STATEMENT_H */
