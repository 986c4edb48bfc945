/*
 * event.h
 *	  Events before they are in the log: ids, validation, events as JSON.
 */
#ifndef ES_EVENT_H
#define ES_EVENT_H

#include "postgres.h"

#include "catalog.h"
#include "commands/trigger.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* What a text column of es.events may hold, in bytes. */
#define ES_MAX_NAME_LENGTH 1024

/* Index of a column in an array of values. */
#define ES_ATT(column) ((column) -1)

/* Operations for EsCheckTrigger(), to be combined. */
#define ES_TRIGGER_INSERT   (1 << TRIGGER_EVENT_INSERT)
#define ES_TRIGGER_DELETE   (1 << TRIGGER_EVENT_DELETE)
#define ES_TRIGGER_UPDATE   (1 << TRIGGER_EVENT_UPDATE)
#define ES_TRIGGER_TRUNCATE (1 << TRIGGER_EVENT_TRUNCATE)

/* An event on its way into the log: the columns that its author gives. */
typedef struct EsNewEvent
{
	Datum values[ES_EVENT_NCOLUMNS];
	bool nulls[ES_EVENT_NCOLUMNS];
	bool has_expected;
	int64 expected; /* the version expected before it */
} EsNewEvent;

/* Sets every column to null but schema_version and data, which have defaults. */
extern void EsInitEvent(EsNewEvent *event);

/*
 * Reads an array of events.  What an event does not say is taken from
 * defaults.  Where with_aggregate is true an event says itself to which
 * aggregate it belongs and which version it expects there.
 */
extern EsNewEvent *EsEventsFromJson(Jsonb *events, const EsNewEvent *defaults,
									bool with_aggregate, int *nevents);

/* Refuses an event whose columns are not as they must be. */
extern void EsValidateEvent(const Datum *values, const bool *nulls);

/* Makes a new event id; ids of one backend increase. */
extern pg_uuid_t *EsNewEventId(TimestampTz now);

/*
 * Returns the trigger data, having checked that a trigger on es.events calls
 * the function, at the level and time given (TRIGGER_EVENT_ROW, _BEFORE) and
 * for one of the operations.
 */
extern TriggerData *EsCheckTrigger(FunctionCallInfo fcinfo, const char *function,
								   TriggerEvent timing, TriggerEvent operations);

#endif /* ES_EVENT_H */
