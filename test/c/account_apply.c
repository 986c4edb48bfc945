/*
 * account_apply.c
 *	  An apply function in C, for test/t/015_c_function.pl.
 *
 * CREATE TABLE account (id text PRIMARY KEY, balance bigint NOT NULL, note text);
 *
 * Opened makes a row, Deposited adds data->>'amount', Noted sets the note, Closed
 * removes the row, anything else leaves it as it is.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(account_apply);

#define NCOLUMNS 3

/* Returns a column of the event as a C string, which it must have. */
static char *
event_text(HeapTupleHeader event, const char *column)
{
	bool isnull;
	Datum value = GetAttributeByName(event, column, &isnull);

	if (isnull)
		elog(ERROR, "event has no %s", column);
	return TextDatumGetCString(value);
}

/* Returns a member of the event's data as text; null if it is not there. */
static char *
data_text(HeapTupleHeader event, const char *member)
{
	LOCAL_FCINFO(call, 2);
	bool isnull;
	Datum value;

	InitFunctionCallInfoData(*call, NULL, 2, InvalidOid, NULL, NULL);
	call->args[0].value = GetAttributeByName(event, "data", &isnull);
	call->args[0].isnull = false;
	call->args[1].value = CStringGetTextDatum(member);
	call->args[1].isnull = false;
	value = jsonb_object_field_text(call);
	return call->isnull ? NULL : TextDatumGetCString(value);
}

Datum
account_apply(PG_FUNCTION_ARGS)
{
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(1);
	char *type = event_text(event, "event_type");
	TupleDesc desc;
	Datum values[NCOLUMNS];
	bool nulls[NCOLUMNS] = {false, false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != NCOLUMNS)
		elog(ERROR, "account_apply() does not return an account");

	if (strcmp(type, "Opened") == 0)
	{
		values[0] = CStringGetTextDatum(event_text(event, "aggregate_id"));
		values[1] = Int64GetDatum(0);
		nulls[2] = true;
	}
	else if (PG_ARGISNULL(0) || strcmp(type, "Closed") == 0)
		PG_RETURN_NULL();
	else
	{
		HeapTupleHeader state = PG_GETARG_HEAPTUPLEHEADER(0);
		char *text = data_text(event, strcmp(type, "Noted") == 0 ? "note" : "amount");

		for (int i = 0; i < NCOLUMNS; i++)
			values[i] = GetAttributeByNum(state, i + 1, &nulls[i]);
		if (strcmp(type, "Deposited") == 0)
		{
			if (text == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no amount to deposit"),
						 errhint("Give the amount.")));
			values[1] = Int64GetDatum(DatumGetInt64(values[1]) + strtol(text, NULL, 10));
		}
		else if (strcmp(type, "Noted") == 0)
		{
			nulls[2] = text == NULL;
			values[2] = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
		}
		else
			PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
