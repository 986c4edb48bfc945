/*
 * lease.c
 *	  es.ack(), es.nack(), es.extend_lease(): what became of fetched events.
 *
 * All of them change the row of the lease's stream, on condition that it is
 * still this lease: a lease that has run out is good until somebody else takes
 * the stream.  If that is going on in a transaction that has not ended, they
 * wait for it.  SE012: the lease was taken over or has been given back.
 *
 * The change is part of the caller's transaction.  If the consumer's work is
 * too, an event has been worked on exactly once: of two consumers that were
 * given it, one gets SE012.
 *
 * A transaction whose snapshot is older than the lease doesn't see it.  It gets
 * 40001 then, as for a row that has changed.
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

/* A lease that is held. */
typedef struct Lease
{
	int64 id;
	int32 stream;
	char *subscription;
	int32 partition;
	bool is_retry;
	bool is_playback;
	int64 checkpoint;
	int64 up_to; /* of a playback */
	int64 leased_up_to;
	int64 retried_up_to;
	int32 attempt;
	int32 max_attempts; /* 0: no limit */
	int32 partitions;
} Lease;

static EsQuery lock_query = {
	"SELECT t.subscription, t.partition, t.kind OPERATOR(pg_catalog.=) 'retry',"
	" t.kind OPERATOR(pg_catalog.=) 'playback', t.checkpoint, t.up_to, t.leased_up_to,"
	" t.retried_up_to, t.attempt, s.max_attempts, s.partitions"
	" FROM es.subscription_stream AS t"
	" JOIN es.subscription AS s ON s.name OPERATOR(pg_catalog.=) t.subscription"
	" WHERE t.stream OPERATOR(pg_catalog.=) $1 AND t.lease_id OPERATOR(pg_catalog.=) $2"
	" AND t.lease_until IS NOT NULL"
	" FOR NO KEY UPDATE OF t",
	2,
	{INT4OID, INT8OID}};

static EsQuery exists_query = {
	"SELECT FROM es.subscription_stream AS t"
	" WHERE t.stream OPERATOR(pg_catalog.=) $1 AND t.lease_id OPERATOR(pg_catalog.=) $2"
	" AND t.lease_until IS NOT NULL",
	2,
	{INT4OID, INT8OID}};

static EsQuery ack_query = {
	"UPDATE es.subscription_stream AS t"
	" SET checkpoint = $2, attempt = $3, expired = 0,"
	" lease_until = CASE WHEN $4 THEN t.lease_until END,"
	" error = CASE WHEN t.error_position OPERATOR(pg_catalog.>) $2 THEN t.error END,"
	" error_position = CASE WHEN t.error_position OPERATOR(pg_catalog.>) $2 THEN t.error_position END"
	" WHERE t.stream OPERATOR(pg_catalog.=) $1",
	4,
	{INT4OID, INT8OID, INT4OID, BOOLOID}};

static EsQuery delete_query = {
	"DELETE FROM es.subscription_stream AS t WHERE t.stream OPERATOR(pg_catalog.=) $1", 1, {INT4OID}};

static EsQuery retried_query = {
	"DELETE FROM es.subscription_parked AS p"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.lease_id OPERATOR(pg_catalog.=) $3 AND NOT p.held"
	" AND p.position OPERATOR(pg_catalog.<=) $4",
	4,
	{TEXTOID, INT4OID, INT8OID, INT8OID}};

static EsQuery nack_query = {
	"UPDATE es.subscription_stream AS t"
	" SET lease_until = NULL, expired = 0, attempt = $2, error = $3, error_position = $4"
	" WHERE t.stream OPERATOR(pg_catalog.=) $1",
	4,
	{INT4OID, INT4OID, TEXTOID, INT8OID}};

/* The event, if it is one that the stream delivers. */
static EsQuery event_query = {
	"SELECT e.aggregate_type, e.aggregate_id"
	" FROM (SELECT CASE WHEN u.live THEN s.aggregate_types ELSE t.aggregate_types END AS aggregate_types,"
	"  CASE WHEN u.live THEN s.event_types ELSE t.event_types END AS event_types,"
	"  CASE WHEN u.live THEN s.sources ELSE t.sources END AS sources, t.aggregate_ids"
	"  FROM es.subscription_stream AS t"
	"  JOIN es.subscription AS s ON s.name OPERATOR(pg_catalog.=) t.subscription"
	"  CROSS JOIN LATERAL (SELECT t.kind OPERATOR(pg_catalog.=) 'live' AS live) AS u"
	"  WHERE t.stream OPERATOR(pg_catalog.=) $2) AS f"
	" JOIN es.events AS e ON e.position OPERATOR(pg_catalog.=) $1"
	" AND (f.aggregate_types IS NULL OR e.aggregate_type OPERATOR(pg_catalog.=) ANY (f.aggregate_types))"
	" AND (f.event_types IS NULL OR e.event_type OPERATOR(pg_catalog.=) ANY (f.event_types))"
	" AND (f.sources IS NULL OR e.source OPERATOR(pg_catalog.=) ANY (f.sources))"
	" AND (f.aggregate_ids IS NULL OR e.aggregate_id OPERATOR(pg_catalog.=) ANY (f.aggregate_ids))",
	2,
	{INT8OID, INT4OID}};

static EsQuery hold_query = {
	"UPDATE es.subscription_parked AS p"
	" SET held = $5 OR p.attempts OPERATOR(pg_catalog.>=) $6,"
	" reason = $7, parked_at = pg_catalog.clock_timestamp()"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.lease_id OPERATOR(pg_catalog.=) $3 AND NOT p.held"
	" AND p.position OPERATOR(pg_catalog.=) $4",
	7,
	{TEXTOID, INT4OID, INT8OID, INT8OID, BOOLOID, INT4OID, TEXTOID}};

static EsQuery extend_query = {
	"UPDATE es.subscription_stream AS t"
	" SET lease_until = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) $2"
	" WHERE t.stream OPERATOR(pg_catalog.=) $1",
	2,
	{INT4OID, INTERVALOID}};

static void enter(const char *function);
static Lease lock_lease(FunctionCallInfo fcinfo);
pg_noreturn static void lease_lost(int64 id, bool is_newer);
static void move_checkpoint(const Lease *lease, int64 up_to, bool rest);
static void forget_retried(const Lease *lease, int64 up_to);
static void end_playback(const Lease *lease);
static void nack_event(const Lease *lease, int64 position, const char *reason, bool put_aside);
static void nack_retry(const Lease *lease, int64 position, const char *reason, bool put_aside);
static void give_back(const Lease *lease, int32 attempt, const char *reason, int64 position);
pg_noreturn static void not_fetched(const Lease *lease, int64 position);

PG_FUNCTION_INFO_V1(es_ack);
PG_FUNCTION_INFO_V1(es_nack);
PG_FUNCTION_INFO_V1(es_extend_lease);

/* es.ack(): says that fetched events are done. */
Datum
es_ack(PG_FUNCTION_ARGS)
{
	Lease lease;
	int64 up_to;
	bool rest;

	enter("es.ack()");
	lease = lock_lease(fcinfo);
	up_to = PG_ARGISNULL(1) ? lease.leased_up_to : PG_GETARG_INT64(1);
	if (up_to > lease.leased_up_to)
		not_fetched(&lease, up_to);
	rest = up_to < lease.leased_up_to;
	if (lease.is_retry)
		forget_retried(&lease, up_to);
	if (lease.is_playback && up_to >= lease.up_to)
		end_playback(&lease);
	else
		move_checkpoint(&lease, lease.is_retry ? lease.checkpoint : up_to, rest);
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.nack(): says that a fetched event could not be handled. */
Datum
es_nack(PG_FUNCTION_ARGS)
{
	char *reason = EsTextArgument(fcinfo, 2, "reason", false);
	bool put_aside = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	int64 position;
	Lease lease;

	enter("es.nack()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("at_position must not be null")));
	position = PG_GETARG_INT64(1);
	lease = lock_lease(fcinfo);
	if (lease.is_retry)
		nack_retry(&lease, position, reason, put_aside);
	else
		nack_event(&lease, position, reason, put_aside);
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.extend_lease(): makes a lease run out so long from now. */
Datum
es_extend_lease(PG_FUNCTION_ARGS)
{
	EsValue args[2];

	enter("es.extend_lease()");
	args[0] = EsValueInt32(lock_lease(fcinfo).stream);
	args[1] = EsLeaseArgument(fcinfo, 1);
	(void) EsQueryRun(&extend_query, args);
	SPI_finish();
	PG_RETURN_VOID();
}

/* Begins one of the functions above. */
static void
enter(const char *function)
{
	EsRefuseReadOnly(function);
	SPI_connect();
}

/* Locks the lease that is the first argument; SE012 if it is not held any more. */
static Lease
lock_lease(FunctionCallInfo fcinfo)
{
	Lease lease = {0};
	EsValue args[2];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lease_id must not be null")));
	lease.id = PG_GETARG_INT64(0);
	lease.stream = (int32) (lease.id >> 32);
	args[0] = EsValueInt32(lease.stream);
	args[1] = EsValueInt64(lease.id);
	if (EsQueryRun(&lock_query, args) == 0)
	{
		bool is_newer = IsolationUsesXactSnapshot() && EsQueryRunLatest(&exists_query, args) > 0;

		lease_lost(lease.id, is_newer);
	}
	EsSubscriptionCheckReader();
	lease.subscription = EsQueryText(0, 1);
	lease.partition = EsQueryInt32(0, 2);
	lease.is_retry = EsQueryBool(0, 3);
	lease.is_playback = EsQueryBool(0, 4);
	lease.checkpoint = EsQueryInt64(0, 5);
	lease.up_to = EsQueryInt64(0, 6);
	lease.leased_up_to = EsQueryInt64(0, 7);
	lease.retried_up_to = EsQueryInt64(0, 8);
	lease.attempt = EsQueryInt32(0, 9);
	lease.max_attempts = EsQueryInt32(0, 10);
	lease.partitions = EsQueryInt32(0, 11);
	return lease;
}

/* is_newer: it is held, but the transaction's snapshot does not show it. */
static void
lease_lost(int64 id, bool is_newer)
{
	if (is_newer)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access: lease " INT64_FORMAT
						" is newer than the transaction's snapshot",
						id)));
	ereport(ERROR,
			(errcode(ES_ERRCODE_LEASE_LOST),
			 errmsg("lease " INT64_FORMAT " is not held", id),
			 errdetail("It ran out and another consumer took over, or it was given back, or the subscription was dropped or moved."),
			 errhint("Roll back what was done under it: the events are delivered again.")));
}

/*
 * Moves the checkpoint, never back; rest: the lease goes on.  What the lease had
 * above it counts as delivered once.
 */
static void
move_checkpoint(const Lease *lease, int64 up_to, bool rest)
{
	int64 delivered = Max(lease->leased_up_to, lease->retried_up_to);
	EsValue args[] = {EsValueInt32(lease->stream), EsValueInt64(Max(up_to, lease->checkpoint)),
					  EsValueInt32(lease->attempt), EsValueBool(rest)};

	if (lease->is_retry || up_to >= delivered)
		args[2] = EsValueInt32(0);
	else if (up_to > lease->checkpoint)
		args[2] = EsValueInt32(1);
	(void) EsQueryRun(&ack_query, args);
}

/* Forgets the events that were delivered once more and are done. */
static void
forget_retried(const Lease *lease, int64 up_to)
{
	EsValue args[] = {EsValueText(lease->subscription), EsValueInt32(lease->partition),
					  EsValueInt64(lease->id), EsValueInt64(up_to)};

	(void) EsQueryRun(&retried_query, args);
}

static void
end_playback(const Lease *lease)
{
	EsValue args[] = {EsValueInt32(lease->stream)};

	(void) EsQueryRun(&delete_query, args);
}

/* Gives a lease on live or replayed events back, and puts the event aside if its time has come. */
static void
nack_event(const Lease *lease, int64 position, const char *reason, bool put_aside)
{
	int32 attempt = position <= lease->retried_up_to ? lease->attempt : 1;
	EsParked event = {.position = position};
	EsValue args[] = {EsValueInt64(position), EsValueInt32(lease->stream)};

	if (position > lease->leased_up_to || position <= lease->checkpoint ||
		EsQueryRun(&event_query, args) == 0)
		not_fetched(lease, position);
	event.aggregate_type = EsQueryColumn(0, 1);
	event.aggregate_id = EsQueryColumn(0, 2);
	if (EsPartitionOf(event.aggregate_type.value, event.aggregate_id.value, lease->partitions) !=
		lease->partition)
		not_fetched(lease, position);
	if (lease->max_attempts != 0 && attempt >= lease->max_attempts)
		put_aside = true;
	if (put_aside)
		EsStreamPark(lease->subscription, lease->partition, lease->is_playback, &event, true,
					 attempt, reason);
	give_back(lease, put_aside ? 1 : lease->attempt, reason, position);
}

/* The same for events that are delivered once more: each counts its own attempts. */
static void
nack_retry(const Lease *lease, int64 position, const char *reason, bool put_aside)
{
	EsValue args[] = {EsValueText(lease->subscription),
					  EsValueInt32(lease->partition),
					  EsValueInt64(lease->id),
					  EsValueInt64(position),
					  EsValueBool(put_aside),
					  EsValueInt32(lease->max_attempts == 0 ? PG_INT32_MAX : lease->max_attempts),
					  EsValueText(reason)};

	if (EsQueryRun(&hold_query, args) == 0)
		not_fetched(lease, position);
	give_back(lease, 0, reason, position);
}

/* Lets others lease the stream. */
static void
give_back(const Lease *lease, int32 attempt, const char *reason, int64 position)
{
	EsValue args[] = {EsValueInt32(lease->stream), EsValueInt32(attempt), EsValueText(reason),
					  EsValueInt64(position)};

	(void) EsQueryRun(&nack_query, args);
}

static void
not_fetched(const Lease *lease, int64 position)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("no event at position " INT64_FORMAT " is waiting for an answer under lease " INT64_FORMAT,
					position, lease->id)));
}
