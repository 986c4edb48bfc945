/*
 * worker.h
 *	  The worker of a database: wakes who waits, runs the async projections.
 */
#ifndef ES_WORKER_H
#define ES_WORKER_H

#include "postgres.h"

/* The worker's process; the argument is the OID of the database. */
extern PGDLLEXPORT void EsWorkerMain(Datum database);

#endif /* ES_WORKER_H */
