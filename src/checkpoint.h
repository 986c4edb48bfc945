/*
 * checkpoint.h
 *	  How far a projection is that doesn't run in the writers' transactions.
 */
#ifndef ES_CHECKPOINT_H
#define ES_CHECKPOINT_H

#include "postgres.h"

#include "utils/snapshot.h"

/* A row of es.projection_checkpoint. */
typedef struct EsCheckpoint
{
	int64 position;       /* the rows reflect the events up to here, and no others */
	bool stopped;         /* by the error, until it is told to go on */
	char *error;          /* null: none */
	int64 error_position; /* of the event it is about; 0: not known */
} EsCheckpoint;

/*
 * Makes the current transaction the only one that brings the state table up to
 * date.  It waits for others; the table has been locked before.
 */
extern void EsCheckpointLock(Oid target);

/* The same without waiting; false: there is another one. */
extern bool EsCheckpointTryLock(Oid target);

/* Reads the projection's checkpoint as of the latest commit; false: it has none. */
extern bool EsCheckpointRead(const char *projection, EsCheckpoint *checkpoint);

/* Reads the projection's checkpoint as a snapshot shows it; false: it has none. */
extern bool EsCheckpointReadAt(const char *projection, Snapshot snapshot, EsCheckpoint *checkpoint);

/* Returns the positions of the events put aside, in their order, as a snapshot shows them. */
extern int64 *EsCheckpointParkedAt(const char *projection, Snapshot snapshot, int *nparked);

/* Forgets the error, and that it has stopped the projection. */
extern void EsCheckpointForgetError(EsCheckpoint *checkpoint);

/* Stores the projection's checkpoint.  The caller keeps others from doing so. */
extern void EsCheckpointWrite(const char *projection, const EsCheckpoint *checkpoint);

/* Removes the projection's checkpoint, if it has one. */
extern void EsCheckpointRemove(const char *projection);

/* Puts an event aside that the projection fails on, with the reason. */
extern void EsCheckpointPark(const char *projection, int64 position, const char *reason);

/* Forgets the event put aside, or all of the projection (0); returns how many. */
extern int64 EsCheckpointUnpark(const char *projection, int64 position);

/* Returns the first position above another one whose event is put aside; 0: there is none. */
extern int64 EsCheckpointNextParked(const char *projection, int64 after);

#endif /* ES_CHECKPOINT_H */
