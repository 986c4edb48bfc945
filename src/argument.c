/*
 * argument.c
 *	  Arguments of SQL functions, and what forbids a call.
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

char *
EsTextArgument(FunctionCallInfo fcinfo, int arg, const char *name, bool required)
{
	if (!PG_ARGISNULL(arg))
		return text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (required)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return NULL;
}

char *
EsNameArgument(FunctionCallInfo fcinfo, int arg, const char *name, bool required)
{
	char *value = EsTextArgument(fcinfo, arg, name, required);

	if (value == NULL)
		return NULL;
	if (value[strspn(value, " \t\r\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name)));
	if (strlen(value) > 1024 && required)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is longer than 1024 bytes", name)));
	return value;
}

ArrayType *
EsListArgument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	ArrayType *array;

	if (PG_ARGISNULL(arg))
		return NULL;
	array = PG_GETARG_ARRAYTYPE_P(arg);
	if (ARR_NDIM(array) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a list that is not empty", name),
				 errhint("Leave it out to take all.")));
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain null", name)));
	return array;
}

void
EsRefuseFixedSnapshot(const char *function)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("%s needs a snapshot of its own, which this isolation level forbids",
						function),
				 errhint("Use READ COMMITTED.")));
}

void
EsRefuseReadOnly(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}
