/*
 * append.c
 *	  es.append() and its kin: inserting into es.events without a query.
 *
 * These functions do what the executor does for INSERT INTO es.events, with
 * all its triggers, constraints and indexes, but without parsing, planning and
 * starting a query.  What an event must be like and which version and position
 * it gets is decided by the BEFORE INSERT trigger (sequence.c), as for any
 * INSERT.
 *
 * Rights are the caller's, see writer.c.
 *
 * Several events.  All their locks are taken first, in one global order, so
 * that two batches don't deadlock each other.  Then a retry is recognised as a
 * whole: if the first event is stored already, all of them must be, and the
 * originals are returned.  Then the rows go in, in the given order, as one
 * statement.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "aggregate.h"
#include "append.h"
#include "argument.h"
#include "catalog.h"
#include "catalog/pg_class_d.h"
#include "commands/trigger.h"
#include "compat.h"
#include "direct.h"
#include "errors.h"
#include "event.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sequence.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "version.h"
#include "writer.h"

/* An insertion into es.events, from the first row to the AFTER triggers. */
typedef struct Appender
{
	Relation events;
	EState *estate;
	ResultRelInfo *target;
	TupleTableSlot *slot;
	TransitionCaptureState *capture;
} Appender;

/* Where in an array an error has occurred. */
typedef struct ArrayPosition
{
	int number;
	int count;
} ArrayPosition;

/* Arguments of es.append() after expected_version is taken out. */
static const EsEventColumn append_columns[] = {
	ES_EVENT_AGGREGATE_TYPE, ES_EVENT_AGGREGATE_ID, ES_EVENT_EVENT_TYPE, ES_EVENT_DATA,
	ES_EVENT_METADATA, ES_EVENT_VERSION /* expected_version */, ES_EVENT_EVENT_ID,
	ES_EVENT_CORRELATION_ID, ES_EVENT_CAUSATION_ID, ES_EVENT_SOURCE, ES_EVENT_OCCURRED_AT,
	ES_EVENT_SCHEMA_VERSION};

static Relation open_log(const char *function);
static void set_column(EsNewEvent *event, EsEventColumn column, FunctionCallInfo fcinfo, int arg);
static void append_array(FunctionCallInfo fcinfo, Relation events, EsNewEvent *array, int count,
						 bool with_aggregate);
static void lock_array(EsNewEvent *array, int count);
static bool find_retry(Relation events, EsNewEvent *array, int count, EsStoredEvent *stored);
static void serialize_array(Relation events, EsNewEvent *array, int count);
static void insert_array(Relation events, EsNewEvent *array, int count, EsStoredEvent *stored);
pg_noreturn static void repeated_event_id(Datum event_id);
static void return_array(FunctionCallInfo fcinfo, EsNewEvent *array, int count,
						 const EsStoredEvent *stored, bool with_aggregate);
static void check_expectations(EsNewEvent *array, int count);
static int compare_aggregates(const void *a, const void *b);
static int compare_names(Datum a, Datum b);
static bool agrees(const EsNewEvent *event, const EsNewEvent *first, int behind);
static bool same_aggregate(const EsNewEvent *a, const EsNewEvent *b);
static void begin_append(Appender *appender, Relation events);
static bool append_row(Appender *appender, const EsNewEvent *event, EsRowRequest *request);
static void end_append(Appender *appender);
static bool run_before_triggers(Appender *appender, EsRowRequest *request);
static void stored_event(TupleTableSlot *slot, EsStoredEvent *stored);
static void array_context(void *arg);

ES_FUNCTION_INFO_V1(es_append);
ES_FUNCTION_INFO_V1(es_append_events);
ES_FUNCTION_INFO_V1(es_append_batch);

/* es.append(): appends one event and returns its version. */
Datum
es_append(PG_FUNCTION_ARGS)
{
	Relation events = open_log("es.append()");
	Appender appender;
	EsNewEvent event;
	EsRowRequest request;
	EsStoredEvent stored;
	bool is_stored;

	memset(event.nulls, true, sizeof(event.nulls));
	event.has_expected = false;
	event.expected = 0;
	for (int i = 0; i < lengthof(append_columns); i++)
	{
		if (append_columns[i] != ES_EVENT_VERSION)
			set_column(&event, append_columns[i], fcinfo, i);
		else if (!PG_ARGISNULL(i))
		{
			event.has_expected = true;
			event.expected = PG_GETARG_INT64(i);
			EsCheckExpectation(event.expected);
		}
	}

	request.has_previous = false;
	begin_append(&appender, events);
	is_stored = append_row(&appender, &event, &request);
	if (is_stored)
		stored_event(appender.slot, &stored);
	else if (request.is_duplicate)
		stored = request.original;
	end_append(&appender);
	table_close(events, NoLock);

	/* A trigger of the user's may have suppressed the row. */
	if (!is_stored && !request.is_duplicate)
		PG_RETURN_NULL();
	PG_RETURN_INT64(stored.version);
}

/* es.append_events(): appends several events to one aggregate. */
Datum
es_append_events(PG_FUNCTION_ARGS)
{
	Relation events = open_log("es.append_events()");
	EsNewEvent defaults;
	EsNewEvent *array;
	int count;

	EsInitEvent(&defaults);
	set_column(&defaults, ES_EVENT_AGGREGATE_TYPE, fcinfo, 0);
	set_column(&defaults, ES_EVENT_AGGREGATE_ID, fcinfo, 1);
	set_column(&defaults, ES_EVENT_CORRELATION_ID, fcinfo, 4);
	set_column(&defaults, ES_EVENT_CAUSATION_ID, fcinfo, 5);
	set_column(&defaults, ES_EVENT_SOURCE, fcinfo, 6);
	array = EsEventsFromJson(PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2), &defaults, false,
							 &count);
	if (!PG_ARGISNULL(3))
	{
		array[0].has_expected = true;
		array[0].expected = PG_GETARG_INT64(3);
	}
	append_array(fcinfo, events, array, count, false);
	table_close(events, NoLock);
	return (Datum) 0;
}

/* es.append_batch(): appends events to any number of aggregates. */
Datum
es_append_batch(PG_FUNCTION_ARGS)
{
	Relation events = open_log("es.append_batch()");
	EsNewEvent defaults;
	EsNewEvent *array;
	int count;

	EsInitEvent(&defaults);
	array = EsEventsFromJson(PG_ARGISNULL(0) ? NULL : PG_GETARG_JSONB_P(0), &defaults, true,
							 &count);
	append_array(fcinfo, events, array, count, true);
	table_close(events, NoLock);
	return (Datum) 0;
}

/* Opens es.events for insertion, if the caller may do that now. */
static Relation
open_log(const char *function)
{
	Oid relid = EsCatalogOid(ES_OBJECT_EVENTS);
	Relation events;

	EsRefuseReadOnly(function);
	EsWriterCheckAny();

	events = table_open(relid, RowExclusiveLock);
	if (events->rd_rel->relrowsecurity &&
		check_enable_rls(relid, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s does not support row-level security on es.events", function),
				 errhint("Use INSERT instead.")));
	return events;
}

/* Sets a column to a function's argument. */
static void
set_column(EsNewEvent *event, EsEventColumn column, FunctionCallInfo fcinfo, int arg)
{
	event->values[ES_ATT(column)] = PG_GETARG_DATUM(arg);
	event->nulls[ES_ATT(column)] = PG_ARGISNULL(arg);
}

/* Appends several events and returns them as the function's result set. */
static void
append_array(FunctionCallInfo fcinfo, Relation events, EsNewEvent *array, int count,
			 bool with_aggregate)
{
	ArrayPosition position = {0, count};
	ErrorContextCallback callback;
	EsStoredEvent *stored;

	callback.callback = array_context;
	callback.arg = &position;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	for (int i = 0; i < count; i++)
	{
		position.number = i + 1;
		EsValidateEvent(array[i].values, array[i].nulls);
		EsWriterCheck(array[i].values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]);
		if (array[i].has_expected)
			EsCheckExpectation(array[i].expected);
	}
	error_context_stack = callback.previous;

	if (with_aggregate)
		check_expectations(array, count);
	stored = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EsStoredEvent) * count);
	lock_array(array, count);
	if (!find_retry(events, array, count, stored))
	{
		if (EsSerializeHook != NULL)
			serialize_array(events, array, count);
		insert_array(events, array, count, stored);
	}
	return_array(fcinfo, array, count, stored, with_aggregate);
}

/* Takes the locks of all aggregates and given event ids. */
static void
lock_array(EsNewEvent *array, int count)
{
	EsKeyLock *locks = MemoryContextAllocHuge(CurrentMemoryContext,
											  sizeof(EsKeyLock) * 2 * count);
	int nlocks = 0;

	for (int i = 0; i < count; i++)
	{
		locks[nlocks++] = EsAggregateLock(array[i].values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)],
										  array[i].values[ES_ATT(ES_EVENT_AGGREGATE_ID)]);
		if (!array[i].nulls[ES_ATT(ES_EVENT_EVENT_ID)])
			locks[nlocks++] = EsEventIdLock(array[i].values[ES_ATT(ES_EVENT_EVENT_ID)]);
	}
	EsAcquireKeyLocks(locks, nlocks);
	pfree(locks);
}

/*
 * Finds the originals if the array has been appended before, as a whole and in
 * this order.  A mixture of known and new events is an error.
 */
static bool
find_retry(Relation events, EsNewEvent *array, int count, EsStoredEvent *stored)
{
	int known = 0;

	for (int i = 0; i < count; i++)
	{
		bool found = !array[i].nulls[ES_ATT(ES_EVENT_EVENT_ID)] &&
			EsFindOriginal(events, array[i].values, &stored[i]);

		if (found && known == i && (i == 0 || stored[i].position > stored[i - 1].position))
			known++;
		else if (found || known > 0)
			ereport(ERROR,
					(errcode(ES_ERRCODE_EVENT_ID_REUSED),
					 errmsg("only a part of the events is in the log already"),
					 errdetail(found ? "Event %d of %d is stored, but not as a part of these events in this order." : "Event %d of %d is not stored, the ones before it are.", i + 1, count),
					 errhint("Retry with exactly the events of the first attempt, or give new events new ids.")));
	}
	return known > 0;
}

/*
 * Shows all events to EsSerializeHook, so that it takes all its locks in one
 * order.  A version, and an event id that is not given, are not known yet; the
 * trigger shows each event once more when they are.  The slots share a copy of
 * the row's description, since keeping count of its users takes longer the more
 * there are.
 */
static void
serialize_array(Relation events, EsNewEvent *array, int count)
{
	TupleTableSlot **slots = MemoryContextAllocHuge(CurrentMemoryContext,
													sizeof(TupleTableSlot *) * count);
	TupleDesc desc = CreateTupleDescCopy(RelationGetDescr(events));
	Datum now = TimestampTzGetDatum(GetCurrentTimestamp());

	for (int i = 0; i < count; i++)
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);

		memset(slot->tts_isnull, true, sizeof(bool) * slot->tts_tupleDescriptor->natts);
		memcpy(slot->tts_values, array[i].values, sizeof(array[i].values));
		memcpy(slot->tts_isnull, array[i].nulls, sizeof(array[i].nulls));
		slot->tts_values[ES_ATT(ES_EVENT_RECORDED_AT)] = now;
		slot->tts_isnull[ES_ATT(ES_EVENT_RECORDED_AT)] = false;
		if (slot->tts_isnull[ES_ATT(ES_EVENT_OCCURRED_AT)])
		{
			slot->tts_values[ES_ATT(ES_EVENT_OCCURRED_AT)] = now;
			slot->tts_isnull[ES_ATT(ES_EVENT_OCCURRED_AT)] = false;
		}
		slots[i] = ExecStoreVirtualTuple(slot);
	}
	EsSerializeHook(slots, count);
	for (int i = 0; i < count; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	FreeTupleDesc(desc);
	pfree(slots);
}

/* Inserts the events as one statement. */
static void
insert_array(Relation events, EsNewEvent *array, int count, EsStoredEvent *stored)
{
	Appender appender;
	ArrayPosition position = {0, count};
	ErrorContextCallback callback;
	EsRowRequest request;

	request.has_previous = false;
	begin_append(&appender, events);
	callback.callback = array_context;
	callback.arg = &position;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		position.number = i + 1;
		request.has_previous = append_row(&appender, &array[i], &request);
		if (request.has_previous)
			stored_event(appender.slot, &stored[i]);
		else if (request.is_duplicate)
			repeated_event_id(array[i].values[ES_ATT(ES_EVENT_EVENT_ID)]);
		else
			stored[i].version = 0; /* suppressed by a trigger of the user's */
	}
	error_context_stack = callback.previous;
	end_append(&appender);
}

/* Reports that an id occurs twice in the array. */
static void
repeated_event_id(Datum event_id)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_EVENT_ID_REUSED),
			 errmsg("event id %s occurs more than once",
					DatumGetCString(DirectFunctionCall1(uuid_out, event_id)))));
}

/* Returns the stored events as the function's result set, in the given order. */
static void
return_array(FunctionCallInfo fcinfo, EsNewEvent *array, int count, const EsStoredEvent *stored,
			 bool with_aggregate)
{
	ReturnSetInfo *result;

	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;
	for (int i = 0; i < count; i++)
	{
		Datum values[5];
		bool nulls[5] = {false, false, false, false, false};
		int n = 0;

		if (stored[i].version == 0)
			continue;
		values[n++] = Int64GetDatum(stored[i].position);
		if (with_aggregate)
		{
			values[n++] = array[i].values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)];
			values[n++] = array[i].values[ES_ATT(ES_EVENT_AGGREGATE_ID)];
		}
		values[n++] = Int64GetDatum(stored[i].version);
		values[n++] = UUIDPGetDatum(unconstify(pg_uuid_t *, &stored[i].event_id));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/*
 * Takes the expected version from an aggregate's later events, as it is checked
 * at the first one; it must agree with that: repeat it, or count on from it.
 */
static void
check_expectations(EsNewEvent *array, int count)
{
	EsNewEvent **sorted = MemoryContextAllocHuge(CurrentMemoryContext,
												 sizeof(EsNewEvent *) * count);
	int first = 0;

	for (int i = 0; i < count; i++)
		sorted[i] = &array[i];
	qsort(sorted, count, sizeof(EsNewEvent *), compare_aggregates);
	for (int i = 1; i < count; i++)
	{
		if (!same_aggregate(sorted[i], sorted[first]))
			first = i;
		else if (!sorted[i]->has_expected)
			continue;
		else if (agrees(sorted[i], sorted[first], i - first))
			sorted[i]->has_expected = false;
		else
			ereport(ERROR,
					(errcode(ES_ERRCODE_MALFORMED_EVENT),
					 errmsg("member \"expected_version\" of event %d does not agree with that of the aggregate's first event",
							(int) (sorted[i] - array) + 1),
					 errhint("Give it at the first event of an aggregate in a batch, and leave it out at the others.")));
	}
	pfree(sorted);
}

static bool
same_aggregate(const EsNewEvent *a, const EsNewEvent *b)
{
	return compare_names(a->values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)],
						 b->values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]) == 0 &&
		compare_names(a->values[ES_ATT(ES_EVENT_AGGREGATE_ID)],
					  b->values[ES_ATT(ES_EVENT_AGGREGATE_ID)]) == 0;
}

/* Tells whether the event so far behind its aggregate's first one expects what that expects. */
static bool
agrees(const EsNewEvent *event, const EsNewEvent *first, int behind)
{
	if (!first->has_expected)
		return false;
	return event->expected == first->expected ||
		(first->expected >= 0 && event->expected - behind == first->expected);
}

/* Orders events by aggregate, those of one aggregate as they are in the array. */
static int
compare_aggregates(const void *a, const void *b)
{
	const EsNewEvent *ea = *(EsNewEvent *const *) a;
	const EsNewEvent *eb = *(EsNewEvent *const *) b;
	int result;

	result = compare_names(ea->values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)],
						   eb->values[ES_ATT(ES_EVENT_AGGREGATE_TYPE)]);
	if (result == 0)
		result = compare_names(ea->values[ES_ATT(ES_EVENT_AGGREGATE_ID)],
							   eb->values[ES_ATT(ES_EVENT_AGGREGATE_ID)]);
	if (result == 0)
		result = ea < eb ? -1 : 1;
	return result;
}

/* Compares two texts that are not toasted, in any order that tells equal ones. */
static int
compare_names(Datum a, Datum b)
{
	Size la = VARSIZE_ANY_EXHDR(DatumGetPointer(a));
	Size lb = VARSIZE_ANY_EXHDR(DatumGetPointer(b));

	if (la != lb)
		return la < lb ? -1 : 1;
	return memcmp(VARDATA_ANY(DatumGetPointer(a)), VARDATA_ANY(DatumGetPointer(b)), la);
}

/* Sets up what the executor sets up for an INSERT into the log. */
static void
begin_append(Appender *appender, Relation events)
{
	MemoryContext caller;

	appender->events = events;
	appender->estate = EsDirectBegin(events, &appender->target);
	caller = MemoryContextSwitchTo(appender->estate->es_query_cxt);
	appender->slot = table_slot_create(events, &appender->estate->es_tupleTable);
	AfterTriggerBeginQuery();
	ExecBSInsertTriggers(appender->estate, appender->target);
	appender->capture =
		MakeTransitionCaptureState(events->trigdesc, RelationGetRelid(events), CMD_INSERT);
	MemoryContextSwitchTo(caller);
}

/*
 * Inserts one event and returns true, or false if a trigger prevents it; then
 * the request says whether it is stored already.
 */
static bool
append_row(Appender *appender, const EsNewEvent *event, EsRowRequest *request)
{
	EState *estate = appender->estate;
	ResultRelInfo *target = appender->target;
	TupleTableSlot *slot = appender->slot;
	MemoryContext caller;
	List *recheck = NIL;

	request->slot = slot;
	request->has_expected = event->has_expected;
	request->expected = event->expected;
	request->is_duplicate = false;

	ResetPerTupleExprContext(estate);
	caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, sizeof(bool) * slot->tts_tupleDescriptor->natts);
	memcpy(slot->tts_values, event->values, sizeof(event->values));
	memcpy(slot->tts_isnull, event->nulls, sizeof(event->nulls));
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(appender->events);

	if (!run_before_triggers(appender, request))
	{
		MemoryContextSwitchTo(caller);
		return false;
	}
	if (appender->events->rd_att->constr)
	{
		if (appender->events->rd_att->constr->has_generated_stored)
			ExecComputeStoredGenerated(target, estate, slot, CMD_INSERT);
		ExecConstraints(target, slot, estate);
	}
	table_tuple_insert(appender->events, slot, estate->es_output_cid, 0, NULL);
	if (target->ri_NumIndices > 0)
		recheck = EsExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL);
	ExecARInsertTriggers(estate, target, slot, recheck, appender->capture);
	list_free(recheck);
	MemoryContextSwitchTo(caller);
	return true;
}

/* Runs the AFTER triggers and undoes begin_append(). */
static void
end_append(Appender *appender)
{
	EState *estate = appender->estate;
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);

	ExecASInsertTriggers(estate, appender->target, appender->capture);
	AfterTriggerEndQuery(estate);
	MemoryContextSwitchTo(caller);
	EsDirectEnd(estate);
}

/* Runs the BEFORE INSERT row triggers, among them the one that sequences. */
static bool
run_before_triggers(Appender *appender, EsRowRequest *request)
{
	TriggerDesc *triggers = appender->target->ri_TrigDesc;
	EsRowRequest *outer = EsCurrentRequest;
	bool proceed = true;

	if (triggers == NULL || !triggers->trig_insert_before_row)
		return true;

	EsCurrentRequest = request;
	PG_TRY();
	{
		proceed = ExecBRInsertTriggers(appender->estate, appender->target, appender->slot);
	}
	PG_FINALLY();
	{
		EsCurrentRequest = outer;
	}
	PG_END_TRY();
	return proceed;
}

/* Reads off an inserted row what the caller wants to know. */
static void
stored_event(TupleTableSlot *slot, EsStoredEvent *stored)
{
	bool isnull;

	stored->position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION, &isnull));
	stored->version = DatumGetInt64(slot_getattr(slot, ES_EVENT_VERSION, &isnull));
	stored->event_id = *DatumGetUUIDP(slot_getattr(slot, ES_EVENT_EVENT_ID, &isnull));
}

/* Adds to an error the place in the array. */
static void
array_context(void *arg)
{
	ArrayPosition *position = arg;

	errcontext("event %d of %d", position->number, position->count);
}
