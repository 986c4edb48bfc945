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

/* Makes the projection depend on all that its statements use.  The caller has opened target. */
extern void EsStatementsDepend(EsProjection *projection, Relation target);

/* Says whether a statement of the table's projection is running, so that it may be written. */
extern bool EsStatementsWriting(Oid table);

/* Deletes all rows of the state table, as the projection's owner. */
extern void EsStatementsEmpty(EsProjection *projection, Relation target);

/*
 * Runs the statements for a range of the visible events.  The caller has opened
 * target, and keeps all others who run them away.
 */
extern EsApplied EsStatementsCatchUp(EsProjection *projection, Relation target, EsRange range);

/* What to do where a replay is possible in place only. */
#define ES_IN_PLACE_HINT \
	"es.replay(..., in_place => true) replays in place, while writers wait."

/*
 * Runs the statements for all events that are visible now, as far as
 * EsProjectionBound() goes, with other storage in the place of the state table,
 * which gets that storage then.  The caller has opened target with
 * ShareUpdateExclusiveLock; AccessExclusiveLock is taken for the end.  Raises
 * SE009 where that isn't possible, or where the statements write other tables.
 */
extern EsApplied EsStatementsRebuild(EsProjection *projection, Relation target);

/*
 * Runs the statements for a range of events, with new storage in the place of the
 * state table, and returns the storage, a table, which the caller drops.
 * *up_to_position is set to that of the last event.  The caller has opened target.
 * Raises SE009, with the hint, where that isn't possible.
 */
extern Oid EsStatementsBeside(EsProjection *projection, Relation target, EsRange range,
							  const char *hint, int64 *up_to_position);

/*
 * Does so in the table itself: empties it and runs the statements.  Takes
 * ShareRowExclusiveLock on target, which the caller has opened.
 */
extern EsApplied EsStatementsRebuildInPlace(EsProjection *projection, Relation target);

#endif /* ES_STATEMENT_H */
