/*
 * sequence.c
 *	  Giving events their version and position.
 *
 * The rules of the log are in this BEFORE INSERT row trigger, so they are the
 * same for es.append(), INSERT and COPY.  In this order it
 *
 *	1. refuses a malformed event, and one that the caller may not append,
 *	2. takes the aggregate's lock and, if an event id is given, the id's,
 *	3. recognises an event that is stored already, and leaves it at that,
 *	4. finds the next version and compares it with what was expected,
 *	5. fills in recorded_at, event_id and the like,
 *	6. lets others lock what they will change (EsSerializeHook),
 *	7. allocates the position.
 *
 * Only a given event id is looked up: one made here can't be known.  The id's
 * lock makes two appends of one id to different aggregates end in SE003
 * instead of a unique violation.
 *
 * Restoring.  A dump's rows have position, version and recorded_at, and must
 * keep them.  That is for superusers and the log's owner only, and has to be
 * meant: es.restore is on, or the session bears the marks of a dump, because
 * pg_dump's scripts and every pg_restore connection set an empty search_path,
 * check_function_bodies = off and row_security = off together.  In such a session
 * a row that lacks one of the three is refused, as projections do not run for
 * it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "aggregate.h"
#include "catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation_d.h"
#include "commands/trigger.h"
#include "compat.h"
#include "errors.h"
#include "event.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "position.h"
#include "sequence.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"
#include "version.h"
#include "writer.h"

EsSerializeHookType EsSerializeHook = NULL;
EsRowRequest *EsCurrentRequest = NULL;

/* Rows that have been sequenced by this backend. */
static uint64 row_number = 0;

/* The last of them that an append function has sent. */
static struct
{
	int64 version;
	int type_length;
	int id_length;
	char names[2 * ES_MAX_NAME_LENGTH];
} newest;

static bool keeps_values(const bool *nulls);
static void check_given(const Datum *values, const bool *nulls);
static bool same_event(const Datum *a, const Datum *b);
pg_noreturn static void reused_event_id(const Datum *stored);
static bool may_know(const Datum *stored);
static bool find_duplicate(Relation events, const Datum *values, const bool *nulls,
						   EsRowRequest *request);
static int64 next_version(Relation events, const Datum *values, const bool *nulls,
						  const EsRowRequest *request);
pg_noreturn static void wrong_version(const Datum *values, int64 expected, int64 actual);
static bool follows_newest(const Datum *values, const EsRowRequest *request);
static void remember_newest(const Datum *values, int64 version, EsRowRequest *request);
static void fill_in(Datum *values, bool *nulls, int64 version);
static void serialize_event(Relation events, const Datum *values, const bool *nulls);

ES_FUNCTION_INFO_V1(es_sequence_event);

/* es.sequence_event(): the trigger function. */
Datum
es_sequence_event(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = EsCheckTrigger(fcinfo, "sequence_event",
										   TRIGGER_EVENT_ROW | TRIGGER_EVENT_BEFORE,
										   ES_TRIGGER_INSERT);
	EsRowRequest *request = EsCurrentRequest;
	Relation events = trigdata->tg_relation;
	TupleDesc desc = RelationGetDescr(events);
	Datum *values = palloc(sizeof(Datum) * desc->natts);
	bool *nulls = palloc(sizeof(bool) * desc->natts);
	int64 version;

	/* A trigger of the user's may insert events of its own meanwhile. */
	if (request != NULL && request->slot != trigdata->tg_trigslot)
		request = NULL;

	heap_deform_tuple(trigdata->tg_trigtuple, desc, values, nulls);
	if (keeps_values(nulls))
		return PointerGetDatum(trigdata->tg_trigtuple);

	row_number++;
	check_given(values, nulls);
	EsValidateEvent(values, nulls);
	EsWriterCheck(values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]);
	EsLockAggregate(events, values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)],
					values[ES_ATT(ES_EVENT_AGGREGATE_ID)]);
	if (find_duplicate(events, values, nulls, request))
		return PointerGetDatum(NULL);

	version = next_version(events, values, nulls, request);
	fill_in(values, nulls, version);
	if (EsSerializeHook != NULL)
		serialize_event(events, values, nulls);
	values[ES_ATT(ES_EVENT_POSITION)] = Int64GetDatum(EsPositionNext());
	nulls[ES_ATT(ES_EVENT_POSITION)] = false;
	if (request != NULL)
		remember_newest(values, version, request);
	return PointerGetDatum(heap_form_tuple(desc, values, nulls));
}

/* Tells whether this session loads a dump. */
bool
EsRestoring(void)
{
	return EsRestoreMarked() &&
		EsRelationOwnerCheck(EsCatalogOid(ES_OBJECT_EVENTS), GetUserId());
}

bool
EsRestoreMarked(void)
{
	return EsRestore ||
		(!check_function_bodies && !row_security && namespace_search_path[0] == '\0');
}

/* Refuses an expectation that can't be meant. */
void
EsCheckExpectation(int64 expected)
{
	if (expected < -1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid expected version: %lld", (long long) expected),
				 errhint("Use null for any version, 0 for a new aggregate, -1 for one that exists, or its exact version.")));
}

/*
 * Looks for an event of this id, whose lock must be held.  One that is the
 * same event is returned in *original, another one under this id is SE003.
 */
bool
EsFindOriginal(Relation events, const Datum *values, EsStoredEvent *original)
{
	TupleTableSlot *slot =
		MakeSingleTupleTableSlot(RelationGetDescr(events), table_slot_callbacks(events));
	bool found = EsFindEvent(events, values[ES_ATT(ES_EVENT_EVENT_ID)], slot);

	if (found)
	{
		slot_getallattrs(slot);
		if (!same_event(slot->tts_values, values))
			reused_event_id(slot->tts_values);
		original->position = DatumGetInt64(slot->tts_values[ES_ATT(ES_EVENT_POSITION)]);
		original->version = DatumGetInt64(slot->tts_values[ES_ATT(ES_EVENT_VERSION)]);
		original->event_id = *DatumGetUUIDP(slot->tts_values[ES_ATT(ES_EVENT_EVENT_ID)]);
	}
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/* Tells whether the row comes from a dump and goes in as it is. */
static bool
keeps_values(const bool *nulls)
{
	if (!EsRestoring())
		return false;
	if (nulls[ES_ATT(ES_EVENT_POSITION)] || nulls[ES_ATT(ES_EVENT_VERSION)] ||
		nulls[ES_ATT(ES_EVENT_RECORDED_AT)])
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("cannot append events in a session that restores a dump"),
				 errdetail("Here each event must bring its position, version and recorded_at."),
				 errhint("Set es.restore to off and reset search_path, check_function_bodies and row_security, or start a new session.")));
	return true;
}

/* Refuses values that only the extension may set. */
static void
check_given(const Datum *values, const bool *nulls)
{
	if (!nulls[ES_ATT(ES_EVENT_POSITION)] || !nulls[ES_ATT(ES_EVENT_RECORDED_AT)])
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("%s is set by the extension",
						nulls[ES_ATT(ES_EVENT_POSITION)] ? "recorded_at" : "position"),
				 errhint("Leave it out. The time at which something happened goes into occurred_at.")));
	if (!nulls[ES_ATT(ES_EVENT_VERSION)] &&
		DatumGetInt64(values[ES_ATT(ES_EVENT_VERSION)]) < 1)
		ereport(ERROR,
				(errcode(ES_ERRCODE_MALFORMED_EVENT),
				 errmsg("version must be 1 or more, not %lld",
						(long long) DatumGetInt64(values[ES_ATT(ES_EVENT_VERSION)])),
				 errhint("Leave it out, or give the aggregate's next version.")));
}

/* Tells whether two events have the same aggregate, type and data. */
static bool
same_event(const Datum *a, const Datum *b)
{
	static const EsEventColumn names[] = {ES_EVENT_AGGREGATE_TYPE, ES_EVENT_AGGREGATE_ID,
										  ES_EVENT_EVENT_TYPE};

	for (int i = 0; i < lengthof(names); i++)
	{
		int att = ES_ATT(names[i]);

		if (!DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, a[att], b[att])))
			return false;
	}
	return DatumGetBool(DirectFunctionCall2(jsonb_eq, a[ES_ATT(ES_EVENT_DATA)],
											b[ES_ATT(ES_EVENT_DATA)]));
}

/* Reports that the id of a new event belongs to this stored one. */
static void
reused_event_id(const Datum *stored)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_EVENT_ID_REUSED),
			 errmsg("event id %s is already used for another event",
					DatumGetCString(DirectFunctionCall1(uuid_out,
														stored[ES_ATT(ES_EVENT_EVENT_ID)]))),
			 !may_know(stored) ? 0 : errdetail("It is version %lld of aggregate %s \"%s\", of type %s.", (long long) DatumGetInt64(stored[ES_ATT(ES_EVENT_VERSION)]), TextDatumGetCString(stored[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]), TextDatumGetCString(stored[ES_ATT(ES_EVENT_AGGREGATE_ID)]), TextDatumGetCString(stored[ES_ATT(ES_EVENT_EVENT_TYPE)])),
			 errhint("A retry must have the same aggregate, event type and data; a new event needs a new id.")));
}

/* Tells whether the caller may hear which event this stored one is; policies might hide it. */
static bool
may_know(const Datum *stored)
{
	Oid events = EsCatalogOid(ES_OBJECT_EVENTS);

	if (check_enable_rls(events, InvalidOid, true) == RLS_ENABLED)
		return false;
	return EsWriterMayAppend(stored[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]) ||
		pg_class_aclcheck(events, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/* Tells whether an event that came with an id is stored already. */
static bool
find_duplicate(Relation events, const Datum *values, const bool *nulls, EsRowRequest *request)
{
	EsStoredEvent original;

	if (nulls[ES_ATT(ES_EVENT_EVENT_ID)])
		return false;
	EsLockEventId(events, values[ES_ATT(ES_EVENT_EVENT_ID)]);
	if (!EsFindOriginal(events, values, &original))
		return false;
	if (request != NULL)
	{
		request->is_duplicate = true;
		request->original = original;
	}
	return true;
}

/*
 * Returns the aggregate's next version, if it is the expected one.  The author
 * of a plain INSERT says what he expects by giving the version itself.
 */
static int64
next_version(Relation events, const Datum *values, const bool *nulls, const EsRowRequest *request)
{
	int64 last = follows_newest(values, request)
		? newest.version
		: EsLastVersion(events, values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)],
						values[ES_ATT(ES_EVENT_AGGREGATE_ID)]);

	if (request != NULL && request->has_expected &&
		(request->expected == -1 ? last == 0 : last != request->expected))
		wrong_version(values, request->expected, last);
	if (!nulls[ES_ATT(ES_EVENT_VERSION)] &&
		DatumGetInt64(values[ES_ATT(ES_EVENT_VERSION)]) != last + 1)
		wrong_version(values, DatumGetInt64(values[ES_ATT(ES_EVENT_VERSION)]) - 1, last);
	return last + 1;
}

/* Reports that the aggregate is at another version than expected. */
static void
wrong_version(const Datum *values, int64 expected, int64 actual)
{
	char *type = TextDatumGetCString(values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]);
	char *id = TextDatumGetCString(values[ES_ATT(ES_EVENT_AGGREGATE_ID)]);

	ereport(ERROR,
			(errcode(ES_ERRCODE_WRONG_VERSION),
			 expected == -1 ? errmsg("aggregate %s \"%s\" does not exist", type, id) : expected == 0 ? errmsg("aggregate %s \"%s\" exists already", type, id)
																									 : errmsg("aggregate %s \"%s\" is not at the expected version", type, id),
			 errdetail("Aggregate type \"%s\", aggregate id \"%s\": expected version %lld, actual version %lld.",
					   type, id, (long long) expected, (long long) actual),
			 errhint("Read the aggregate again, decide anew and retry.")));
}

/*
 * Tells whether the row comes right after another row of the same call and the
 * same aggregate, which is in the log: then its version needs no lookup.  A
 * row that a trigger of the user's has inserted between them counts as well, so
 * that the next one is looked up again.
 */
static bool
follows_newest(const Datum *values, const EsRowRequest *request)
{
	text *type, *id;

	if (request == NULL || !request->has_previous || request->previous != row_number - 1)
		return false;
	type = DatumGetTextPP(values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]);
	id = DatumGetTextPP(values[ES_ATT(ES_EVENT_AGGREGATE_ID)]);
	return VARSIZE_ANY_EXHDR(type) == newest.type_length &&
		VARSIZE_ANY_EXHDR(id) == newest.id_length &&
		memcmp(VARDATA_ANY(type), newest.names, newest.type_length) == 0 &&
		memcmp(VARDATA_ANY(id), newest.names + newest.type_length, newest.id_length) == 0;
}

/* Remembers the row for follows_newest(). */
static void
remember_newest(const Datum *values, int64 version, EsRowRequest *request)
{
	text *type = DatumGetTextPP(values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]);
	text *id = DatumGetTextPP(values[ES_ATT(ES_EVENT_AGGREGATE_ID)]);

	request->previous = row_number;
	newest.version = version;
	newest.type_length = VARSIZE_ANY_EXHDR(type);
	newest.id_length = VARSIZE_ANY_EXHDR(id);
	memcpy(newest.names, VARDATA_ANY(type), newest.type_length);
	memcpy(newest.names + newest.type_length, VARDATA_ANY(id), newest.id_length);
}

/* Fills in what the author leaves to the extension. */
static void
fill_in(Datum *values, bool *nulls, int64 version)
{
	TimestampTz now = GetCurrentTimestamp();

	values[ES_ATT(ES_EVENT_VERSION)] = Int64GetDatum(version);
	nulls[ES_ATT(ES_EVENT_VERSION)] = false;
	values[ES_ATT(ES_EVENT_RECORDED_AT)] = TimestampTzGetDatum(now);
	nulls[ES_ATT(ES_EVENT_RECORDED_AT)] = false;
	if (nulls[ES_ATT(ES_EVENT_OCCURRED_AT)])
	{
		values[ES_ATT(ES_EVENT_OCCURRED_AT)] = TimestampTzGetDatum(now);
		nulls[ES_ATT(ES_EVENT_OCCURRED_AT)] = false;
	}
	if (nulls[ES_ATT(ES_EVENT_EVENT_ID)])
	{
		values[ES_ATT(ES_EVENT_EVENT_ID)] = UUIDPGetDatum(EsNewEventId(now));
		nulls[ES_ATT(ES_EVENT_EVENT_ID)] = false;
	}
}

/* Shows the event, complete but for its position, to EsSerializeHook. */
static void
serialize_event(Relation events, const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(events), &TTSOpsVirtual);
	int natts = slot->tts_tupleDescriptor->natts;

	memcpy(slot->tts_values, values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * natts);
	slot->tts_isnull[ES_ATT(ES_EVENT_POSITION)] = true;
	ExecStoreVirtualTuple(slot);
	EsSerializeHook(&slot, 1);
	ExecDropSingleTupleTableSlot(slot);
}
