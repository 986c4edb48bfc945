/*
 * failure.h
 *	  Errors of projections' code.
 */
#ifndef ES_FAILURE_H
#define ES_FAILURE_H

#include "postgres.h"

#include "compat.h"
#include "executor/tuptable.h"
#include "utils/tuplestore.h"

/* Says whether an error may come from the event, not from the system or another transaction. */
extern bool EsFailureToBlame(ErrorData *error);

/* Fetches the event at a position, reading on; null: it is not there. */
extern TupleTableSlot *EsFailureFindEvent(Tuplestorestate *events, TupleTableSlot *event,
										  int64 position);

/*
 * Rethrows the current error of a projection's code, which writes the table target,
 * as SE008; event: the one that it is about, or null, then position says where the
 * last event is that it may be about, if it is not 0.
 */
pg_noreturn extern void EsFailureRaise(const char *projection, Oid target, TupleTableSlot *event,
									   int64 position, MemoryContext context);

#endif /* ES_FAILURE_H */
