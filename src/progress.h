/*
 * progress.h
 *	  That this session replays, and how far it is.
 */
#ifndef ES_PROGRESS_H
#define ES_PROGRESS_H

#include "postgres.h"

#include "port/atomics.h"

typedef enum EsPhase
{
	ES_PHASE_FOLDING = 1,
	ES_PHASE_WAITING,
	ES_PHASE_INDEXING,
	ES_PHASE_CATCHING_UP,
	ES_PHASE_CHECKING
} EsPhase;

/* What EsReplayBegin() returns and EsReplayEnd() needs. */
typedef struct EsReplayState
{
	bool outer; /* a replay was going on already */
} EsReplayState;

/*
 * Brackets a replay of the projection whose state table is target.  After an
 * error the caller, too, calls EsReplayEnd().
 */
extern EsReplayState EsReplayBegin(const char *projection, Oid target);
extern void EsReplayEnd(EsReplayState state);

/* Says whether this session is replaying. */
extern bool EsReplaying(void);

/* Reports what the replay is doing now. */
extern void EsProgressPhase(EsPhase phase);

/* Reports that about so many events are still to be read. */
extern void EsProgressExpect(int64 events);

/* Reports that some more events have been read; tells the client now and then. */
extern void EsProgressAdd(int64 events);

/*
 * Has EsProgressAdd() count here until the next EsReplayEnd(), and nothing else
 * reported: for a worker, whose leader reports the sum.
 */
extern void EsProgressShare(pg_atomic_uint64 *counter);

#endif /* ES_PROGRESS_H */
