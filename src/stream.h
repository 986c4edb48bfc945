/*
 * stream.h
 *	  What is stored of subscriptions: what is read, how far, and by whom.
 */
#ifndef ES_STREAM_H
#define ES_STREAM_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "query.h"
#include "read.h"

#define ES_MAX_PARTITIONS 1024 /* as es.subscription checks */

typedef enum EsStreamKind
{
	ES_STREAM_LIVE,
	ES_STREAM_RETRY,
	ES_STREAM_PLAYBACK
} EsStreamKind;

/* Something that one consumer at a time reads: a row of es.subscription_stream. */
typedef struct EsStream
{
	int32 id;
	char *subscription;
	int32 partition;
	EsStreamKind kind;
	int64 checkpoint;                     /* what lies at or below it is done */
	int64 up_to;                          /* of a playback */
	ArrayType *filters[ES_READ_NFILTERS]; /* of a playback; see EsStreamFilters() */
	int64 lease_id;                       /* of the last lease */
	TimestampTz lease_until;              /* 0: it was given back */
	TimestampTz leased_at;                /* 0: never */
	char *consumer;                       /* or null */
	int32 leased_count;                   /* events that the lease was for */
	int64 leased_up_to;                   /* the last one of them */
	int64 retried_up_to;                  /* what lies at or below it was delivered before */
	int32 attempt;                        /* how often that has been, this lease included */
	int32 expired;                        /* leases that ran out on what is not acknowledged */
	char *error;                          /* what a consumer said last, or null */
	int64 error_position;                 /* of which event; 0: of none */
	int64 nothing_up_to;                  /* not stored: there is nothing to deliver up to here */
} EsStream;

/* A row of es.subscription. */
typedef struct EsSubscription
{
	char *name;
	Oid owner; /* invalid: the role does not exist */
	ArrayType *filters[ES_READ_NFILTERS];
	int32 partitions;
	int32 max_attempts; /* 0: no limit */
	bool wait;          /* later events of an aggregate wait for one that is put aside */
} EsSubscription;

/* An event that is put aside or waits for one that is. */
typedef struct EsParked
{
	int64 position;
	EsValue aggregate_type;
	EsValue aggregate_id;
} EsParked;

/* Returns a subscription as it is now; null if there is none. */
extern EsSubscription *EsSubscriptionRead(const char *name);

/* The same, but SE006 if there is none. */
extern EsSubscription *EsSubscriptionFind(const char *name);

/* Says whether the current user has the rights of the owner. */
extern bool EsSubscriptionIsOwned(const EsSubscription *subscription);

/* Raises 42501 unless he has. */
extern void EsSubscriptionCheckOwner(const EsSubscription *subscription);

/* Raises 42501 unless the current user may read the log, all of it. */
extern void EsSubscriptionCheckReader(void);

/* Returns the partition, of so many, that an aggregate's events belong to. */
extern int32 EsPartitionOf(Datum aggregate_type, Datum aggregate_id, int32 partitions);

/* Returns a subscription's streams as they are now, least recently leased first. */
extern List *EsStreamsRead(const char *subscription);

/* Returns a stream as it is now; null if there is none. */
extern EsStream *EsStreamRead(int32 id);

/*
 * Locks a stream: nobody else changes it, or looks for events of it.  To the end
 * of the transaction if it is changed; else it can be unlocked.
 */
extern void EsStreamLock(int32 id);
extern bool EsStreamTryLock(int32 id);
extern void EsStreamUnlock(int32 id);

/* Stores what has become of a stream.  It is locked, and was read under the lock. */
extern void EsStreamWrite(const EsStream *stream);
extern void EsStreamRemove(const EsStream *stream);

/* Returns what the stream's events must be like. */
extern ArrayType *const *EsStreamFilters(const EsStream *stream,
										 const EsSubscription *subscription);

/* Returns the id that the stream's next lease has, and the stream of a lease. */
extern int64 EsStreamNextLease(const EsStream *stream);
extern int32 EsLeaseStream(int64 lease_id);

/* Reads how long a lease is to last (null: 30 s) and returns when it would be over. */
extern TimestampTz EsLeaseArgument(FunctionCallInfo fcinfo, int arg);

/* Says whether events of any partition are on their way back. */
extern bool EsSubscriptionHasRetries(const EsSubscription *subscription);

/* Says whether events of the stream are put aside, or (retry) are on their way back. */
extern bool EsStreamHasParked(const EsStream *stream);

/* Puts an event of the stream aside, or (held false) in the line of those that wait for one. */
extern void EsStreamPark(const EsStream *stream, const EsParked *event, bool held, int32 attempts,
						 const char *reason);

/*
 * Forgets the events of a partition (null: of all) that are finished with and that
 * the stream which has put them aside will not come across again.
 */
extern void EsStreamForget(const char *subscription, EsValue partition);

#endif /* ES_STREAM_H */
