/*
 * argument.h
 *	  Arguments of SQL functions.
 */
#ifndef ES_ARGUMENT_H
#define ES_ARGUMENT_H

#include "postgres.h"

#include "fmgr.h"

/* Returns a text argument; a null one raises 22004 if it is required. */
extern char *EsTextArgument(FunctionCallInfo fcinfo, int arg, const char *name, bool required);

#endif /* ES_ARGUMENT_H */
