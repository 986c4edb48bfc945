/*
 * fetch.c
 *	  es.fetch(): the next events of a subscription, under a lease.
 *
 * A fetch looks at the streams that nobody has leased, the one that was leased
 * least recently first.  It reads the events above the checkpoint, up to the
 * high-water mark, and if there are any, changes the stream's row: the lease,
 * and up to where the events were handed out.  The checkpoint moves by es.ack()
 * only, or here, when there was nothing for the subscription.
 *
 * Locks.  Looking at a stream takes a lock of ours that others do not wait for:
 * they look at other streams.  A fetch that leases a stream keeps it to the
 * end of its transaction, so that until the lease is seen nobody looks there
 * in vain.  The row is changed only if nobody has locked it (SKIP LOCKED) and
 * it is still what was read: a fetch never waits for another session.
 *
 * Waiting for events takes neither locks nor a transaction id.  The streams are
 * looked at again when the high-water mark has moved, and from time to time,
 * because of leases that run out, playbacks, and parked events on their way back.
 *
 * What was read in vain is remembered by the session, so that a consumer that
 * polls does not read it again, and stored, so that nobody does.  It is a fact
 * of the log, which nothing changes: no events for the stream in that range.
 *
 * Events that consumers can't cope with.  If leases run out again and again,
 * each is for half as many events as the one before, until it is for one.  If
 * that runs out as often as max_attempts says, it is clear which event is to
 * blame, and it is put aside.
 */
#include "postgres.h"

#include "argument.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "gap.h"
#include "miscadmin.h"
#include "position.h"
#include "read.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define PARTITION_CHUNK 1000  /* events read at once to find those of one partition */
#define LOOK_AGAIN      100   /* milliseconds between two looks at the streams */
#define STORE_AFTER     1000  /* milliseconds after which a checkpoint is stored again */
#define STORE_FROM      10000 /* positions read in vain that are stored in any case */
#define MAX_WAITING     1000  /* events put into the waiting line at once */

/* Columns of the result before those of es.events. */
enum
{
	RESULT_LEASE_ID,
	RESULT_PARTITION,
	RESULT_ATTEMPT,
	RESULT_REPLAYED,
	RESULT_EVENT,
	RESULT_NCOLUMNS = RESULT_EVENT + ES_EVENT_NCOLUMNS
};

/* Columns of the query for events that are delivered once more, after those of es.events. */
enum
{
	RETRY_ATTEMPTS = ES_EVENT_NCOLUMNS + 1,
	RETRY_REPLAYED
};

/* What stands in the way of an event. */
typedef enum Obstacle
{
	OBSTACLE_NONE,
	OBSTACLE_PARKED, /* it was put aside itself */
	OBSTACLE_WAITS   /* an earlier one of its aggregate was */
} Obstacle;

/* A fetch at work, as a receiver of events. */
typedef struct Fetch
{
	DestReceiver receiver;
	EsSubscription *subscription;
	Tuplestorestate *result;
	TupleDesc desc;
	EsValue lease;
	char *consumer; /* or null */
	int32 max_count;

	/* of the stream that is looked at */
	EsStream *stream;
	MemoryContext context;
	int32 limit;      /* events wanted */
	int32 count;      /* events found */
	int64 last;       /* the last one's position */
	int64 seen;       /* events that the query has returned */
	int64 seen_up_to; /* read up to here */
	int32 attempt;    /* of events that were delivered before */
	int64 retried_up_to;
	List *waiting;             /* of EsParked: events that wait for one that was put aside */
	ArrayBuildState *retried;  /* positions of events delivered once more, and */
	ArrayBuildState *replayed; /* whether they come from a playback */
} Fetch;

/* The stream's row, if nobody has locked it and it is as it was read. */
#define FREE_STREAM \
	" (SELECT f.stream FROM es.subscription_stream AS f" \
	"  WHERE f.stream OPERATOR(pg_catalog.=) $1 AND f.lease_id OPERATOR(pg_catalog.=) $2" \
	"  AND f.checkpoint OPERATOR(pg_catalog.=) $3" \
	"  AND coalesce(f.lease_until OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp(), true)" \
	"  FOR NO KEY UPDATE SKIP LOCKED) AS free" \
	" WHERE t.stream OPERATOR(pg_catalog.=) free.stream"

static EsQuery lease_query = {
	"UPDATE es.subscription_stream AS t"
	" SET lease_id = $4, lease_until = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) $5,"
	" leased_at = pg_catalog.clock_timestamp(), consumer = $6, leased_count = $7, leased_up_to = $8,"
	" retried_up_to = $9, attempt = $10, expired = $11 FROM" FREE_STREAM,
	11,
	{INT4OID, INT8OID, INT8OID, INT8OID, INTERVALOID, TEXTOID, INT4OID, INT8OID, INT8OID, INT4OID,
	 INT4OID}};

static EsQuery advance_query = {
	"UPDATE es.subscription_stream AS t"
	" SET checkpoint = $4, lease_until = NULL, attempt = 0, expired = 0 FROM" FREE_STREAM,
	4,
	{INT4OID, INT8OID, INT8OID, INT8OID}};

static EsQuery finish_query = {
	"DELETE FROM es.subscription_stream AS t USING" FREE_STREAM, 3, {INT4OID, INT8OID, INT8OID}};

static EsQuery retry_query = {
	"SELECT e.*, p.attempts, p.replayed"
	" FROM es.subscription_parked AS p"
	" JOIN es.events AS e ON e.position OPERATOR(pg_catalog.=) p.position"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND NOT p.held AND NOT ($3 AND EXISTS (SELECT FROM es.subscription_parked AS h"
	"  WHERE h.subscription OPERATOR(pg_catalog.=) p.subscription"
	"  AND h.partition OPERATOR(pg_catalog.=) p.partition"
	"  AND h.replayed OPERATOR(pg_catalog.=) p.replayed"
	"  AND h.aggregate_type OPERATOR(pg_catalog.=) p.aggregate_type"
	"  AND h.aggregate_id OPERATOR(pg_catalog.=) p.aggregate_id"
	"  AND h.position OPERATOR(pg_catalog.<) p.position AND h.held))"
	" ORDER BY p.position, p.replayed LIMIT $4",
	4,
	{TEXTOID, INT4OID, BOOLOID, INT8OID}};

static EsQuery retried_query = {
	"UPDATE es.subscription_parked AS p SET lease_id = $3, attempts = p.attempts OPERATOR(pg_catalog.+) 1"
	" FROM ROWS FROM (pg_catalog.unnest($4), pg_catalog.unnest($5)) AS r (position, replayed)"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.position OPERATOR(pg_catalog.=) r.position"
	" AND p.replayed OPERATOR(pg_catalog.=) r.replayed",
	5,
	{TEXTOID, INT4OID, INT8OID, INT8ARRAYOID, BOOLARRAYOID}};

static EsQuery obstacle_query = {
	"SELECT p.position OPERATOR(pg_catalog.=) $4 FROM es.subscription_parked AS p"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.replayed OPERATOR(pg_catalog.=) $3"
	" AND (p.position OPERATOR(pg_catalog.=) $4"
	"  OR $5 AND p.position OPERATOR(pg_catalog.<) $4"
	"  AND p.aggregate_type OPERATOR(pg_catalog.=) $6 AND p.aggregate_id OPERATOR(pg_catalog.=) $7)"
	" ORDER BY p.position DESC LIMIT 1",
	7,
	{TEXTOID, INT4OID, BOOLOID, INT8OID, BOOLOID, TEXTOID, TEXTOID}};

static EsQuery blame_query = {
	"UPDATE es.subscription_stream AS t"
	" SET lease_until = NULL, attempt = 1, expired = 0, error = $4, error_position = $5"
	" FROM" FREE_STREAM,
	5,
	{INT4OID, INT8OID, INT8OID, TEXTOID, INT8OID}};

static EsQuery hold_query = {
	"UPDATE es.subscription_parked AS p SET held = true, reason = $4,"
	" parked_at = pg_catalog.clock_timestamp()"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.lease_id OPERATOR(pg_catalog.=) $3 AND NOT p.held",
	4,
	{TEXTOID, INT4OID, INT8OID, TEXTOID}};

static EsQuery aggregate_query = {
	"SELECT e.aggregate_type, e.aggregate_id FROM es.events AS e"
	" WHERE e.position OPERATOR(pg_catalog.=) $1",
	1,
	{INT8OID}};

static void init_fetch(Fetch *fetch, FunctionCallInfo fcinfo);
static TimestampTz wait_until(FunctionCallInfo fcinfo);
static bool look_at_all(Fetch *fetch, int64 mark, bool *again);
static bool look_at(Fetch *fetch, EsStream *stream, int64 mark, bool *again);
static void blame(Fetch *fetch, EsStream *stream);
static void read_log(Fetch *fetch, int64 mark);
static void read_retries(Fetch *fetch);
static void expect(Fetch *fetch);
static bool receive(TupleTableSlot *slot, DestReceiver *self);
static bool receive_retry(TupleTableSlot *slot, DestReceiver *self);
static void receive_startup(DestReceiver *self, int operation, TupleDesc desc);
static void receive_nothing(DestReceiver *self);
static Obstacle obstacle_of(Fetch *fetch, TupleTableSlot *slot, int64 position);
static void put(Fetch *fetch, TupleTableSlot *slot, int32 attempt, bool replayed);
static bool take_lease(Fetch *fetch);
static void store(Fetch *fetch, EsStream *stream, int64 up_to);
static void park_waiting(Fetch *fetch);
static void store_all(Fetch *fetch);

PG_FUNCTION_INFO_V1(es_fetch);

/* es.fetch(): the next events of one partition that nobody else reads. */
Datum
es_fetch(PG_FUNCTION_ARGS)
{
	Fetch fetch;
	char *name;
	TimestampTz until;
	bool again = false;

	EsRefuseReadOnly("es.fetch()");
	EsRefuseFixedSnapshot("es.fetch()");
	name = EsTextArgument(fcinfo, 0, "subscription", true);
	init_fetch(&fetch, fcinfo);
	until = wait_until(fcinfo);
	EsSubscriptionCheckReader();

	for (;;)
	{
		MemoryContext old = MemoryContextSwitchTo(fetch.context);
		int64 mark = EsHighWaterMark();
		TimestampTz now = GetCurrentTimestamp();
		bool found;

		fetch.subscription = EsSubscriptionRead(name);
		found = look_at_all(&fetch, mark, &again);
		if (!found && !again && now >= until)
			store_all(&fetch);
		MemoryContextSwitchTo(old);
		MemoryContextReset(fetch.context);
		if (found || (!again && now >= until))
			break;
		if (!again)
			(void) EsHighWaterMarkWait(mark,
									   Min(until, TimestampTzPlusMilliseconds(now, LOOK_AGAIN)));
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(fetch.context);
	return (Datum) 0;
}

/* Reads the arguments and opens the result. */
static void
init_fetch(Fetch *fetch, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result;

	memset(fetch, 0, sizeof(Fetch));
	fetch->max_count = PG_ARGISNULL(1) ? 100 : PG_GETARG_INT32(1);
	if (fetch->max_count < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must be at least 1")));
	fetch->consumer = EsTextArgument(fcinfo, 2, "consumer", false);
	fetch->lease = EsLeaseArgument(fcinfo, 3);
	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;
	fetch->result = result->setResult;
	fetch->desc = result->setDesc;
	fetch->receiver.rStartup = receive_startup;
	fetch->receiver.rShutdown = receive_nothing;
	fetch->receiver.rDestroy = receive_nothing;
	fetch->receiver.mydest = DestTuplestore;
	fetch->context = AllocSetContextCreate(CurrentMemoryContext, "es fetch", ALLOCSET_DEFAULT_SIZES);
}

/* Returns when to stop waiting. */
static TimestampTz
wait_until(FunctionCallInfo fcinfo)
{
	TimestampTz now = GetCurrentTimestamp();

	if (PG_ARGISNULL(4))
		return now;
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(now), PG_GETARG_DATUM(4)));
}

/*
 * Looks at the streams until there are events to deliver.  again: there were
 * none, but as much was put into the waiting line as is done at once.
 */
static bool
look_at_all(Fetch *fetch, int64 mark, bool *again)
{
	ListCell *lc;

	*again = false;
	foreach(lc, fetch->subscription->streams)
	{
		EsStream *stream = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (stream->leased || (stream->kind == ES_STREAM_RETRY && !stream->has_parked) ||
			!EsStreamTryLock(stream))
			continue;
		if (look_at(fetch, stream, mark, again))
			return true;
		EsStreamUnlock(stream);
	}
	return false;
}

/* Looks at one stream: true if it has events, which are now leased. */
static bool
look_at(Fetch *fetch, EsStream *stream, int64 mark, bool *again)
{
	int32 max_attempts = fetch->subscription->max_attempts;

	if (stream->ran_out && stream->leased_count == 1 && max_attempts != 0 &&
		stream->attempt >= max_attempts)
		blame(fetch, stream);
	fetch->stream = stream;
	expect(fetch);
	if (stream->kind == ES_STREAM_RETRY)
		read_retries(fetch);
	else
		read_log(fetch, mark);

	if (fetch->count > 0)
	{
		if (take_lease(fetch))
			return true;
		tuplestore_clear(fetch->result);
	}
	else if (stream->kind != ES_STREAM_RETRY)
	{
		if (list_length(fetch->waiting) >= MAX_WAITING)
			*again = true;
		stream->nothing_up_to = fetch->seen_up_to;
		if (!stream->has_parked)
			EsGapLearn(stream, fetch->seen_up_to);
		if (fetch->waiting != NIL || fetch->seen_up_to >= stream->checkpoint + STORE_FROM)
			store(fetch, stream, fetch->seen_up_to);
	}
	return false;
}

/* Puts the only event aside that the last leases were for, which have run out. */
static void
blame(Fetch *fetch, EsStream *stream)
{
	const char *name = fetch->subscription->name;
	EsParked event = {.position = stream->leased_up_to};
	char *reason = psprintf("the lease has run out (%d attempts)", stream->attempt);
	EsValue args[] = {EsValueInt32(stream->id), EsValueInt64(stream->lease_id),
					  EsValueInt64(stream->checkpoint), EsValueText(reason),
					  EsValueInt64(event.position)};

	SPI_connect();
	if (EsQueryRun(&blame_query, args) > 0)
	{
		if (stream->kind == ES_STREAM_RETRY)
		{
			EsValue hold[] = {EsValueText(name), EsValueInt32(stream->partition),
							  EsValueInt64(stream->lease_id), EsValueText(reason)};

			(void) EsQueryRun(&hold_query, hold);
		}
		else
		{
			(void) EsQueryRun(&aggregate_query, &args[4]);
			event.aggregate_type = EsQueryColumn(0, 1);
			event.aggregate_id = EsQueryColumn(0, 2);
			EsStreamPark(name, stream->partition, stream->kind == ES_STREAM_PLAYBACK, &event, true,
						 stream->attempt, reason);
			stream->has_parked = true;
		}
		stream->ran_out = false;
		stream->attempt = 1;
		stream->expired = 0;
	}
	SPI_finish();
}

/* Says how many events are wanted of the stream, and which of them are not new. */
static void
expect(Fetch *fetch)
{
	EsStream *stream = fetch->stream;
	int32 max_attempts = fetch->subscription->max_attempts;
	int32 expired = stream->expired + (stream->ran_out ? 1 : 0);

	fetch->count = 0;
	fetch->seen_up_to = stream->checkpoint;
	fetch->waiting = NIL;
	fetch->retried = NULL;
	fetch->replayed = NULL;
	fetch->retried_up_to = Max(stream->retried_up_to, stream->leased_up_to);
	fetch->attempt = fetch->retried_up_to > stream->checkpoint ? stream->attempt + 1 : 1;
	if (expired > 0 && max_attempts != 0 && fetch->attempt >= max_attempts)
		fetch->limit = 1;
	else
		fetch->limit = Max(fetch->max_count >> Min(expired, 30), 1);
	fetch->receiver.receiveSlot = stream->kind == ES_STREAM_RETRY ? receive_retry : receive;
}

/* Reads the stream's events above its checkpoint, as many as are wanted. */
static void
read_log(Fetch *fetch, int64 mark)
{
	EsStream *stream = fetch->stream;
	EsReadRange range = {.after = stream->checkpoint, .up_to = mark};

	if (stream->kind == ES_STREAM_PLAYBACK)
		range.up_to = Min(mark, stream->up_to);
	if (!stream->has_parked)
		range.after = EsGapEnd(stream);
	for (int i = 0; i < ES_READ_NFILTERS; i++)
		range.filters[i] = stream->filters[i];

	while (range.after < range.up_to)
	{
		range.max_count = fetch->limit - fetch->count;
		if (fetch->subscription->partitions > 1 || stream->has_parked)
			range.max_count =
				Max(range.max_count * fetch->subscription->partitions, PARTITION_CHUNK);
		fetch->seen = 0;
		EsRead(&range, &fetch->receiver);
		CHECK_FOR_INTERRUPTS();
		if (fetch->count == fetch->limit || list_length(fetch->waiting) >= MAX_WAITING)
			return;
		range.after = fetch->seen < range.max_count ? range.up_to : fetch->seen_up_to;
	}
	fetch->seen_up_to = Max(range.after, stream->checkpoint);
}

/* Reads the events that are to be delivered once more. */
static void
read_retries(Fetch *fetch)
{
	EsValue args[] = {EsValueText(fetch->subscription->name),
					  EsValueInt32(fetch->stream->partition),
					  EsValueBool(fetch->subscription->wait), EsValueInt64(fetch->limit)};

	SPI_connect();
	EsQuerySend(&retry_query, args, &fetch->receiver);
	SPI_finish();
}

/* Receives an event of the log; false: no more are wanted. */
static bool
receive(TupleTableSlot *slot, DestReceiver *self)
{
	Fetch *fetch = (Fetch *) self;
	EsStream *stream = fetch->stream;
	int64 position;

	slot_getallattrs(slot);
	position = DatumGetInt64(slot->tts_values[ES_EVENT_POSITION - 1]);
	fetch->seen++;
	fetch->seen_up_to = position;
	if (fetch->subscription->partitions > 1 &&
		EsPartitionOf(slot->tts_values[ES_EVENT_AGGREGATE_TYPE - 1],
					  slot->tts_values[ES_EVENT_AGGREGATE_ID - 1],
					  fetch->subscription->partitions) != stream->partition)
		return true;
	if (stream->has_parked)
		switch (obstacle_of(fetch, slot, position))
		{
			case OBSTACLE_NONE:
				break;
			case OBSTACLE_PARKED:
				return true;
			case OBSTACLE_WAITS:
				return list_length(fetch->waiting) < MAX_WAITING;
		}
	fetch->last = position;
	put(fetch, slot, position <= fetch->retried_up_to ? fetch->attempt : 1,
		stream->kind == ES_STREAM_PLAYBACK);
	return fetch->count < fetch->limit;
}

/* Receives an event that is delivered once more. */
static bool
receive_retry(TupleTableSlot *slot, DestReceiver *self)
{
	Fetch *fetch = (Fetch *) self;
	Datum replayed;

	slot_getallattrs(slot);
	replayed = slot->tts_values[RETRY_REPLAYED - 1];
	fetch->last = DatumGetInt64(slot->tts_values[ES_EVENT_POSITION - 1]);
	fetch->retried = accumArrayResult(fetch->retried, Int64GetDatum(fetch->last), false, INT8OID,
									  fetch->context);
	fetch->replayed = accumArrayResult(fetch->replayed, replayed, false, BOOLOID, fetch->context);
	put(fetch, slot, DatumGetInt32(slot->tts_values[RETRY_ATTEMPTS - 1]) + 1,
		DatumGetBool(replayed));
	return true;
}

static void
receive_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
receive_nothing(DestReceiver *self)
{
}

/* Says whether an event can't be delivered; one that has to wait is put on the list. */
static Obstacle
obstacle_of(Fetch *fetch, TupleTableSlot *slot, int64 position)
{
	EsStream *stream = fetch->stream;
	Obstacle obstacle = OBSTACLE_NONE;
	EsValue type = {.value = slot->tts_values[ES_EVENT_AGGREGATE_TYPE - 1]};
	EsValue id = {.value = slot->tts_values[ES_EVENT_AGGREGATE_ID - 1]};
	EsValue args[] = {EsValueText(fetch->subscription->name), EsValueInt32(stream->partition),
					  EsValueBool(stream->kind == ES_STREAM_PLAYBACK), EsValueInt64(position),
					  EsValueBool(fetch->subscription->wait), type, id};

	SPI_connect();
	if (EsQueryRun(&obstacle_query, args) > 0)
		obstacle = EsQueryBool(0, 1) ? OBSTACLE_PARKED : OBSTACLE_WAITS;
	SPI_finish();
	if (obstacle == OBSTACLE_WAITS)
	{
		MemoryContext old = MemoryContextSwitchTo(fetch->context);
		EsParked *event = palloc0(sizeof(EsParked));

		event->position = position;
		event->aggregate_type.value = datumCopy(type.value, false, -1);
		event->aggregate_id.value = datumCopy(id.value, false, -1);
		fetch->waiting = lappend(fetch->waiting, event);
		MemoryContextSwitchTo(old);
	}
	return obstacle;
}

/* Adds an event to the result. */
static void
put(Fetch *fetch, TupleTableSlot *slot, int32 attempt, bool replayed)
{
	Datum values[RESULT_NCOLUMNS];
	bool nulls[RESULT_NCOLUMNS] = {false};

	values[RESULT_LEASE_ID] = Int64GetDatum(EsStreamNextLease(fetch->stream));
	values[RESULT_PARTITION] = Int32GetDatum(fetch->stream->partition);
	values[RESULT_ATTEMPT] = Int32GetDatum(attempt);
	values[RESULT_REPLAYED] = BoolGetDatum(replayed);
	memcpy(&values[RESULT_EVENT], slot->tts_values, sizeof(Datum) * ES_EVENT_NCOLUMNS);
	memcpy(&nulls[RESULT_EVENT], slot->tts_isnull, sizeof(bool) * ES_EVENT_NCOLUMNS);
	tuplestore_putvalues(fetch->result, fetch->desc, values, nulls);
	fetch->count++;
}

/* Leases the stream for the events that were read; false: somebody was faster. */
static bool
take_lease(Fetch *fetch)
{
	EsStream *stream = fetch->stream;
	int64 lease_id = EsStreamNextLease(stream);
	EsValue args[] = {EsValueInt32(stream->id),
					  EsValueInt64(stream->lease_id),
					  EsValueInt64(stream->checkpoint),
					  EsValueInt64(lease_id),
					  fetch->lease,
					  EsValueText(fetch->consumer),
					  EsValueInt32(fetch->count),
					  EsValueInt64(fetch->last),
					  EsValueInt64(fetch->retried_up_to),
					  EsValueInt32(fetch->attempt),
					  EsValueInt32(stream->expired + (stream->ran_out ? 1 : 0))};
	bool taken;

	SPI_connect();
	taken = EsQueryRun(&lease_query, args) > 0;
	if (taken && fetch->retried != NULL)
	{
		EsValue retried[] = {EsValueText(fetch->subscription->name),
							 EsValueInt32(stream->partition),
							 EsValueInt64(lease_id),
							 {.value = makeArrayResult(fetch->retried, CurrentMemoryContext)},
							 {.value = makeArrayResult(fetch->replayed, CurrentMemoryContext)}};

		(void) EsQueryRun(&retried_query, retried);
	}
	if (taken)
		park_waiting(fetch);
	SPI_finish();
	return taken;
}

/* Stores that there is nothing for the stream up to a position, unless somebody has changed it. */
static void
store(Fetch *fetch, EsStream *stream, int64 up_to)
{
	EsValue args[] = {EsValueInt32(stream->id), EsValueInt64(stream->lease_id),
					  EsValueInt64(stream->checkpoint), EsValueInt64(up_to)};
	bool finished = stream->kind == ES_STREAM_PLAYBACK && up_to >= stream->up_to;

	SPI_connect();
	if (EsQueryRun(finished ? &finish_query : &advance_query, args) > 0 && fetch->stream == stream)
		park_waiting(fetch);
	SPI_finish();
}

/* Puts the events into the line that wait for one that was put aside. */
static void
park_waiting(Fetch *fetch)
{
	ListCell *lc;

	foreach(lc, fetch->waiting)
		EsStreamPark(fetch->subscription->name, fetch->stream->partition,
					 fetch->stream->kind == ES_STREAM_PLAYBACK, lfirst(lc), false, 0,
					 "an earlier event of its aggregate was put aside");
	fetch->waiting = NIL;
}

/* Stores how far there is nothing to deliver, for the views and for other sessions. */
static void
store_all(Fetch *fetch)
{
	ListCell *lc;

	fetch->stream = NULL;
	foreach(lc, fetch->subscription->streams)
	{
		EsStream *stream = lfirst(lc);

		if (stream->nothing_up_to > stream->checkpoint && EsGapDue(stream, STORE_AFTER))
			store(fetch, stream, stream->nothing_up_to);
	}
}
