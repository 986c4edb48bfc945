/*
 * handler.h
 *	  SQL statements that keep a projection: one for an event, or one for many.
 */
#ifndef ES_HANDLER_H
#define ES_HANDLER_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

typedef struct EsHandler EsHandler;

/*
 * Parses and checks a statement and prepares it, to be kept with
 * CurrentMemoryContext.  In it, "event" is the event, or (batch) "events" the
 * relation of events.  Raises SE007, with the position, for whatever is wrong.
 * The caller is connected to SPI and acts as the projection's owner.
 */
extern EsHandler *EsHandlerCompile(const char *statement, Relation events, bool batch);

/* Returns a copy of a handler's parsed queries, to find what they depend on and write. */
extern List *EsHandlerQueries(EsHandler *handler);

/* Runs the statement for one event.  The caller is connected to SPI. */
extern void EsHandlerRun(EsHandler *handler, TupleTableSlot *event);

/* Runs the statement for all events of a tuplestore, which is read from its start. */
extern void EsHandlerRunBatch(EsHandler *handler, Relation events, Tuplestorestate *tuples);

#endif /* ES_HANDLER_H */
