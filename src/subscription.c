/*
 * subscription.c
 *	  Creating, moving and dropping subscriptions; playbacks.
 *
 * A subscription is managed by the role that has created it, its owner, and
 * read by whoever may read the log.
 *
 * Locks.  es.seek() and es.drop_subscription() lock the streams, so they wait for
 * transactions that have fetched or acknowledged and have not ended.  A playback
 * adds streams; it keeps the subscription's row from being deleted, which is what
 * es.drop_subscription() does first.
 */
#include "postgres.h"

#include "argument.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "compat.h"
#include "errors.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "position.h"
#include "read.h"
#include "receiver.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "version.h"

/* What a playback will deliver, counted by partition. */
typedef struct Count
{
	DestReceiver receiver;
	int32 partitions;
	int64 total;
	int64 last[ES_MAX_PARTITIONS]; /* 0: no events */
} Count;

static EsQuery create_query = {
	"INSERT INTO es.subscription AS s (name, owner, aggregate_types, event_types, sources,"
	" partitions, max_attempts, after_park, created_at)"
	" VALUES ($1, $2::es.role, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())"
	" ON CONFLICT (name) DO NOTHING",
	8,
	{TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID, TEXTOID}};

static EsQuery stream_query = {
	"WITH n AS MATERIALIZED (SELECT pg_catalog.nextval('es.subscription_stream_seq') AS stream)"
	" INSERT INTO es.subscription_stream (stream, subscription, partition, kind, checkpoint,"
	" up_to, aggregate_types, event_types, sources, aggregate_ids, lease_id, leased_count,"
	" leased_up_to, retried_up_to, attempt, expired)"
	" SELECT n.stream::pg_catalog.int4, $1, $2, $3, $4, $5, $6, $7, $8, $9,"
	" n.stream OPERATOR(pg_catalog.<<) 32, 0, 0, 0, 0, 0 FROM n",
	9,
	{TEXTOID, INT4OID, TEXTOID, INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	 TEXTARRAYOID}};

static EsQuery drop_query = {
	"DELETE FROM es.subscription AS s WHERE s.name OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}};

static EsQuery drop_parked_query = {
	"DELETE FROM es.subscription_parked AS p WHERE p.subscription OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID}};

static EsQuery parked_query = {
	"SELECT FROM es.subscription_parked AS p WHERE p.subscription OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID}};

static EsQuery drop_done_query = {
	"DELETE FROM es.subscription_parked AS p WHERE p.subscription OPERATOR(pg_catalog.=) $1"
	" AND p.done AND NOT p.replayed",
	1,
	{TEXTOID}};

static EsQuery done_query = {
	"SELECT FROM es.subscription_parked AS p WHERE p.subscription OPERATOR(pg_catalog.=) $1"
	" AND p.done AND NOT p.replayed",
	1,
	{TEXTOID}};

static EsQuery keep_query = {
	"SELECT FROM es.subscription AS s WHERE s.name OPERATOR(pg_catalog.=) $1 FOR KEY SHARE",
	1,
	{TEXTOID}};

static EsQuery common_query = {
	"SELECT ARRAY(SELECT a.item FROM pg_catalog.unnest($1) AS a (item)"
	" WHERE a.item OPERATOR(pg_catalog.=) ANY ($2))",
	2,
	{TEXTARRAYOID, TEXTARRAYOID}};

static void add_stream(const char *subscription, int32 partition, const char *kind,
					   int64 checkpoint, const EsReadRange *playback, int64 up_to);
static EsSubscription *open_owned(FunctionCallInfo fcinfo, const char *function);
pg_noreturn static void does_not_exist(const char *name);
static List *lock_streams(const EsSubscription *subscription);
static int compare_ids(const ListCell *a, const ListCell *b);
static ArrayType *common(ArrayType *a, ArrayType *b);
static bool count_event(TupleTableSlot *slot, DestReceiver *self);

ES_FUNCTION_INFO_V1(es_create_subscription);
ES_FUNCTION_INFO_V1(es_drop_subscription);
ES_FUNCTION_INFO_V1(es_seek);
ES_FUNCTION_INFO_V1(es_playback);

/* es.create_subscription(): a new durable reader of the log. */
Datum
es_create_subscription(PG_FUNCTION_ARGS)
{
	char *name = EsNameArgument(fcinfo, 0, "name", true);
	ArrayType *aggregate_types = EsListArgument(fcinfo, 1, "aggregate_types");
	ArrayType *event_types = EsListArgument(fcinfo, 2, "event_types");
	ArrayType *sources = EsListArgument(fcinfo, 3, "sources");
	int32 partitions = PG_ARGISNULL(5) ? 1 : PG_GETARG_INT32(5);
	int32 max_attempts = PG_ARGISNULL(6) ? 0 : PG_GETARG_INT32(6);
	char *after_park = EsNameArgument(fcinfo, 7, "after_park", true);
	int64 start_after;
	EsValue args[8];

	EsRefuseReadOnly("es.create_subscription()");
	if (partitions < 1 || partitions > ES_MAX_PARTITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partitions must be between 1 and %d", ES_MAX_PARTITIONS)));
	if (max_attempts < 1 && !PG_ARGISNULL(6))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_attempts must be at least 1"),
				 errhint("Null lets an event be tried for ever.")));
	if (strcmp(after_park, "continue") != 0 && strcmp(after_park, "wait") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown word \"%s\" for after_park", after_park),
				 errhint("It is \"continue\" or \"wait\".")));
	EsSubscriptionCheckReader();
	start_after = PG_ARGISNULL(4) ? EsHighWaterMark() : PG_GETARG_INT64(4);

	args[0] = EsValueText(name);
	args[1] = EsValueText(GetUserNameFromId(GetUserId(), false));
	args[2] = EsValueArray(aggregate_types);
	args[3] = EsValueArray(event_types);
	args[4] = EsValueArray(sources);
	args[5] = EsValueInt32(partitions);
	args[6] = PG_ARGISNULL(6) ? EsValueNull() : EsValueInt32(max_attempts);
	args[7] = EsValueText(after_park);
	SPI_connect();
	if (EsQueryRun(&create_query, args) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", name)));
	for (int32 partition = 0; partition < partitions; partition++)
	{
		add_stream(name, partition, "live", start_after, NULL, 0);
		add_stream(name, partition, "retry", 0, NULL, 0);
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.drop_subscription(): removes a subscription and all that is stored of it. */
Datum
es_drop_subscription(PG_FUNCTION_ARGS)
{
	EsSubscription *subscription = open_owned(fcinfo, "es.drop_subscription()");
	EsValue args[] = {EsValueText(subscription->name)};
	ListCell *lc;

	SPI_connect();
	if (EsQueryRun(&drop_query, args) == 0)
		does_not_exist(subscription->name);
	foreach(lc, lock_streams(subscription))
		EsStreamRemove(lfirst(lc));
	(void) EsQueryRun(&drop_parked_query, args);
	EsQueryCheckSnapshot(&parked_query, args);
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.seek(): moves a subscription back or forth. */
Datum
es_seek(PG_FUNCTION_ARGS)
{
	EsSubscription *subscription = open_owned(fcinfo, "es.seek()");
	int64 to_position = PG_ARGISNULL(1) ? EsHighWaterMark() : PG_GETARG_INT64(1);
	EsValue args[] = {EsValueText(subscription->name)};
	ListCell *lc;

	foreach(lc, lock_streams(subscription))
	{
		EsStream *stream = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (stream->kind != ES_STREAM_LIVE)
			continue;
		stream->checkpoint = to_position;
		stream->lease_id = EsStreamNextLease(stream);
		stream->lease_until = 0;
		stream->leased_count = 0;
		stream->leased_up_to = 0;
		stream->retried_up_to = 0;
		stream->attempt = 0;
		stream->expired = 0;
		stream->error = NULL;
		stream->error_position = 0;
		EsStreamWrite(stream);
	}
	SPI_connect();
	(void) EsQueryRun(&drop_done_query, args);
	EsQueryCheckSnapshot(&done_query, args);
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.playback(): has events of the past delivered again, beside the live ones. */
Datum
es_playback(PG_FUNCTION_ARGS)
{
	EsSubscription *subscription = open_owned(fcinfo, "es.playback()");
	Count *count = palloc0(sizeof(Count));
	EsReadRange range = {.after = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1), .max_count = -1};
	EsValue args[] = {EsValueText(subscription->name)};

	EsRefuseFixedSnapshot("es.playback()");
	EsSubscriptionCheckReader();
	range.up_to = EsHighWaterMark();
	if (!PG_ARGISNULL(2))
		range.up_to = Min(range.up_to, PG_GETARG_INT64(2));
	range.filters[ES_READ_AGGREGATE_IDS] = EsListArgument(fcinfo, 4, "aggregate_ids");
	count->partitions = subscription->partitions;
	EsReceiverInit(&count->receiver, count_event);

	SPI_connect();
	if (EsQueryRun(&keep_query, args) == 0)
		does_not_exist(subscription->name);
	range.filters[ES_READ_AGGREGATE_TYPES] =
		common(EsListArgument(fcinfo, 3, "aggregate_types"),
			   subscription->filters[ES_READ_AGGREGATE_TYPES]);
	range.filters[ES_READ_EVENT_TYPES] = common(EsListArgument(fcinfo, 5, "event_types"),
												subscription->filters[ES_READ_EVENT_TYPES]);
	range.filters[ES_READ_SOURCES] = subscription->filters[ES_READ_SOURCES];
	if (range.after < range.up_to)
		EsRead(&range, &count->receiver);
	for (int32 partition = 0; partition < count->partitions; partition++)
		if (count->last[partition] != 0)
			add_stream(subscription->name, partition, "playback", range.after, &range,
					   count->last[partition]);
	SPI_finish();
	PG_RETURN_INT64(count->total);
}

/* Adds a stream to a subscription; of a playback the filters and the end are given. */
static void
add_stream(const char *subscription, int32 partition, const char *kind, int64 checkpoint,
		   const EsReadRange *playback, int64 up_to)
{
	EsValue args[9] = {EsValueText(subscription), EsValueInt32(partition), EsValueText(kind),
					   EsValueInt64(checkpoint)};

	CHECK_FOR_INTERRUPTS();
	args[4] = playback == NULL ? EsValueNull() : EsValueInt64(up_to);
	for (int i = 0; i < ES_READ_NFILTERS; i++)
		args[5 + i] = EsValueArray(playback == NULL ? NULL : playback->filters[i]);
	(void) EsQueryRun(&stream_query, args);
}

/* Returns the subscription that is the first argument, for its owner only. */
static EsSubscription *
open_owned(FunctionCallInfo fcinfo, const char *function)
{
	EsSubscription *subscription;

	EsRefuseReadOnly(function);
	subscription = EsSubscriptionFind(EsTextArgument(fcinfo, 0, "subscription", true));
	EsSubscriptionCheckOwner(subscription);
	return subscription;
}

/* Somebody else has dropped the subscription meanwhile. */
static void
does_not_exist(const char *name)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_UNKNOWN_NAME), errmsg("subscription \"%s\" does not exist", name)));
}

/* Locks a subscription's streams in the order of their ids; returns them as they are then. */
static List *
lock_streams(const EsSubscription *subscription)
{
	List *streams = EsStreamsRead(subscription->name);
	List *locked = NIL;
	ListCell *lc;

	list_sort(streams, compare_ids);
	foreach(lc, streams)
	{
		int32 id = ((EsStream *) lfirst(lc))->id;
		EsStream *stream;

		EsStreamLock(id);
		stream = EsStreamRead(id);
		if (stream != NULL)
			locked = lappend(locked, stream);
	}
	return locked;
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int32 ia = ((EsStream *) lfirst(a))->id;
	int32 ib = ((EsStream *) lfirst(b))->id;

	return ia < ib ? -1 : ia > ib;
}

/* Returns what two filters let pass. */
static ArrayType *
common(ArrayType *a, ArrayType *b)
{
	EsValue args[] = {EsValueArray(a), EsValueArray(b)};

	if (a == NULL || b == NULL)
		return a == NULL ? b : a;
	(void) EsQueryRun(&common_query, args);
	return DatumGetArrayTypeP(EsQueryColumn(0, 1).value);
}

/* Receives an event that will be delivered again. */
static bool
count_event(TupleTableSlot *slot, DestReceiver *self)
{
	Count *count = (Count *) self;
	bool isnull;
	Datum type = slot_getattr(slot, ES_EVENT_AGGREGATE_TYPE, &isnull);
	Datum id = slot_getattr(slot, ES_EVENT_AGGREGATE_ID, &isnull);

	count->total++;
	count->last[EsPartitionOf(type, id, count->partitions)] =
		DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION, &isnull));
	return true;
}
