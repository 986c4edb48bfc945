/*
 * stream.c
 *	  What is stored of subscriptions: what is read, how far, and by whom.
 *
 * A subscription is a row of es.subscription and, for each partition, two or
 * more streams: rows of es.subscription_stream.  One is for the live log, one
 * for events that are delivered once more, and each playback adds one.  One
 * consumer at a time reads a stream, by a lease with a number and an end.
 *
 * Whoever changes a stream's row does so with the condition that the lease is
 * still the one that it knows.  So of two consumers, one that was slow and one
 * that took over, the slow one finds that it has lost the lease, whatever it
 * does, and if its work is in the same transaction that is undone too.
 *
 * An event belongs to a partition by a CRC of its aggregate: a function that is
 * the same on all platforms and in all versions, since the checkpoints of the
 * partitions mean nothing under another one.
 *
 * The number of a lease has the stream in its upper half, and counts in the
 * lower one.  No stream's id is used twice, so no lease is ever mistaken.
 */
#include "postgres.h"

#include "aggregate.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "errors.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/lock.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/* Columns of the query below. */
enum
{
	COLUMN_NAME = 1,
	COLUMN_OWNER,
	COLUMN_PARTITIONS,
	COLUMN_MAX_ATTEMPTS,
	COLUMN_WAIT,
	COLUMN_STREAM,
	COLUMN_PARTITION,
	COLUMN_KIND,
	COLUMN_CHECKPOINT,
	COLUMN_UP_TO,
	COLUMN_LEASE_ID,
	COLUMN_LEASED,
	COLUMN_RAN_OUT,
	COLUMN_LEASED_COUNT,
	COLUMN_LEASED_UP_TO,
	COLUMN_RETRIED_UP_TO,
	COLUMN_ATTEMPT,
	COLUMN_EXPIRED,
	COLUMN_HAS_PARKED,
	COLUMN_FILTERS
};

static EsQuery read_query = {
	"SELECT s.name, s.owner, s.partitions, s.max_attempts, s.after_park OPERATOR(pg_catalog.=) 'wait',"
	" t.stream, t.partition, t.kind, t.checkpoint, t.up_to, t.lease_id,"
	" t.lease_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp(),"
	" t.lease_until OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp(),"
	" t.leased_count, t.leased_up_to, t.retried_up_to, t.attempt, t.expired,"
	" EXISTS (SELECT FROM es.subscription_parked AS p"
	"  WHERE p.subscription OPERATOR(pg_catalog.=) t.subscription"
	"  AND p.partition OPERATOR(pg_catalog.=) t.partition"
	"  AND (t.kind OPERATOR(pg_catalog.<>) 'retry' OR NOT p.held)),"
	" CASE WHEN t.kind OPERATOR(pg_catalog.=) 'live' THEN s.aggregate_types ELSE t.aggregate_types END,"
	" CASE WHEN t.kind OPERATOR(pg_catalog.=) 'live' THEN s.event_types ELSE t.event_types END,"
	" CASE WHEN t.kind OPERATOR(pg_catalog.=) 'live' THEN s.sources ELSE t.sources END,"
	" t.aggregate_ids"
	" FROM es.subscription AS s"
	" JOIN es.subscription_stream AS t ON t.subscription OPERATOR(pg_catalog.=) s.name"
	" WHERE s.name OPERATOR(pg_catalog.=) $1"
	" ORDER BY t.leased_at NULLS FIRST, t.stream",
	1,
	{TEXTOID}};

static EsQuery exists_query = {
	"SELECT FROM es.subscription AS s WHERE s.name OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}};

static EsQuery park_query = {
	"INSERT INTO es.subscription_parked AS p (subscription, partition, replayed, position,"
	" aggregate_type, aggregate_id, held, attempts, reason, parked_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, pg_catalog.clock_timestamp())"
	" ON CONFLICT (subscription, partition, replayed, position) DO NOTHING",
	9,
	{TEXTOID, INT4OID, BOOLOID, INT8OID, TEXTOID, TEXTOID, BOOLOID, INT4OID, TEXTOID}};

static EsStream *read_stream(uint64 row);
static EsStreamKind kind_of(const char *kind);
static LOCKTAG lock_tag(const EsStream *stream);

EsSubscription *
EsSubscriptionRead(const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	EsValue args[] = {EsValueText(name)};
	EsSubscription *subscription;
	uint64 rows;

	SPI_connect();
	rows = EsQueryRun(&read_query, args);
	if (rows == 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 errmsg("subscription \"%s\" does not exist", name),
				 errhint("Create it with es.create_subscription().")));
	MemoryContextSwitchTo(context);
	subscription = palloc0(sizeof(EsSubscription));
	subscription->name = EsQueryText(0, COLUMN_NAME);
	subscription->owner = EsQueryText(0, COLUMN_OWNER);
	subscription->partitions = EsQueryInt32(0, COLUMN_PARTITIONS);
	subscription->max_attempts = EsQueryInt32(0, COLUMN_MAX_ATTEMPTS);
	subscription->wait = EsQueryBool(0, COLUMN_WAIT);
	for (uint64 row = 0; row < rows; row++)
		subscription->streams = lappend(subscription->streams, read_stream(row));
	SPI_finish();
	return subscription;
}

bool
EsSubscriptionExists(const char *name)
{
	EsValue args[] = {EsValueText(name)};
	bool exists;

	SPI_connect();
	exists = EsQueryRun(&exists_query, args) > 0;
	SPI_finish();
	return exists;
}

void
EsSubscriptionCheckOwner(const char *name, const char *owner)
{
	Oid role = get_role_oid(owner, true);

	if (superuser() || (OidIsValid(role) && has_privs_of_role(GetUserId(), role)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of subscription \"%s\"", name),
			 errdetail("It belongs to the role \"%s\".", owner)));
}

void
EsSubscriptionCheckReader(void)
{
	AclResult result = pg_class_aclcheck(EsCatalogOid(ES_OBJECT_EVENTS), GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "events");
}

int32
EsPartitionOf(Datum aggregate_type, Datum aggregate_id, int32 partitions)
{
	text *type = DatumGetTextPP(aggregate_type);
	text *id = DatumGetTextPP(aggregate_id);
	pg_crc32c crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
	COMP_CRC32C(crc, "", 1);
	COMP_CRC32C(crc, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	FIN_CRC32C(crc);
	return crc % (uint32) partitions;
}

bool
EsStreamTryLock(const EsStream *stream)
{
	LOCKTAG tag = lock_tag(stream);

	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
EsStreamUnlock(const EsStream *stream)
{
	LOCKTAG tag = lock_tag(stream);

	(void) LockRelease(&tag, ExclusiveLock, false);
}

int64
EsStreamNextLease(const EsStream *stream)
{
	return ((int64) stream->id << 32) | (uint32) (stream->lease_id + 1);
}

EsValue
EsLeaseArgument(FunctionCallInfo fcinfo, int arg)
{
	static const Interval none = {0};
	static const Interval usual = {.time = 30 * USECS_PER_SEC};
	EsValue result = {.value = IntervalPGetDatum(PG_ARGISNULL(arg) ? &usual
																   : PG_GETARG_INTERVAL_P(arg))};

	if (!DatumGetBool(DirectFunctionCall2(interval_gt, result.value, IntervalPGetDatum(&none))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a lease must be longer than zero")));
	return result;
}

void
EsStreamPark(const char *subscription, int32 partition, bool replayed, const EsParked *event,
			 bool held, int32 attempts, const char *reason)
{
	EsValue args[] = {EsValueText(subscription), EsValueInt32(partition), EsValueBool(replayed),
					  EsValueInt64(event->position), event->aggregate_type, event->aggregate_id,
					  EsValueBool(held), EsValueInt32(attempts), EsValueText(reason)};

	(void) EsQueryRun(&park_query, args);
}

/* Returns the stream of a row of the query's result. */
static EsStream *
read_stream(uint64 row)
{
	EsStream *stream = palloc0(sizeof(EsStream));

	stream->id = EsQueryInt32(row, COLUMN_STREAM);
	stream->partition = EsQueryInt32(row, COLUMN_PARTITION);
	stream->kind = kind_of(EsQueryText(row, COLUMN_KIND));
	stream->checkpoint = EsQueryInt64(row, COLUMN_CHECKPOINT);
	stream->up_to = EsQueryInt64(row, COLUMN_UP_TO);
	stream->lease_id = EsQueryInt64(row, COLUMN_LEASE_ID);
	stream->leased = EsQueryBool(row, COLUMN_LEASED);
	stream->ran_out = EsQueryBool(row, COLUMN_RAN_OUT);
	stream->leased_count = EsQueryInt32(row, COLUMN_LEASED_COUNT);
	stream->leased_up_to = EsQueryInt64(row, COLUMN_LEASED_UP_TO);
	stream->retried_up_to = EsQueryInt64(row, COLUMN_RETRIED_UP_TO);
	stream->attempt = EsQueryInt32(row, COLUMN_ATTEMPT);
	stream->expired = EsQueryInt32(row, COLUMN_EXPIRED);
	stream->has_parked = EsQueryBool(row, COLUMN_HAS_PARKED);
	for (int i = 0; i < ES_READ_NFILTERS; i++)
	{
		EsValue filter = EsQueryColumn(row, COLUMN_FILTERS + i);

		if (!filter.isnull)
			stream->filters[i] = DatumGetArrayTypePCopy(filter.value);
	}
	return stream;
}

static EsStreamKind
kind_of(const char *kind)
{
	return strcmp(kind, "live") == 0 ? ES_STREAM_LIVE
		: strcmp(kind, "retry") == 0 ? ES_STREAM_RETRY
									 : ES_STREAM_PLAYBACK;
}

static LOCKTAG
lock_tag(const EsStream *stream)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, (uint32) stream->id, ES_LOCK_STREAM);
	return tag;
}
