/*
 * stream.h
 *	  What is stored of subscriptions: what is read, how far, and by whom.
 */
#ifndef ES_STREAM_H
#define ES_STREAM_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "query.h"
#include "read.h"

#define ES_MAX_PARTITIONS 1024

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
	int32 partition;
	EsStreamKind kind;
	ArrayType *filters[ES_READ_NFILTERS];
	int64 checkpoint;    /* what lies at or below it is done */
	int64 up_to;         /* of a playback */
	int64 lease_id;      /* of the last lease */
	bool leased;         /* that is not over */
	bool ran_out;        /* that was not given back */
	int32 leased_count;  /* events it was for */
	int64 leased_up_to;  /* the last one of them */
	int64 retried_up_to; /* what lies at or below it was delivered before that lease */
	int32 attempt;       /* how often that has been delivered, the last lease included */
	int32 expired;       /* leases that have run out since something was acknowledged */
	bool has_parked;     /* events of the partition are put aside, or (retry) on their way back */
	int64 nothing_up_to; /* a fetch has found nothing up to here */
} EsStream;

typedef struct EsSubscription
{
	char *name;
	char *owner;
	int32 partitions;
	int32 max_attempts; /* 0: no limit */
	bool wait;          /* later events of an aggregate wait for one that is put aside */
	List *streams;      /* of EsStream, the one that was leased least recently first */
} EsSubscription;

/* An event that is put aside or waits for one that is. */
typedef struct EsParked
{
	int64 position;
	EsValue aggregate_type;
	EsValue aggregate_id;
} EsParked;

/* Returns a subscription as it is now; SE006 if there is none. */
extern EsSubscription *EsSubscriptionRead(const char *name);

/* Returns whether there is a subscription of the name. */
extern bool EsSubscriptionExists(const char *name);

/* Raises 42501 unless the current user has the rights of the owner. */
extern void EsSubscriptionCheckOwner(const char *name, const char *owner);

/* Raises 42501 unless the current user may read the log. */
extern void EsSubscriptionCheckReader(void);

/* Returns the partition, of so many, that an aggregate's events belong to. */
extern int32 EsPartitionOf(Datum aggregate_type, Datum aggregate_id, int32 partitions);

/*
 * Keeps other consumers from looking at the stream, to the end of the transaction
 * or until it is let go of; false: another one does so already.
 */
extern bool EsStreamTryLock(const EsStream *stream);
extern void EsStreamUnlock(const EsStream *stream);

/* Returns the id that the stream's next lease has. */
extern int64 EsStreamNextLease(const EsStream *stream);

/* Reads how long a lease is to last (null: 30 s); 22023 if it would be over at once. */
extern EsValue EsLeaseArgument(FunctionCallInfo fcinfo, int arg);

/*
 * Puts an event aside, or (held false) in the line of those that wait for one.
 * The caller is connected to SPI and has changed the stream's row before.
 */
extern void EsStreamPark(const char *subscription, int32 partition, bool replayed,
						 const EsParked *event, bool held, int32 attempts, const char *reason);

#endif /* ES_STREAM_H */
