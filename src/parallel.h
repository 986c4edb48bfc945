/*
 * parallel.h
 *	  Folding the log with the help of parallel workers.
 */
#ifndef ES_PARALLEL_H
#define ES_PARALLEL_H

#include "postgres.h"

#include "foldlog.h"
#include "storage/dsm.h"
#include "storage/shm_toc.h"

/* As many workers as the settings and the size of the log suggest. */
#define ES_WORKERS_BY_SETTING (-1)

/* Takes some rows, which are gone afterwards. */
typedef void (*EsRowTaker)(EsKey *key, EsStateEntry *rows, int nrows, void *arg);

/*
 * Returns how many workers can fold the projection's events into its state
 * table: as many as wanted, or none.  Locks its partitions with
 * ShareUpdateExclusiveLock, which the caller has on the table.
 */
extern int EsParallelWorkers(EsProjection *projection, Relation target, int wanted);

/*
 * Folds like EsFoldLog(), the whole log for all keys, with so many workers, and
 * has the rows taken, as the current user.  False: no worker could be started.
 * Any error of a worker is raised.  The caller has begun a subtransaction, which
 * has an id of its own, and rolls it back after an error; taking rows needs
 * neither a new command nor another snapshot.
 */
extern bool EsParallelFold(const EsFoldSpec *spec, int nworkers, EsRowTaker take, void *arg,
						   EsFolded *folded);

/* What a worker runs. */
extern PGDLLEXPORT void EsParallelWorkerMain(dsm_segment *segment, shm_toc *toc);

#endif /* ES_PARALLEL_H */
