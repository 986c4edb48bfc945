/*
 * event.c
 *	  Events before they are in the log: ids, validation, events as JSON.
 *
 * An array of events is walked with the Jsonb iterator, so no event costs a
 * query.  A member that is unknown, missing or of the wrong type is SE005 and
 * names the event by its place in the array, counted from 1.  For optional
 * members JSON null means "not given"; for data it is the value null.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/detoast.h"
#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "event.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "version.h"

/* Version ids are numbers: milliseconds and sub-millisecond part in 60 bits. */
#define UUID_FRACTION_BITS 12
#define RANDOM_BLOCK       32

/* How a member of a JSON event becomes a column. */
typedef enum MemberType
{
	MEMBER_TEXT,
	MEMBER_UUID,
	MEMBER_TIMESTAMP,
	MEMBER_INTEGER,
	MEMBER_JSON
} MemberType;

typedef struct Member
{
	const char *name;
	EsEventColumn column;
	MemberType type;
	bool aggregate; /* only where the caller names no aggregate */
} Member;

static const Member members[] = {
	{"event_type", ES_EVENT_EVENT_TYPE, MEMBER_TEXT, false},
	{"data", ES_EVENT_DATA, MEMBER_JSON, false},
	{"metadata", ES_EVENT_METADATA, MEMBER_JSON, false},
	{"event_id", ES_EVENT_EVENT_ID, MEMBER_UUID, false},
	{"occurred_at", ES_EVENT_OCCURRED_AT, MEMBER_TIMESTAMP, false},
	{"schema_version", ES_EVENT_SCHEMA_VERSION, MEMBER_INTEGER, false},
	{"correlation_id", ES_EVENT_CORRELATION_ID, MEMBER_TEXT, false},
	{"causation_id", ES_EVENT_CAUSATION_ID, MEMBER_TEXT, false},
	{"source", ES_EVENT_SOURCE, MEMBER_TEXT, false},
	{"aggregate_type", ES_EVENT_AGGREGATE_TYPE, MEMBER_TEXT, true},
	{"aggregate_id", ES_EVENT_AGGREGATE_ID, MEMBER_TEXT, true},
	/* stands for the expectation before the event, see read_member() */
	{"expected_version", ES_EVENT_VERSION, MEMBER_INTEGER, true},
};

/* Text columns, in the order in which they are checked. */
static const struct
{
	EsEventColumn column;
	const char *name;
	bool required;
} text_columns[] = {
	{ES_EVENT_AGGREGATE_TYPE, "aggregate_type", true},
	{ES_EVENT_AGGREGATE_ID, "aggregate_id", true},
	{ES_EVENT_EVENT_TYPE, "event_type", true},
	{ES_EVENT_SOURCE, "source", false},
	{ES_EVENT_CORRELATION_ID, "correlation_id", false},
	{ES_EVENT_CAUSATION_ID, "causation_id", false},
};

static void read_event(JsonbIterator **it, EsNewEvent *event, bool with_aggregate, int number);
static const Member *find_member(const JsonbValue *key, bool with_aggregate);
static void read_member(const Member *member, JsonbValue *value, EsNewEvent *event, int number);
static int64 integer_member(const Member *member, JsonbValue *value, int number);
static Datum parsed_member(const Member *member, JsonbValue *value, int number);
pg_noreturn static void wrong_member(const Member *member, int number, const char *expected);
static uint64 random_bits(void);

ES_FUNCTION_INFO_V1(es_uuid_v7);

/* es.uuid_v7(): a new UUID version 7. */
Datum
es_uuid_v7(PG_FUNCTION_ARGS)
{
	PG_RETURN_UUID_P(EsNewEventId(GetCurrentTimestamp()));
}

/* Sets every column to null but schema_version and data, which have defaults. */
void
EsInitEvent(EsNewEvent *event)
{
	JsonbValue empty;

	memset(event->values, 0, sizeof(event->values));
	memset(event->nulls, true, sizeof(event->nulls));
	event->has_expected = false;
	event->expected = 0;

	event->values[ES_ATT(ES_EVENT_SCHEMA_VERSION)] = Int32GetDatum(1);
	event->nulls[ES_ATT(ES_EVENT_SCHEMA_VERSION)] = false;

	empty.type = jbvObject;
	empty.val.object.nPairs = 0;
	empty.val.object.pairs = NULL;
	event->values[ES_ATT(ES_EVENT_DATA)] = JsonbPGetDatum(JsonbValueToJsonb(&empty));
	event->nulls[ES_ATT(ES_EVENT_DATA)] = false;
}

/* Reads an array of events, see event.h. */
EsNewEvent *
EsEventsFromJson(Jsonb *events, const EsNewEvent *defaults, bool with_aggregate, int *nevents)
{
	EsNewEvent *result;
	JsonbIterator *it;
	JsonbValue value;

	if (events == NULL || !JB_ROOT_IS_ARRAY(events) || JB_ROOT_IS_SCALAR(events))
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("events must be a JSON array"),
				 errhint("Pass an array of objects such as [{\"event_type\": \"Opened\"}].")));
	*nevents = JB_ROOT_COUNT(events);
	if (*nevents == 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("events must not be an empty array")));

	result = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EsNewEvent) * *nevents);
	it = JsonbIteratorInit(&events->root);
	(void) JsonbIteratorNext(&it, &value, false); /* the array begins */
	for (int i = 0; i < *nevents; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (JsonbIteratorNext(&it, &value, false) != WJB_BEGIN_OBJECT)
			ereport(ERROR,
					(errcode(ES_ERRCODE_MALFORMED_EVENT),
					 errmsg("event %d must be a JSON object", i + 1)));
		result[i] = *defaults;
		read_event(&it, &result[i], with_aggregate, i + 1);
	}
	return result;
}

/* Refuses an event whose columns are not as they must be. */
void
EsValidateEvent(const Datum *values, const bool *nulls)
{
	for (int i = 0; i < lengthof(text_columns); i++)
	{
		int att = ES_ATT(text_columns[i].column);
		Size length;

		if (nulls[att])
		{
			if (text_columns[i].required)
				ereport(ERROR,
						(errcode(ES_ERRCODE_MALFORMED_EVENT),
						 errmsg("%s must not be null", text_columns[i].name)));
			continue;
		}
		length = toast_raw_datum_size(values[att]) - VARHDRSZ;
		if (length == 0 && text_columns[i].required)
			ereport(ERROR,
					(errcode(ES_ERRCODE_MALFORMED_EVENT),
					 errmsg("%s must not be empty", text_columns[i].name)));
		if (length > ES_MAX_NAME_LENGTH)
			ereport(ERROR,
					(errcode(ES_ERRCODE_MALFORMED_EVENT),
					 errmsg("%s is too long", text_columns[i].name),
					 errdetail("It has %zu bytes, the limit is %d.", length, ES_MAX_NAME_LENGTH)));
	}

	if (nulls[ES_ATT(ES_EVENT_DATA)])
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("data must not be null"),
				 errhint("Leave it out for an event without data, or pass the JSON value 'null'.")));
	if (nulls[ES_ATT(ES_EVENT_SCHEMA_VERSION)])
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("schema_version must not be null")));
	if (DatumGetInt32(values[ES_ATT(ES_EVENT_SCHEMA_VERSION)]) < 1)
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("schema_version must be 1 or more, not %d",
						DatumGetInt32(values[ES_ATT(ES_EVENT_SCHEMA_VERSION)]))));
}

/*
 * Makes a UUID version 7: 48 bits of milliseconds, 12 bits that go on below
 * the millisecond, 62 random bits.  If the clock has not moved on since this
 * backend's last id, the time part counts up instead, so that ids increase.
 */
pg_uuid_t *
EsNewEventId(TimestampTz now)
{
	static uint64 last_time = 0;
	const int64 epoch = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	uint64 usecs = (uint64) (now + epoch);
	uint64 time = ((usecs / 1000) << UUID_FRACTION_BITS) |
		((usecs % 1000) << UUID_FRACTION_BITS) / 1000;
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));
	uint64 high,
		low;

	if (time <= last_time)
		time = last_time + 1;
	last_time = time;

	high = pg_hton64(((time >> UUID_FRACTION_BITS) << 16) | UINT64CONST(0x7000) |
					 (time & ((1 << UUID_FRACTION_BITS) - 1)));
	low = pg_hton64((random_bits() >> 2) | UINT64CONST(0x8000000000000000));
	memcpy(&uuid->data[0], &high, sizeof(high));
	memcpy(&uuid->data[8], &low, sizeof(low));
	return uuid;
}

/* Returns the trigger data, having checked that the function is called as it must be. */
TriggerData *
EsCheckTrigger(FunctionCallInfo fcinfo, const char *function, TriggerEvent timing,
			   TriggerEvent operations)
{
	const TriggerEvent timing_mask = TRIGGER_EVENT_ROW | TRIGGER_EVENT_TIMINGMASK;
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"es.%s\" was not called by trigger manager", function)));
	if ((trigdata->tg_event & timing_mask) != timing ||
		(operations & (1 << (trigdata->tg_event & TRIGGER_EVENT_OPMASK))) == 0 ||
		RelationGetRelid(trigdata->tg_relation) != EsCatalogOid(ES_OBJECT_EVENTS))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"es.%s\" can only be used by the extension's own trigger on es.events",
						function)));
	return trigdata;
}

/* Reads the members of one object, whose beginning has been read. */
static void
read_event(JsonbIterator **it, EsNewEvent *event, bool with_aggregate, int number)
{
	JsonbIteratorToken token;
	JsonbValue key,
		value;

	while ((token = JsonbIteratorNext(it, &key, false)) == WJB_KEY)
	{
		const Member *member = find_member(&key, with_aggregate);

		if (member == NULL)
			ereport(ERROR,
					(errcode(ES_ERRCODE_MALFORMED_EVENT),
					 errmsg("event %d has an unknown member \"%.*s\"",
							number, Min(key.val.string.len, 100), key.val.string.val)));
		(void) JsonbIteratorNext(it, &value, true);
		read_member(member, &value, event, number);
	}
	Assert(token == WJB_END_OBJECT);

	for (int i = 0; i < lengthof(members); i++)
	{
		const Member *member = &members[i];

		if (member->type == MEMBER_TEXT && event->nulls[ES_ATT(member->column)] &&
			(member->column == ES_EVENT_EVENT_TYPE || (member->aggregate && with_aggregate)))
			ereport(ERROR,
					(errcode(ES_ERRCODE_MALFORMED_EVENT),
					 errmsg("event %d has no member \"%s\"", number, member->name)));
	}
}

/* Returns the member of that name, NULL if an event has none here. */
static const Member *
find_member(const JsonbValue *key, bool with_aggregate)
{
	for (int i = 0; i < lengthof(members); i++)
		if (strlen(members[i].name) == key->val.string.len &&
			memcmp(members[i].name, key->val.string.val, key->val.string.len) == 0)
			return members[i].aggregate && !with_aggregate ? NULL : &members[i];
	return NULL;
}

/* Puts a member's value into its column. */
static void
read_member(const Member *member, JsonbValue *value, EsNewEvent *event, int number)
{
	int att = ES_ATT(member->column);
	int64 number_value;

	if (value->type == jbvNull && member->column != ES_EVENT_DATA)
		return;

	switch (member->type)
	{
		case MEMBER_JSON:
			event->values[att] = JsonbPGetDatum(JsonbValueToJsonb(value));
			break;
		case MEMBER_TEXT:
			if (value->type != jbvString)
				wrong_member(member, number, "a string");
			event->values[att] = PointerGetDatum(cstring_to_text_with_len(value->val.string.val,
																		  value->val.string.len));
			break;
		case MEMBER_INTEGER:
			number_value = integer_member(member, value, number);
			if (member->column == ES_EVENT_VERSION)
			{
				event->has_expected = true;
				event->expected = number_value;
				return;
			}
			if (number_value < 1 || number_value > PG_INT32_MAX)
				wrong_member(member, number, "an integer from 1 to 2147483647");
			event->values[att] = Int32GetDatum((int32) number_value);
			break;
		case MEMBER_UUID:
		case MEMBER_TIMESTAMP:
			event->values[att] = parsed_member(member, value, number);
			break;
	}
	event->nulls[att] = false;
}

/* Returns a member that must be an integer. */
static int64
integer_member(const Member *member, JsonbValue *value, int number)
{
	char *digits,
		*end;
	int64 result = 0;

	if (value->type != jbvNumeric)
		wrong_member(member, number, "an integer");
	digits = numeric_normalize(value->val.numeric);
	errno = 0;
	result = strtoll(digits, &end, 10);
	if (errno != 0 || *end != '\0')
		wrong_member(member, number, "an integer");
	return result;
}

/* Returns a member that must be a string which the column's type can read. */
static Datum
parsed_member(const Member *member, JsonbValue *value, int number)
{
	bool is_uuid = member->type == MEMBER_UUID;
	const char *expected = is_uuid ? "a UUID as a string" : "a timestamp as a string";
	MemoryContext context = CurrentMemoryContext;
	volatile Datum result = (Datum) 0;
	char *string;

	if (value->type != jbvString)
		wrong_member(member, number, expected);
	string = pnstrdup(value->val.string.val, value->val.string.len);
	PG_TRY();
	{
		if (is_uuid)
			result = DirectFunctionCall1(uuid_in, CStringGetDatum(string));
		else
			result = DirectFunctionCall3(timestamptz_in, CStringGetDatum(string),
										 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		wrong_member(member, number, expected);
	}
	PG_END_TRY();
	return result;
}

/* Reports a member of the wrong type. */
static void
wrong_member(const Member *member, int number, const char *expected)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_MALFORMED_EVENT),
			 errmsg("member \"%s\" of event %d must be %s", member->name, number, expected)));
}

/* Returns 64 random bits, drawn in blocks because each draw is a system call. */
static uint64
random_bits(void)
{
	static uint64 block[RANDOM_BLOCK];
	static int remaining = 0;
	static int owner = 0;

	if (remaining == 0 || owner != MyProcPid)
	{
		if (!pg_strong_random(block, sizeof(block)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		remaining = RANDOM_BLOCK;
		owner = MyProcPid;
	}
	return block[--remaining];
}
