/*
 * aggregate.h
 *	  Serialising the writers of one aggregate, and what the log knows of it.
 */
#ifndef ES_AGGREGATE_H
#define ES_AGGREGATE_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/relcache.h"

/*
 * Kinds of keyed locks.  The number is the lock tag's field4 (objsubid in
 * pg_locks); PostgreSQL's own advisory locks have 1 and 2 there.
 */
typedef enum EsLockKind
{
	ES_LOCK_AGGREGATE = 7001,  /* key: hash of type and id */
	ES_LOCK_EVENT_ID = 7002,   /* key: hash of a given event id */
	ES_LOCK_IN_FLIGHT = 7003,  /* key: a position, see position.c */
	ES_LOCK_ROW_KEY = 7004,    /* key: part of a hash, see keylock.c */
	ES_LOCK_CHECKPOINT = 7005, /* key: a state table, see checkpoint.c */
	ES_LOCK_REPLAY = 7006,     /* key: a state table, see replay.c */
	ES_LOCK_STREAM = 7007,     /* key: what a subscription reads, see stream.c */
	ES_LOCK_PUBLISH = 7008     /* key: 0, see position.c */
} EsLockKind;

typedef struct EsKeyLock
{
	EsLockKind kind;
	uint64 key;
} EsKeyLock;

extern EsKeyLock EsAggregateLock(Datum aggregate_type, Datum aggregate_id);
extern EsKeyLock EsEventIdLock(Datum event_id);

/*
 * Takes the lock of an aggregate or an event id: to the end of the transaction,
 * or as long as the row on its way into es.events needs it.
 */
extern void EsLockAggregate(Relation events, Datum aggregate_type, Datum aggregate_id);
extern void EsLockEventId(Relation events, Datum event_id);

/* Takes several locks in the global order; changes the order of the array. */
extern void EsAcquireKeyLocks(EsKeyLock *locks, int nlocks);

/* Returns how many more of these locks the transaction can keep to its end. */
extern int EsKeyLocksLeft(void);

/* Returns the aggregate's highest version, 0 if there is none. */
extern int64 EsLastVersion(Relation events, Datum aggregate_type, Datum aggregate_id);

/* Fetches the event with this id into the slot, if there is one. */
extern bool EsFindEvent(Relation events, Datum event_id, TupleTableSlot *slot);

#endif /* ES_AGGREGATE_H */
