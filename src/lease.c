/*
 * lease.c
 *	  es.ack(), es.nack(), es.extend_lease(): what became of fetched events.
 *
 * All of them change the row of the lease's stream, if it is still this lease: a
 * lease that has run out is good until somebody else takes the stream.  If that
 * is going on in a transaction that has not ended, they wait for it.  SE012: the
 * lease was taken over or has been given back.
 *
 * The change is part of the caller's transaction.  If the consumer's work is
 * too, an event has been worked on exactly once: of two consumers that were
 * given it, one gets SE012.  If the transaction's snapshot is so old that it hides
 * events delivered once more, it gets 40001.
 *
 * Who acknowledges a lease once more in the transaction that has done so already is
 * right, as by SELECT es.ack(lease_id) FROM es.fetch(...), which has a row for each
 * event.  In another transaction he gets SE012: he may be trying again one that was
 * committed without his knowing.  So he does after a savepoint that the first time
 * was in, as he may have gone back to it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "catalog/pg_type_d.h"
#include "compat.h"
#include "errors.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "stream.h"
#include "version.h"

static EsQuery retried_query = {
	"UPDATE es.subscription_parked AS p SET done = true"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.lease_id OPERATOR(pg_catalog.=) $3 AND NOT p.held AND NOT p.done"
	" AND p.position OPERATOR(pg_catalog.<=) $4",
	4,
	{TEXTOID, INT4OID, INT8OID, INT8OID}};

/* Events delivered once more that are still waiting for an answer. */
static EsQuery unanswered_query = {
	"SELECT FROM es.subscription_parked AS p"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.lease_id OPERATOR(pg_catalog.=) $3 AND NOT p.held AND NOT p.done"
	" AND p.position OPERATOR(pg_catalog.<=) $4",
	4,
	{TEXTOID, INT4OID, INT8OID, INT8OID}};

/* The event, if it is one that passes the filters. */
static EsQuery event_query = {
	"SELECT e.aggregate_type, e.aggregate_id FROM es.events AS e"
	" WHERE e.position OPERATOR(pg_catalog.=) $1"
	" AND ($2 IS NULL OR e.aggregate_type OPERATOR(pg_catalog.=) ANY ($2))"
	" AND ($3 IS NULL OR e.event_type OPERATOR(pg_catalog.=) ANY ($3))"
	" AND ($4 IS NULL OR e.source OPERATOR(pg_catalog.=) ANY ($4))"
	" AND ($5 IS NULL OR e.aggregate_id OPERATOR(pg_catalog.=) ANY ($5))",
	5,
	{INT8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}};

static EsQuery hold_query = {
	"UPDATE es.subscription_parked AS p"
	" SET held = $5 OR p.attempts OPERATOR(pg_catalog.>=) $6,"
	" reason = $7, parked_at = pg_catalog.clock_timestamp()"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.lease_id OPERATOR(pg_catalog.=) $3 AND NOT p.held AND NOT p.done"
	" AND p.position OPERATOR(pg_catalog.=) $4",
	7,
	{TEXTOID, INT4OID, INT8OID, INT8OID, BOOLOID, INT4OID, TEXTOID}};

/* The last lease that was acknowledged as a whole, up to where, and by which transaction. */
typedef struct Acknowledged
{
	TransactionId transaction;
	SubTransactionId part;
	int64 lease_id;
	int64 up_to;
} Acknowledged;

static Acknowledged acknowledged = {InvalidTransactionId};

static EsStream *lock_lease(FunctionCallInfo fcinfo, const char *function);
static EsStream *find_lease(FunctionCallInfo fcinfo, const char *function);
static bool is_acknowledged(FunctionCallInfo fcinfo);
pg_noreturn static void not_held(int64 lease_id);
static void forget_retried(const EsStream *stream, int64 up_to);
static void nack_event(EsStream *stream, int64 position, const char *reason, bool put_aside);
static EsParked find_event(const EsStream *stream, const EsSubscription *subscription,
						   int64 position);
static void nack_retry(EsStream *stream, int64 position, const char *reason, bool put_aside);
pg_noreturn static void not_fetched(const EsStream *stream, int64 position);

ES_FUNCTION_INFO_V1(es_ack);
ES_FUNCTION_INFO_V1(es_nack);
ES_FUNCTION_INFO_V1(es_extend_lease);

/* es.ack(): says that fetched events are done. */
Datum
es_ack(PG_FUNCTION_ARGS)
{
	EsStream *stream = find_lease(fcinfo, "es.ack()");
	int64 delivered;
	int64 up_to;

	if (stream == NULL)
	{
		if (!is_acknowledged(fcinfo))
			not_held(PG_GETARG_INT64(0));
		PG_RETURN_VOID();
	}
	delivered = Max(stream->leased_up_to, stream->retried_up_to);
	up_to = PG_ARGISNULL(1) ? stream->leased_up_to : PG_GETARG_INT64(1);
	if (up_to > stream->leased_up_to)
		not_fetched(stream, up_to);
	if (up_to == stream->leased_up_to)
	{
		stream->lease_until = 0;
		acknowledged.transaction = GetTopTransactionId();
		acknowledged.part = GetCurrentSubTransactionId();
		acknowledged.lease_id = stream->lease_id;
		acknowledged.up_to = up_to;
	}
	if (stream->kind == ES_STREAM_RETRY)
		forget_retried(stream, up_to);
	if (stream->kind == ES_STREAM_PLAYBACK && up_to >= stream->up_to)
	{
		EsStreamRemove(stream);
		EsStreamForget(stream->subscription, EsValueInt32(stream->partition));
		PG_RETURN_VOID();
	}

	/*
	 * What the lease had above the new checkpoint counts as delivered once.  If
	 * leases have run out, the event to blame is still there, and the next lease
	 * is for no more events than this one.
	 */
	if (stream->kind == ES_STREAM_RETRY || up_to >= delivered)
	{
		stream->attempt = 0;
		stream->expired = 0;
	}
	else if (up_to > stream->checkpoint)
		stream->attempt = 1;
	if (stream->kind != ES_STREAM_RETRY)
		stream->checkpoint = Max(stream->checkpoint, up_to);
	if (stream->error_position <= up_to)
	{
		stream->error = NULL;
		stream->error_position = 0;
	}
	EsStreamWrite(stream);
	PG_RETURN_VOID();
}

/* es.nack(): says that a fetched event could not be handled. */
Datum
es_nack(PG_FUNCTION_ARGS)
{
	char *reason = EsTextArgument(fcinfo, 2, "reason", false);
	bool put_aside = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	EsStream *stream = lock_lease(fcinfo, "es.nack()");
	int64 position;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("at_position must not be null")));
	position = PG_GETARG_INT64(1);
	if (stream->kind == ES_STREAM_RETRY)
		nack_retry(stream, position, reason, put_aside);
	else
		nack_event(stream, position, reason, put_aside);
	stream->lease_until = 0;
	stream->expired = 0;
	stream->error = reason;
	stream->error_position = position;
	EsStreamWrite(stream);
	PG_RETURN_VOID();
}

/* es.extend_lease(): makes a lease run out so long from now. */
Datum
es_extend_lease(PG_FUNCTION_ARGS)
{
	EsStream *stream = lock_lease(fcinfo, "es.extend_lease()");

	stream->lease_until = EsLeaseArgument(fcinfo, 1);
	EsStreamWrite(stream);
	PG_RETURN_VOID();
}

/* Locks the stream of the lease that is the first argument; SE012 if it is not held any more. */
static EsStream *
lock_lease(FunctionCallInfo fcinfo, const char *function)
{
	EsStream *stream = find_lease(fcinfo, function);

	if (stream == NULL)
		not_held(PG_GETARG_INT64(0));
	return stream;
}

/* The same, but null if it is not held any more. */
static EsStream *
find_lease(FunctionCallInfo fcinfo, const char *function)
{
	EsStream *stream;
	int64 lease_id;

	EsRefuseReadOnly(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lease_id must not be null")));
	EsSubscriptionCheckReader();
	lease_id = PG_GETARG_INT64(0);
	EsStreamLock(EsLeaseStream(lease_id));
	stream = EsStreamRead(EsLeaseStream(lease_id));
	if (stream == NULL || stream->lease_id != lease_id || stream->lease_until == 0)
		return NULL;
	return stream;
}

/* Says whether this transaction has acknowledged the lease, which nobody holds now, so far. */
static bool
is_acknowledged(FunctionCallInfo fcinfo)
{
	return TransactionIdIsValid(acknowledged.transaction) &&
		acknowledged.transaction == GetTopTransactionIdIfAny() &&
		SubTransactionIsActive(acknowledged.part) &&
		acknowledged.lease_id == PG_GETARG_INT64(0) &&
		(PG_ARGISNULL(1) || PG_GETARG_INT64(1) <= acknowledged.up_to);
}

static void
not_held(int64 lease_id)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_LEASE_LOST),
			 errmsg("lease " INT64_FORMAT " is not held", lease_id),
			 errdetail("It ran out and another consumer took over, or it was given back, or the subscription was dropped or moved."),
			 errhint("Roll back what was done under it: the events are delivered again.")));
}

/* Forgets the events that were delivered once more and are done. */
static void
forget_retried(const EsStream *stream, int64 up_to)
{
	EsValue args[] = {EsValueText(stream->subscription), EsValueInt32(stream->partition),
					  EsValueInt64(stream->lease_id), EsValueInt64(up_to)};

	SPI_connect();
	(void) EsQueryRun(&retried_query, args);
	EsQueryCheckSnapshot(&unanswered_query, args);
	SPI_finish();
	EsStreamForget(stream->subscription, EsValueInt32(stream->partition));
}

/* Puts an event that was not handled aside, if its time has come. */
static void
nack_event(EsStream *stream, int64 position, const char *reason, bool put_aside)
{
	EsSubscription *subscription = EsSubscriptionFind(stream->subscription);
	int32 attempt = position <= stream->retried_up_to ? stream->attempt : 1;
	EsParked event = find_event(stream, subscription, position);

	if (subscription->max_attempts != 0 && attempt >= subscription->max_attempts)
		put_aside = true;
	if (put_aside)
	{
		EsStreamPark(stream, &event, true, attempt, reason);
		stream->attempt = 1;
	}
}

/* Returns an event that was fetched under the lease. */
static EsParked
find_event(const EsStream *stream, const EsSubscription *subscription, int64 position)
{
	ArrayType *const *filters = EsStreamFilters(stream, subscription);
	EsValue args[1 + ES_READ_NFILTERS] = {EsValueInt64(position)};
	EsParked event = {.position = position};
	MemoryContext context = CurrentMemoryContext;

	for (int i = 0; i < ES_READ_NFILTERS; i++)
		args[1 + i] = EsValueArray(filters[i]);
	SPI_connect();
	if (position > stream->leased_up_to || position <= stream->checkpoint ||
		EsQueryRun(&event_query, args) == 0)
		not_fetched(stream, position);
	MemoryContextSwitchTo(context);
	event.aggregate_type = EsValueText(EsQueryText(0, 1));
	event.aggregate_id = EsValueText(EsQueryText(0, 2));
	SPI_finish();
	return event;
}

/* The same for an event that is delivered once more: each counts its own attempts. */
static void
nack_retry(EsStream *stream, int64 position, const char *reason, bool put_aside)
{
	int32 max_attempts = EsSubscriptionFind(stream->subscription)->max_attempts;
	EsValue args[] = {EsValueText(stream->subscription),
					  EsValueInt32(stream->partition),
					  EsValueInt64(stream->lease_id),
					  EsValueInt64(position),
					  EsValueBool(put_aside),
					  EsValueInt32(max_attempts == 0 ? PG_INT32_MAX : max_attempts),
					  EsValueText(reason)};

	SPI_connect();
	if (EsQueryRun(&hold_query, args) == 0)
	{
		EsQueryCheckSnapshot(&unanswered_query, args);
		not_fetched(stream, position);
	}
	SPI_finish();
	stream->attempt = 0;
}

static void
not_fetched(const EsStream *stream, int64 position)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("no event at position " INT64_FORMAT
					" is waiting for an answer under lease " INT64_FORMAT,
					position, stream->lease_id)));
}
