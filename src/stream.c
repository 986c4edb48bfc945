/*
 * stream.c
 *	  What is stored of subscriptions: what is read, how far, and by whom.
 *
 * A subscription is a row of es.subscription and, for each partition, two or
 * more streams: rows of es.subscription_stream.  One is for the live log, one
 * for events that are delivered once more, and each playback adds one.  One
 * consumer at a time reads a stream, by a lease with a number and an end.
 *
 * Locks.  Whoever changes a stream's row holds a lock of ours on the stream, to
 * the end of the transaction, and has read the row under it, as it is now
 * whatever the isolation level.  So of two consumers, one that was slow and one
 * that took over, the slow one finds that the lease is not its own any more,
 * whatever it does, and if its work is in the same transaction that is undone too.
 * (With the lock, rows are read and written without a query: that is a third of
 * what a fetch and its ack cost.)
 *
 * Which events of a stream are not delivered by it, because they were put aside
 * or wait for such a one, is said by es.subscription_parked.  Rows are added in
 * transactions that change the stream's row.  They are removed when the event is
 * finished with and the stream's checkpoint has passed it, not before: until
 * then the stream can come across it again, after a lease that has run out.
 *
 * An event belongs to a partition by a CRC of its aggregate: a function that is
 * the same on all platforms and in all versions, since the checkpoints of the
 * partitions mean nothing under another one.
 *
 * The number of a lease has the stream in its upper half, and counts in the
 * lower one.  No stream's id is used twice, so no lease is ever mistaken.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "aggregate.h"
#include "catalog.h"
#include "catalog/indexing.h"
#include "catalog/pg_type_d.h"
#include "errors.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "rows.h"
#include "storage/lock.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Columns of es.subscription, in their order. */
enum
{
	SUBSCRIPTION_NAME,
	SUBSCRIPTION_OWNER,
	SUBSCRIPTION_FILTERS,
	SUBSCRIPTION_PARTITIONS = SUBSCRIPTION_FILTERS + ES_READ_SOURCES + 1,
	SUBSCRIPTION_MAX_ATTEMPTS,
	SUBSCRIPTION_AFTER_PARK,
	SUBSCRIPTION_CREATED_AT,
	SUBSCRIPTION_NCOLUMNS
};

/* Columns of es.subscription_stream, in their order. */
enum
{
	STREAM_ID,
	STREAM_SUBSCRIPTION,
	STREAM_PARTITION,
	STREAM_KIND,
	STREAM_CHECKPOINT,
	STREAM_UP_TO,
	STREAM_FILTERS,
	STREAM_LEASE_ID = STREAM_FILTERS + ES_READ_NFILTERS,
	STREAM_LEASE_UNTIL,
	STREAM_LEASED_AT,
	STREAM_CONSUMER,
	STREAM_LEASED_COUNT,
	STREAM_LEASED_UP_TO,
	STREAM_RETRIED_UP_TO,
	STREAM_ATTEMPT,
	STREAM_EXPIRED,
	STREAM_ERROR,
	STREAM_ERROR_POSITION,
	STREAM_NCOLUMNS
};

static const char *const kinds[] = {
	[ES_STREAM_LIVE] = "live",
	[ES_STREAM_RETRY] = "retry",
	[ES_STREAM_PLAYBACK] = "playback",
};

/* Columns of es.subscription_parked that are looked for, counted from 1. */
#define PARKED_SUBSCRIPTION 1
#define PARKED_PARTITION    2

static EsQuery park_query = {
	"INSERT INTO es.subscription_parked AS p (subscription, partition, replayed, position,"
	" aggregate_type, aggregate_id, held, attempts, reason, stream, done, parked_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, false, pg_catalog.clock_timestamp())"
	" ON CONFLICT (subscription, partition, replayed, position) DO UPDATE"
	" SET stream = excluded.stream, held = excluded.held, done = false, attempts = excluded.attempts,"
	" reason = excluded.reason, parked_at = excluded.parked_at"
	" WHERE p.done AND p.stream OPERATOR(pg_catalog.<>) excluded.stream",
	10,
	{TEXTOID, INT4OID, BOOLOID, INT8OID, TEXTOID, TEXTOID, BOOLOID, INT4OID, TEXTOID, INT4OID}};

static EsQuery forget_query = {
	"DELETE FROM es.subscription_parked AS p USING"
	" (SELECT d.partition, d.replayed, d.position FROM es.subscription_parked AS d"
	"  WHERE d.subscription OPERATOR(pg_catalog.=) $1"
	"  AND coalesce(d.partition OPERATOR(pg_catalog.=) $2, true) AND d.done"
	"  AND NOT EXISTS (SELECT FROM es.subscription_stream AS t"
	"   WHERE t.stream OPERATOR(pg_catalog.=) d.stream"
	"   AND t.checkpoint OPERATOR(pg_catalog.<) d.position)"
	"  FOR UPDATE SKIP LOCKED) AS f"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) f.partition"
	" AND p.replayed OPERATOR(pg_catalog.=) f.replayed AND p.position OPERATOR(pg_catalog.=) f.position",
	2,
	{TEXTOID, INT4OID}};

static void open_stream(EsRows *rows, int32 id, LOCKMODE lockmode);
static EsStream *stream_of(Relation streams, HeapTuple row);
static HeapTuple tuple_of(const EsStream *stream, Relation streams);
static EsStreamKind kind_of(Datum kind);
static void read_filters(ArrayType **filters, int nfilters, const Datum *values, const bool *nulls);
static int compare_streams(const ListCell *a, const ListCell *b);
static LOCKTAG lock_tag(int32 stream);

EsSubscription *
EsSubscriptionRead(const char *name)
{
	EsSubscription *subscription = NULL;
	EsRows rows = {0};
	HeapTuple tuple;

	EsRowsKeyText(&rows, SUBSCRIPTION_NAME + 1, name);
	EsRowsOpen(&rows, ES_OBJECT_SUBSCRIPTION, ES_OBJECT_SUBSCRIPTION_PKEY, AccessShareLock,
			   GetLatestSnapshot());
	tuple = EsRowsNext(&rows);
	if (HeapTupleIsValid(tuple))
	{
		Datum values[SUBSCRIPTION_NCOLUMNS];
		bool nulls[SUBSCRIPTION_NCOLUMNS];

		EsCatalogRead(rows.table, tuple, SUBSCRIPTION_NCOLUMNS, values, nulls);
		subscription = palloc0(sizeof(EsSubscription));
		subscription->name = pstrdup(name);
		subscription->owner = DatumGetObjectId(values[SUBSCRIPTION_OWNER]);
		subscription->partitions = DatumGetInt32(values[SUBSCRIPTION_PARTITIONS]);
		if (!nulls[SUBSCRIPTION_MAX_ATTEMPTS])
			subscription->max_attempts = DatumGetInt32(values[SUBSCRIPTION_MAX_ATTEMPTS]);
		subscription->wait =
			strcmp(TextDatumGetCString(values[SUBSCRIPTION_AFTER_PARK]), "wait") == 0;
		read_filters(subscription->filters, ES_READ_SOURCES + 1, &values[SUBSCRIPTION_FILTERS],
					 &nulls[SUBSCRIPTION_FILTERS]);
	}
	EsRowsClose(&rows);
	return subscription;
}

EsSubscription *
EsSubscriptionFind(const char *name)
{
	EsSubscription *subscription = EsSubscriptionRead(name);

	if (subscription == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 errmsg("subscription \"%s\" does not exist", name),
				 errhint("Create it with es.create_subscription().")));
	return subscription;
}

bool
EsSubscriptionIsOwned(const EsSubscription *subscription)
{
	return superuser() ||
		(OidIsValid(subscription->owner) && has_privs_of_role(GetUserId(), subscription->owner));
}

void
EsSubscriptionCheckOwner(const EsSubscription *subscription)
{
	if (EsSubscriptionIsOwned(subscription))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of subscription \"%s\"", subscription->name)));
}

void
EsSubscriptionCheckReader(void)
{
	Oid events = EsCatalogOid(ES_OBJECT_EVENTS);
	AclResult result = pg_class_aclcheck(events, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "events");
	if (check_enable_rls(events, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security of table \"events\" applies to role \"%s\"",
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("The subscription would pass over events that the policies hide.")));
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

List *
EsStreamsRead(const char *subscription)
{
	List *streams = NIL;
	EsRows rows = {0};
	HeapTuple tuple;

	EsRowsKeyText(&rows, STREAM_SUBSCRIPTION + 1, subscription);
	EsRowsOpen(&rows, ES_OBJECT_STREAM, ES_OBJECT_STREAM_SUBSCRIPTION, AccessShareLock,
			   GetLatestSnapshot());
	while (HeapTupleIsValid(tuple = EsRowsNext(&rows)))
	{
		CHECK_FOR_INTERRUPTS();
		streams = lappend(streams, stream_of(rows.table, tuple));
	}
	EsRowsClose(&rows);
	list_sort(streams, compare_streams);
	return streams;
}

EsStream *
EsStreamRead(int32 id)
{
	EsStream *stream = NULL;
	EsRows rows = {0};
	HeapTuple tuple;

	open_stream(&rows, id, AccessShareLock);
	tuple = EsRowsNext(&rows);
	if (HeapTupleIsValid(tuple))
		stream = stream_of(rows.table, tuple);
	EsRowsClose(&rows);
	return stream;
}

void
EsStreamLock(int32 id)
{
	LOCKTAG tag = lock_tag(id);

	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

bool
EsStreamTryLock(int32 id)
{
	LOCKTAG tag = lock_tag(id);

	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
EsStreamUnlock(int32 id)
{
	LOCKTAG tag = lock_tag(id);

	(void) LockRelease(&tag, ExclusiveLock, false);
}

void
EsStreamWrite(const EsStream *stream)
{
	EsRows rows = {0};
	HeapTuple old;
	HeapTuple tuple;

	open_stream(&rows, stream->id, RowExclusiveLock);
	old = EsRowsNext(&rows);
	if (!HeapTupleIsValid(old))
		elog(ERROR, "stream %d of subscription \"%s\" is gone", stream->id, stream->subscription);
	tuple = tuple_of(stream, rows.table);
	CatalogTupleUpdate(rows.table, &old->t_self, tuple);
	EsRowsClose(&rows);
	heap_freetuple(tuple);
	CommandCounterIncrement();
}

void
EsStreamRemove(const EsStream *stream)
{
	EsRows rows = {0};
	HeapTuple tuple;

	open_stream(&rows, stream->id, RowExclusiveLock);
	tuple = EsRowsNext(&rows);
	if (HeapTupleIsValid(tuple))
		CatalogTupleDelete(rows.table, &tuple->t_self);
	EsRowsClose(&rows);
	CommandCounterIncrement();
}

ArrayType *const *
EsStreamFilters(const EsStream *stream, const EsSubscription *subscription)
{
	return stream->kind == ES_STREAM_PLAYBACK ? stream->filters : subscription->filters;
}

int64
EsStreamNextLease(const EsStream *stream)
{
	return ((int64) stream->id << 32) | (uint32) (stream->lease_id + 1);
}

int32
EsLeaseStream(int64 lease_id)
{
	return (int32) (lease_id >> 32);
}

TimestampTz
EsLeaseArgument(FunctionCallInfo fcinfo, int arg)
{
	static const Interval usual = {.time = 30 * USECS_PER_SEC};
	TimestampTz now = GetCurrentTimestamp();
	const Interval *length = PG_ARGISNULL(arg) ? &usual : PG_GETARG_INTERVAL_P(arg);
	TimestampTz until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
																TimestampTzGetDatum(now),
																IntervalPGetDatum(length)));

	if (until <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a lease must be longer than zero")));
	return until;
}

bool
EsSubscriptionHasRetries(const EsSubscription *subscription)
{
	EsRows rows = {0};
	bool found;

	EsRowsKeyText(&rows, PARKED_SUBSCRIPTION, subscription->name);
	EsRowsOpen(&rows, ES_OBJECT_STREAM_PARKED, ES_OBJECT_STREAM_PARKED_WAITING, AccessShareLock,
			   GetLatestSnapshot());
	found = HeapTupleIsValid(EsRowsNext(&rows));
	EsRowsClose(&rows);
	return found;
}

bool
EsStreamHasParked(const EsStream *stream)
{
	bool retry = stream->kind == ES_STREAM_RETRY;
	EsRows rows = {0};
	bool found;

	EsRowsKeyText(&rows, PARKED_SUBSCRIPTION, stream->subscription);
	EsRowsKeyInt32(&rows, PARKED_PARTITION, stream->partition);
	EsRowsOpen(&rows, ES_OBJECT_STREAM_PARKED,
			   retry ? ES_OBJECT_STREAM_PARKED_WAITING : ES_OBJECT_STREAM_PARKED_PKEY,
			   AccessShareLock, GetLatestSnapshot());
	found = HeapTupleIsValid(EsRowsNext(&rows));
	EsRowsClose(&rows);
	return found;
}

void
EsStreamPark(const EsStream *stream, const EsParked *event, bool held, int32 attempts,
			 const char *reason)
{
	EsValue args[] = {EsValueText(stream->subscription),
					  EsValueInt32(stream->partition),
					  EsValueBool(stream->kind == ES_STREAM_PLAYBACK),
					  EsValueInt64(event->position),
					  event->aggregate_type,
					  event->aggregate_id,
					  EsValueBool(held),
					  EsValueInt32(attempts),
					  EsValueText(reason),
					  EsValueInt32(stream->id)};

	SPI_connect();
	(void) EsQueryRun(&park_query, args);
	SPI_finish();
}

void
EsStreamForget(const char *subscription, EsValue partition)
{
	EsValue args[] = {EsValueText(subscription), partition};

	SPI_connect();
	(void) EsQueryRun(&forget_query, args);
	SPI_finish();
}

/* Starts to read the row of a stream. */
static void
open_stream(EsRows *rows, int32 id, LOCKMODE lockmode)
{
	EsRowsKeyInt32(rows, STREAM_ID + 1, id);
	EsRowsOpen(rows, ES_OBJECT_STREAM, ES_OBJECT_STREAM_PKEY, lockmode, GetLatestSnapshot());
}

static EsStream *
stream_of(Relation streams, HeapTuple row)
{
	EsStream *stream = palloc0(sizeof(EsStream));
	Datum values[STREAM_NCOLUMNS];
	bool nulls[STREAM_NCOLUMNS];

	EsCatalogRead(streams, row, STREAM_NCOLUMNS, values, nulls);
	stream->id = DatumGetInt32(values[STREAM_ID]);
	stream->subscription = TextDatumGetCString(values[STREAM_SUBSCRIPTION]);
	stream->partition = DatumGetInt32(values[STREAM_PARTITION]);
	stream->kind = kind_of(values[STREAM_KIND]);
	stream->checkpoint = DatumGetInt64(values[STREAM_CHECKPOINT]);
	if (!nulls[STREAM_UP_TO])
		stream->up_to = DatumGetInt64(values[STREAM_UP_TO]);
	read_filters(stream->filters, ES_READ_NFILTERS, &values[STREAM_FILTERS],
				 &nulls[STREAM_FILTERS]);
	stream->lease_id = DatumGetInt64(values[STREAM_LEASE_ID]);
	if (!nulls[STREAM_LEASE_UNTIL])
		stream->lease_until = DatumGetTimestampTz(values[STREAM_LEASE_UNTIL]);
	if (!nulls[STREAM_LEASED_AT])
		stream->leased_at = DatumGetTimestampTz(values[STREAM_LEASED_AT]);
	if (!nulls[STREAM_CONSUMER])
		stream->consumer = TextDatumGetCString(values[STREAM_CONSUMER]);
	stream->leased_count = DatumGetInt32(values[STREAM_LEASED_COUNT]);
	stream->leased_up_to = DatumGetInt64(values[STREAM_LEASED_UP_TO]);
	stream->retried_up_to = DatumGetInt64(values[STREAM_RETRIED_UP_TO]);
	stream->attempt = DatumGetInt32(values[STREAM_ATTEMPT]);
	stream->expired = DatumGetInt32(values[STREAM_EXPIRED]);
	if (!nulls[STREAM_ERROR])
		stream->error = TextDatumGetCString(values[STREAM_ERROR]);
	if (!nulls[STREAM_ERROR_POSITION])
		stream->error_position = DatumGetInt64(values[STREAM_ERROR_POSITION]);
	return stream;
}

static HeapTuple
tuple_of(const EsStream *stream, Relation streams)
{
	Datum values[STREAM_NCOLUMNS] = {0};
	bool nulls[STREAM_NCOLUMNS] = {false};

	values[STREAM_ID] = Int32GetDatum(stream->id);
	values[STREAM_SUBSCRIPTION] = CStringGetTextDatum(stream->subscription);
	values[STREAM_PARTITION] = Int32GetDatum(stream->partition);
	values[STREAM_KIND] = CStringGetTextDatum(kinds[stream->kind]);
	values[STREAM_CHECKPOINT] = Int64GetDatum(stream->checkpoint);
	values[STREAM_UP_TO] = Int64GetDatum(stream->up_to);
	nulls[STREAM_UP_TO] = stream->kind != ES_STREAM_PLAYBACK;
	for (int i = 0; i < ES_READ_NFILTERS; i++)
	{
		values[STREAM_FILTERS + i] = PointerGetDatum(stream->filters[i]);
		nulls[STREAM_FILTERS + i] = stream->filters[i] == NULL;
	}
	values[STREAM_LEASE_ID] = Int64GetDatum(stream->lease_id);
	values[STREAM_LEASE_UNTIL] = TimestampTzGetDatum(stream->lease_until);
	nulls[STREAM_LEASE_UNTIL] = stream->lease_until == 0;
	values[STREAM_LEASED_AT] = TimestampTzGetDatum(stream->leased_at);
	nulls[STREAM_LEASED_AT] = stream->leased_at == 0;
	nulls[STREAM_CONSUMER] = stream->consumer == NULL;
	if (stream->consumer != NULL)
		values[STREAM_CONSUMER] = CStringGetTextDatum(stream->consumer);
	values[STREAM_LEASED_COUNT] = Int32GetDatum(stream->leased_count);
	values[STREAM_LEASED_UP_TO] = Int64GetDatum(stream->leased_up_to);
	values[STREAM_RETRIED_UP_TO] = Int64GetDatum(stream->retried_up_to);
	values[STREAM_ATTEMPT] = Int32GetDatum(stream->attempt);
	values[STREAM_EXPIRED] = Int32GetDatum(stream->expired);
	nulls[STREAM_ERROR] = stream->error == NULL;
	if (stream->error != NULL)
		values[STREAM_ERROR] = CStringGetTextDatum(stream->error);
	values[STREAM_ERROR_POSITION] = Int64GetDatum(stream->error_position);
	nulls[STREAM_ERROR_POSITION] = stream->error_position == 0;
	return EsCatalogRow(streams, STREAM_NCOLUMNS, values, nulls);
}

static EsStreamKind
kind_of(Datum kind)
{
	char *name = TextDatumGetCString(kind);

	for (int i = 0; i < (int) lengthof(kinds); i++)
		if (strcmp(name, kinds[i]) == 0)
			return (EsStreamKind) i;
	elog(ERROR, "unknown kind of stream \"%s\"", name);
}

static void
read_filters(ArrayType **filters, int nfilters, const Datum *values, const bool *nulls)
{
	for (int i = 0; i < nfilters; i++)
		if (!nulls[i])
			filters[i] = DatumGetArrayTypePCopy(values[i]);
}

static int
compare_streams(const ListCell *a, const ListCell *b)
{
	const EsStream *sa = lfirst(a);
	const EsStream *sb = lfirst(b);

	if (sa->leased_at != sb->leased_at)
		return sa->leased_at < sb->leased_at ? -1 : 1;
	return sa->id < sb->id ? -1 : sa->id > sb->id;
}

static LOCKTAG
lock_tag(int32 stream)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, (uint32) stream, ES_LOCK_STREAM);
	return tag;
}
