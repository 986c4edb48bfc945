/*
 * failure.c
 *	  Errors of projections' code.
 *
 * Whatever it raises becomes SE008, which names the projection and the event and
 * has the cause in its context; but for errors that are not the event's fault, which
 * stay as they are.
 */
#include "postgres.h"

#include "acting.h"
#include "errors.h"
#include "event.h"
#include "executor/tuptable.h"
#include "failure.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

static char *describe_event(TupleTableSlot *event);

/*
 * Not to blame are the SQLSTATEs that a client acts on (retry, cancel, shut
 * down), and those that don't come from the event.
 */
bool
EsFailureToBlame(ErrorData *error)
{
	int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category != ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) &&
		error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
		error->sqlerrcode != ES_ERRCODE_PROJECTION_FAILED &&
		error->sqlerrcode != ES_ERRCODE_REPLAY_NOT_POSSIBLE;
}

TupleTableSlot *
EsFailureFindEvent(Tuplestorestate *events, TupleTableSlot *event, int64 position)
{
	/* An event that is read from a file must not go with the context of the error. */
	MemoryContext old = MemoryContextSwitchTo(event->tts_mcxt);
	bool found = false;
	bool isnull;

	while (!found && tuplestore_gettupleslot(events, true, false, event))
		found = DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION, &isnull)) == position;
	MemoryContextSwitchTo(old);
	return found ? event : NULL;
}

/* A row that the session's user may not read is in the server's log only. */
void
EsFailureRaise(const char *projection, Oid target, TupleTableSlot *event, int64 position,
			   MemoryContext context)
{
	ErrorData *cause;
	char *description = NULL;
	char *logged = NULL;

	MemoryContextSwitchTo(context);
	cause = CopyErrorData();
	if (!EsFailureToBlame(cause))
		PG_RE_THROW();

	FlushErrorState();
	if (event != NULL)
		description = describe_event(event);
	else if (position != 0)
		description = psprintf("The last event of the row is at position " INT64_FORMAT ".",
							   position);
	if (EsActingHidesDetail(cause, target))
	{
		logged = psprintf("%s%s%s", description == NULL ? "" : description,
						  description == NULL ? "" : "\n", cause->detail);
		cause->detail = NULL;
	}
	ereport(ERROR,
			(errcode(ES_ERRCODE_PROJECTION_FAILED),
			 errmsg("projection \"%s\" failed: %s", projection, cause->message),
			 description == NULL ? 0 : errdetail_internal("%s", description),
			 logged == NULL ? 0 : errdetail_log("%s", logged),
			 cause->hint == NULL ? 0 : errhint("%s", cause->hint),
			 errcontext("cause: %s%s%s%s%s", unpack_sql_state(cause->sqlerrcode),
						cause->detail == NULL ? "" : ", ", cause->detail == NULL ? "" : cause->detail,
						cause->context == NULL ? "" : "\n", cause->context == NULL ? "" : cause->context)));
}

/* Names an event; one that is not in the log yet may lack its position, version and id. */
static char *
describe_event(TupleTableSlot *event)
{
	StringInfoData buf;

	slot_getallattrs(event);
#define VALUE(column)  event->tts_values[ES_EVENT_##column - 1]
#define ISNULL(column) event->tts_isnull[ES_EVENT_##column - 1]
	initStringInfo(&buf);
	appendStringInfo(&buf, "Event \"%s\" of aggregate %s/%s",
					 TextDatumGetCString(VALUE(EVENT_TYPE)),
					 TextDatumGetCString(VALUE(AGGREGATE_TYPE)),
					 TextDatumGetCString(VALUE(AGGREGATE_ID)));
	if (!ISNULL(VERSION))
		appendStringInfo(&buf, ", version " INT64_FORMAT, DatumGetInt64(VALUE(VERSION)));
	if (!ISNULL(POSITION))
		appendStringInfo(&buf, ", position " INT64_FORMAT, DatumGetInt64(VALUE(POSITION)));
	if (!ISNULL(EVENT_ID))
		appendStringInfo(&buf, ", event id %s",
						 DatumGetCString(DirectFunctionCall1(uuid_out, VALUE(EVENT_ID))));
	appendStringInfoChar(&buf, '.');
#undef VALUE
#undef ISNULL
	return buf.data;
}
