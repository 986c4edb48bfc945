/*
 * argument.c
 *	  Arguments of SQL functions.
 */
#include "postgres.h"

#include "argument.h"
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
