/*
 * guc.h
 *	  Settings of pg_eventsourcing.
 */
#ifndef ES_GUC_H
#define ES_GUC_H

#include "postgres.h"

/* es.max_aggregate_locks: heavyweight locks one transaction takes on aggregates */
extern int EsMaxAggregateLocks;

/* es.replay_memory: what a replay may hold in memory, in kilobytes */
extern int EsReplayMemory;

/* es.progress_interval: time between two messages of a replay, in milliseconds; 0: none */
extern int EsProgressInterval;

/* es.replay_workers: processes that help a replay, unless the call says how many */
extern int EsReplayWorkers;

/* es.restore: keep the given position, version and recorded_at */
extern bool EsRestore;

/* es.worker_databases: list of the databases that have a worker */
extern char *EsWorkerDatabases;

/* es.worker_naptime: how long a worker sleeps if it is not told of anything, in milliseconds */
extern int EsWorkerNaptime;

extern void EsGucInit(void);

#endif /* ES_GUC_H */
