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
 * Locks.  Looking at a stream takes its lock (see stream.c) if nobody has it: a
 * fetch never waits for another session, it looks at other streams.  If there
 * are events, the lock is kept to the end of the transaction, as the row is
 * changed; else it is given back.
 *
 * Waiting for events takes neither locks nor a transaction id; a fetch that had
 * to change a stream without events to deliver does not wait.  The streams are
 * looked at again when the high-water mark has moved, and from time to time,
 * because of leases that run out, playbacks, and parked events on their way back.
 *
 * What was read in vain is remembered by the session, so that a consumer that
 * polls does not read it again, and stored, so that nobody does.  It is a fact
 * of the log, which nothing changes: no events for the stream in that range.
 *
 * Events that consumers can't cope with.  If leases run out again and again,
 * each is for half as many events as the one before, until it is for one; they
 * are so small until all that was delivered in vain is acknowledged.  If
 * that runs out as often as max_attempts says, it is clear which event is to
 * blame, and it is put aside.
 */
#include "postgres.h"

#include "argument.h"
#include "catalog.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "gap.h"
#include "miscadmin.h"
#include "position.h"
#include "read.h"
#include "receiver.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "version.h"

#define PARTITION_CHUNK 1000  /* events read at once to find those of one partition */
#define LOOK_AGAIN      100   /* milliseconds between two looks at the streams, or a */
#define LOOK_STREAMS    2     /* millisecond for so many streams, if that is longer */
#define STORE_AFTER     1000  /* milliseconds after which a checkpoint is stored again */
#define STORE_FROM      10000 /* positions read in vain that are stored in any case */
#define MAX_WAITING     1000  /* events put into the waiting line at once */

#define LEASE_ARGUMENT 3

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
	FunctionCallInfo fcinfo;
	char *consumer; /* or null */
	int32 max_count;
	int64 mark;      /* up to which the log is settled */
	bool mark_stays; /* for this look at the streams */

	/* of the stream that is looked at */
	EsStream *stream;
	bool ran_out;    /* its last lease was not given back */
	bool has_parked; /* events of it are put aside */
	bool changed;    /* its row was written */
	bool stored;     /* the row of one that there are no events of was */
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

/*
 * Events that are delivered once more.  Where they wait for each other, none comes
 * before an earlier one of its aggregate that is put aside, or that the stream
 * which has put it aside still has to deliver: one above its checkpoint.
 */
static EsQuery retry_query = {
	"SELECT e.*, p.attempts, p.replayed"
	" FROM es.subscription_parked AS p"
	" JOIN es.events AS e ON e.position OPERATOR(pg_catalog.=) p.position"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND NOT p.held AND NOT p.done AND NOT ($3 AND (EXISTS (SELECT FROM es.subscription_parked AS h"
	"  WHERE h.subscription OPERATOR(pg_catalog.=) p.subscription"
	"  AND h.partition OPERATOR(pg_catalog.=) p.partition"
	"  AND h.replayed OPERATOR(pg_catalog.=) p.replayed"
	"  AND h.aggregate_type OPERATOR(pg_catalog.=) p.aggregate_type"
	"  AND h.aggregate_id OPERATOR(pg_catalog.=) p.aggregate_id"
	"  AND h.position OPERATOR(pg_catalog.<) p.position AND h.held)"
	"  OR EXISTS (SELECT FROM es.subscription_stream AS t"
	"   JOIN es.events AS b ON b.position OPERATOR(pg_catalog.>) t.checkpoint"
	"   AND b.position OPERATOR(pg_catalog.<) p.position"
	"   AND b.aggregate_type OPERATOR(pg_catalog.=) p.aggregate_type"
	"   AND b.aggregate_id OPERATOR(pg_catalog.=) p.aggregate_id"
	"   WHERE t.stream OPERATOR(pg_catalog.=) p.stream"
	"   AND NOT EXISTS (SELECT FROM es.subscription_parked AS q"
	"    WHERE q.subscription OPERATOR(pg_catalog.=) p.subscription"
	"    AND q.partition OPERATOR(pg_catalog.=) p.partition"
	"    AND q.replayed OPERATOR(pg_catalog.=) p.replayed"
	"    AND q.position OPERATOR(pg_catalog.=) b.position))))"
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
	" AND (p.position OPERATOR(pg_catalog.=) $4 AND (NOT p.done OR p.stream OPERATOR(pg_catalog.=) $8)"
	"  OR $5 AND p.position OPERATOR(pg_catalog.<) $4 AND NOT p.done"
	"  AND p.aggregate_type OPERATOR(pg_catalog.=) $6 AND p.aggregate_id OPERATOR(pg_catalog.=) $7)"
	" ORDER BY p.position DESC LIMIT 1",
	8,
	{TEXTOID, INT4OID, BOOLOID, INT8OID, BOOLOID, TEXTOID, TEXTOID, INT4OID}};

static EsQuery hold_query = {
	"UPDATE es.subscription_parked AS p SET held = true, reason = $4,"
	" parked_at = pg_catalog.clock_timestamp()"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.lease_id OPERATOR(pg_catalog.=) $3 AND NOT p.held AND NOT p.done",
	4,
	{TEXTOID, INT4OID, INT8OID, TEXTOID}};

static EsQuery aggregate_query = {
	"SELECT e.aggregate_type, e.aggregate_id FROM es.events AS e"
	" WHERE e.position OPERATOR(pg_catalog.=) $1",
	1,
	{INT8OID}};

static void init_fetch(Fetch *fetch, FunctionCallInfo fcinfo);
static TimestampTz wait_until(FunctionCallInfo fcinfo);
static bool look_at_all(Fetch *fetch, List *streams, bool *again);
static bool is_leased(const EsStream *stream);
static bool look_at(Fetch *fetch, bool *again);
static void blame(Fetch *fetch);
static void expect(Fetch *fetch);
static void read_log(Fetch *fetch);
static bool is_settled(Fetch *fetch, EsReadRange *range);
static void read_retries(Fetch *fetch);
static bool receive(TupleTableSlot *slot, DestReceiver *self);
static bool receive_retry(TupleTableSlot *slot, DestReceiver *self);
static Obstacle obstacle_of(Fetch *fetch, TupleTableSlot *slot, int64 position);
static bool is_waiting(Fetch *fetch, Datum type, Datum id);
static void put(Fetch *fetch, TupleTableSlot *slot, int32 attempt, bool replayed);
static void lease(Fetch *fetch);
static void store(Fetch *fetch, int64 up_to);
static void park_waiting(Fetch *fetch);
static void forget_passed(Fetch *fetch);
static void store_gaps(Fetch *fetch, List *streams);

ES_FUNCTION_INFO_V1(es_fetch);

/* es.fetch(): the next events of one partition that nobody else reads. */
Datum
es_fetch(PG_FUNCTION_ARGS)
{
	Fetch fetch;
	char *name;
	TimestampTz until;
	bool done;

	EsRefuseReadOnly("es.fetch()");
	EsRefuseFixedSnapshot("es.fetch()");
	name = EsTextArgument(fcinfo, 0, "subscription", true);
	init_fetch(&fetch, fcinfo);
	until = wait_until(fcinfo);
	EsSubscriptionCheckReader();

	do
	{
		MemoryContext old = MemoryContextSwitchTo(fetch.context);
		TimestampTz now = GetCurrentTimestamp();
		List *streams;
		bool again = false;
		int look_again;

		fetch.mark = EsHighWaterMarkKnown();
		fetch.mark_stays = now < until && EsHighWaterMarkIsRecent();
		fetch.subscription = EsSubscriptionFind(name);
		streams = EsStreamsRead(name);
		look_again = Max(LOOK_AGAIN, list_length(streams) / LOOK_STREAMS);
		done = look_at_all(&fetch, streams, &again);
		if (!done && !again && (now >= until || fetch.stored))
		{
			store_gaps(&fetch, streams);
			done = true;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(fetch.context);
		if (!done && !again)
			(void) EsHighWaterMarkWait(fetch.mark,
									   Min(until, TimestampTzPlusMilliseconds(now, look_again)));
		CHECK_FOR_INTERRUPTS();
	} while (!done);
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
	fetch->fcinfo = fcinfo;
	(void) EsLeaseArgument(fcinfo, LEASE_ARGUMENT);
	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;
	fetch->result = result->setResult;
	fetch->desc = result->setDesc;
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
look_at_all(Fetch *fetch, List *streams, bool *again)
{
	bool retries = EsSubscriptionHasRetries(fetch->subscription);
	ListCell *lc;

	foreach(lc, streams)
	{
		EsStream *stream = lfirst(lc);
		int32 id = stream->id;

		CHECK_FOR_INTERRUPTS();
		if (is_leased(stream) ||
			(stream->kind == ES_STREAM_RETRY && !(retries && EsStreamHasParked(stream))) ||
			!EsStreamTryLock(id))
			continue;
		fetch->changed = false;
		fetch->stream = EsStreamRead(id);
		if (fetch->stream != NULL && !is_leased(fetch->stream))
		{
			lfirst(lc) = fetch->stream;
			if (look_at(fetch, again))
				return true;
		}
		if (!fetch->changed)
			EsStreamUnlock(id);
	}
	return false;
}

static bool
is_leased(const EsStream *stream)
{
	return stream->lease_until != 0 && stream->lease_until > GetCurrentTimestamp();
}

/* Looks at one stream: true if it has events, which are now leased. */
static bool
look_at(Fetch *fetch, bool *again)
{
	EsStream *stream = fetch->stream;
	int32 max_attempts = fetch->subscription->max_attempts;

	fetch->ran_out = stream->lease_until != 0;
	if (fetch->ran_out && stream->leased_count == 1 && max_attempts != 0 &&
		stream->attempt >= max_attempts)
		blame(fetch);
	fetch->has_parked = EsStreamHasParked(stream);
	expect(fetch);
	if (stream->kind == ES_STREAM_RETRY)
	{
		read_retries(fetch);
		if (fetch->count > 0)
			lease(fetch);
		return fetch->count > 0;
	}

	read_log(fetch);
	if (fetch->count > 0)
	{
		lease(fetch);
		return true;
	}
	if (list_length(fetch->waiting) >= MAX_WAITING)
		*again = true;
	stream->nothing_up_to = fetch->seen_up_to;
	if (!fetch->has_parked)
		EsGapLearn(stream, fetch->seen_up_to);
	if (fetch->waiting != NIL || fetch->seen_up_to >= stream->checkpoint + STORE_FROM)
		store(fetch, fetch->seen_up_to);
	return false;
}

/* Puts the only event aside that the last leases were for, which have run out. */
static void
blame(Fetch *fetch)
{
	EsStream *stream = fetch->stream;
	int64 position = stream->leased_up_to;
	char *reason = psprintf("the lease has run out (%d attempts)", stream->attempt);

	SPI_connect();
	if (stream->kind == ES_STREAM_RETRY)
	{
		EsValue args[] = {EsValueText(stream->subscription), EsValueInt32(stream->partition),
						  EsValueInt64(stream->lease_id), EsValueText(reason)};

		(void) EsQueryRun(&hold_query, args);
	}
	else
	{
		EsValue args[] = {EsValueInt64(position)};
		EsParked event = {.position = position};

		(void) EsQueryRun(&aggregate_query, args);
		event.aggregate_type = EsQueryColumn(0, 1);
		event.aggregate_id = EsQueryColumn(0, 2);
		EsStreamPark(stream, &event, true, stream->attempt, reason);
	}
	SPI_finish();

	stream->lease_until = 0;
	stream->attempt = 1;
	stream->expired = 0;
	stream->error = reason;
	stream->error_position = position;
	EsStreamWrite(stream);
	fetch->changed = true;
	fetch->stored = true;
	fetch->ran_out = false;
}

/* Says how many events are wanted of the stream, and which of them are not new. */
static void
expect(Fetch *fetch)
{
	EsStream *stream = fetch->stream;
	int32 max_attempts = fetch->subscription->max_attempts;
	int32 expired = stream->expired + (fetch->ran_out ? 1 : 0);

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
	EsReceiverInit(&fetch->receiver, stream->kind == ES_STREAM_RETRY ? receive_retry : receive);
}

/* Reads the stream's events above its checkpoint, as many as are wanted. */
static void
read_log(Fetch *fetch)
{
	EsStream *stream = fetch->stream;
	ArrayType *const *filters = EsStreamFilters(stream, fetch->subscription);
	EsReadRange range = {.after = stream->checkpoint};
	bool filtered = false;

	if (!fetch->has_parked)
		range.after = EsGapEnd(stream);
	for (int i = 0; i < ES_READ_NFILTERS; i++)
	{
		range.filters[i] = filters[i];
		filtered |= filters[i] != NULL;
	}

	while (is_settled(fetch, &range))
	{
		range.max_count = fetch->limit - fetch->count;
		if (fetch->subscription->partitions > 1 || fetch->has_parked)
			range.max_count =
				Max(range.max_count * fetch->subscription->partitions, PARTITION_CHUNK);
		fetch->seen = 0;
		if (filtered)
			EsRead(&range, &fetch->receiver);
		else
			EsReadUnfiltered(&range, &fetch->receiver);
		CHECK_FOR_INTERRUPTS();
		if (fetch->count == fetch->limit || list_length(fetch->waiting) >= MAX_WAITING)
			return;
		range.after = fetch->seen < range.max_count ? range.up_to : fetch->seen_up_to;
	}
	fetch->seen_up_to = Max(range.after, stream->checkpoint);
}

/*
 * Says up to where the stream can be read, and whether anything is left there.  The
 * mark is computed only when everything up to an older one has been read.
 */
static bool
is_settled(Fetch *fetch, EsReadRange *range)
{
	EsStream *stream = fetch->stream;
	int64 end = stream->kind == ES_STREAM_PLAYBACK ? stream->up_to : PG_INT64_MAX;

	if (range->after >= fetch->mark && range->after < end && !fetch->mark_stays)
	{
		/* It can be smaller than an older one, which stays right. */
		fetch->mark = Max(fetch->mark, EsHighWaterMark());
		fetch->mark_stays = true;
	}
	range->up_to = Min(fetch->mark, end);
	return range->after < range->up_to;
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

	slot_getsomeattrs(slot, ES_EVENT_AGGREGATE_ID);
	position = DatumGetInt64(slot->tts_values[ES_EVENT_POSITION - 1]);
	fetch->seen++;
	fetch->seen_up_to = position;
	if (fetch->subscription->partitions > 1 &&
		EsPartitionOf(slot->tts_values[ES_EVENT_AGGREGATE_TYPE - 1],
					  slot->tts_values[ES_EVENT_AGGREGATE_ID - 1],
					  fetch->subscription->partitions) != stream->partition)
		return true;
	if (fetch->has_parked)
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
	slot_getallattrs(slot);
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
					  EsValueBool(fetch->subscription->wait), type, id, EsValueInt32(stream->id)};

	SPI_connect();
	if (EsQueryRun(&obstacle_query, args) > 0)
		obstacle = EsQueryBool(0, 1) ? OBSTACLE_PARKED : OBSTACLE_WAITS;
	else if (is_waiting(fetch, type.value, id.value))
		obstacle = OBSTACLE_WAITS;
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

/*
 * Says whether this fetch has put an event of the aggregate on the list.  The
 * one that it waits for may have been finished with since then.
 */
static bool
is_waiting(Fetch *fetch, Datum type, Datum id)
{
	ListCell *lc;

	foreach(lc, fetch->waiting)
	{
		EsParked *event = lfirst(lc);

		if (DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, id,
												 event->aggregate_id.value)) &&
			DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, type,
												 event->aggregate_type.value)))
			return true;
	}
	return false;
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

/* Leases the stream for the events that were read. */
static void
lease(Fetch *fetch)
{
	EsStream *stream = fetch->stream;

	stream->lease_id = EsStreamNextLease(stream);
	stream->lease_until = EsLeaseArgument(fetch->fcinfo, LEASE_ARGUMENT);
	stream->leased_at = GetCurrentTimestamp();
	stream->consumer = fetch->consumer;
	stream->leased_count = fetch->count;
	stream->leased_up_to = fetch->last;
	stream->retried_up_to = fetch->retried_up_to;
	stream->attempt = fetch->attempt;
	stream->expired += fetch->ran_out ? 1 : 0;
	EsStreamWrite(stream);
	park_waiting(fetch);
	forget_passed(fetch);
	if (fetch->retried != NULL)
	{
		EsValue args[] = {EsValueText(stream->subscription),
						  EsValueInt32(stream->partition),
						  EsValueInt64(stream->lease_id),
						  {.value = makeArrayResult(fetch->retried, CurrentMemoryContext)},
						  {.value = makeArrayResult(fetch->replayed, CurrentMemoryContext)}};

		SPI_connect();
		(void) EsQueryRun(&retried_query, args);
		SPI_finish();
	}
}

/* Stores that there is nothing for the stream up to a position. */
static void
store(Fetch *fetch, int64 up_to)
{
	EsStream *stream = fetch->stream;

	park_waiting(fetch);
	fetch->changed = true;
	fetch->stored = true;
	if (stream->kind == ES_STREAM_PLAYBACK && up_to >= stream->up_to)
		EsStreamRemove(stream);
	else
	{
		stream->checkpoint = up_to;
		stream->lease_until = 0;
		stream->attempt = 0;
		stream->expired = 0;
		EsStreamWrite(stream);
	}
	forget_passed(fetch);
}

/* Puts the events into the line that wait for one that was put aside. */
static void
park_waiting(Fetch *fetch)
{
	ListCell *lc;

	foreach(lc, fetch->waiting)
		EsStreamPark(fetch->stream, lfirst(lc), false, 0,
					 "an earlier event of its aggregate was put aside");
	fetch->waiting = NIL;
}

/* Forgets the events that were put aside, are finished with, and that the stream has passed. */
static void
forget_passed(Fetch *fetch)
{
	EsStream *stream = fetch->stream;

	if (fetch->has_parked && stream->kind != ES_STREAM_RETRY)
		EsStreamForget(stream->subscription, EsValueInt32(stream->partition));
}

/* Stores how far there was nothing to deliver, for the views and for other sessions. */
static void
store_gaps(Fetch *fetch, List *streams)
{
	ListCell *lc;

	foreach(lc, streams)
	{
		EsStream *seen = lfirst(lc);
		EsStream *stream;

		if (seen->nothing_up_to <= seen->checkpoint || !EsGapDue(seen, STORE_AFTER) ||
			!EsStreamTryLock(seen->id))
			continue;
		stream = EsStreamRead(seen->id);
		if (stream == NULL || stream->checkpoint != seen->checkpoint ||
			stream->lease_id != seen->lease_id || is_leased(stream))
		{
			EsStreamUnlock(seen->id);
			continue;
		}
		fetch->stream = stream;
		fetch->has_parked = EsStreamHasParked(stream);
		store(fetch, seen->nothing_up_to);
	}
}
