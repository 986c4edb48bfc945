/*
 * guard.c
 *	  The log is append-only.
 *
 * One statement-level trigger, ENABLE ALWAYS, refuses every UPDATE, DELETE and
 * TRUNCATE of es.events, by superusers and under session_replication_role =
 * replica too.  At statement level it also refuses those that would touch no
 * row, INSERT ... ON CONFLICT DO UPDATE and a MERGE with such an action.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "errors.h"
#include "event.h"
#include "fmgr.h"
#include "version.h"

ES_FUNCTION_INFO_V1(es_refuse_change);

/* es.refuse_change(): the trigger function. */
Datum
es_refuse_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = EsCheckTrigger(fcinfo, "refuse_change", TRIGGER_EVENT_BEFORE,
										   ES_TRIGGER_UPDATE | ES_TRIGGER_DELETE |
											   ES_TRIGGER_TRUNCATE);
	const char *command = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? "UPDATE" : TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) ? "DELETE"
																															   : "TRUNCATE";

	ereport(ERROR,
			(errcode(ES_ERRCODE_APPEND_ONLY),
			 errmsg("cannot %s es.events: the log is append-only", command),
			 errhint("Append an event that corrects or reverses the earlier one.")));
	PG_RETURN_NULL();
}
