/*
 * async.h
 *	  Projections that run behind the writers, for who runs them all the time.
 */
#ifndef ES_ASYNC_H
#define ES_ASYNC_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * Returns the names (char *) of the current user's async projections that have
 * not got to a position, the furthest behind first, without those that are stopped.
 */
extern List *EsAsyncBehind(int64 mark);

/*
 * Applies at most max_events to a projection, or parks some, unless it is stopped,
 * as es.run_projections() does, but waits neither for its table nor for another
 * session that runs it; false: it would have had to.  more: there are further events.
 */
extern bool EsAsyncRun(const char *name, int64 max_events, bool *more);

#endif /* ES_ASYNC_H */
