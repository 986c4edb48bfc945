/*
 * argument.h
 *	  Arguments of SQL functions, and what forbids a call.
 */
#ifndef ES_ARGUMENT_H
#define ES_ARGUMENT_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/array.h"

/* Returns a text argument; a null one raises 22004 if it is required. */
extern char *EsTextArgument(FunctionCallInfo fcinfo, int arg, const char *name, bool required);

/* Returns a text argument that is not empty, nor very long if it is required. */
extern char *EsNameArgument(FunctionCallInfo fcinfo, int arg, const char *name, bool required);

/* Returns an array argument that is a list without nulls, not an empty one; or null. */
extern ArrayType *EsListArgument(FunctionCallInfo fcinfo, int arg, const char *name);

/*
 * Refuses a call in REPEATABLE READ and SERIALIZABLE.  A snapshot older than the mark
 * may lack events below it, and rows that a statement is to write over.
 */
extern void EsRefuseFixedSnapshot(const char *function);

/* Refuses a call that writes where that is forbidden: READ ONLY, recovery, parallel mode. */
extern void EsRefuseReadOnly(const char *function);

#endif /* ES_ARGUMENT_H */
