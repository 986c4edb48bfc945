/*
 * query.h
 *	  Queries on the extension's own tables, with their owner's rights.
 */
#ifndef ES_QUERY_H
#define ES_QUERY_H

#include "postgres.h"

#include "tcop/dest.h"
#include "utils/array.h"

#define ES_QUERY_MAX_ARGS 12

/*
 * A query, to be kept in a static variable: it is prepared once per session.
 * Its operators and names are schema-qualified, since search_path is the
 * caller's.
 */
typedef struct EsQuery
{
	const char *text;
	int nargs;
	Oid types[ES_QUERY_MAX_ARGS];
	struct _SPI_plan *plan;
} EsQuery;

/* A value of a query: null where isnull says so. */
typedef struct EsValue
{
	Datum value;
	bool isnull;
} EsValue;

/*
 * Runs the query and returns how many rows it has returned or changed; the
 * rows are in SPI_tuptable.  The caller is connected to SPI and has checked
 * what the current user may do.
 */
extern uint64 EsQueryRun(EsQuery *query, const EsValue *args);

/*
 * Raises 40001 if the query, which is for rows that the transaction was to change,
 * finds some that its snapshot has hidden.
 */
extern void EsQueryCheckSnapshot(EsQuery *query, const EsValue *args);

/* The same for a query whose rows go to a receiver. */
extern void EsQuerySend(EsQuery *query, const EsValue *args, DestReceiver *dest);

/* Returns a column (counted from 1) of a row (from 0) of the last query's result. */
extern EsValue EsQueryColumn(uint64 row, int column);
extern bool EsQueryBool(uint64 row, int column);
extern int32 EsQueryInt32(uint64 row, int column); /* null: 0 */
extern int64 EsQueryInt64(uint64 row, int column); /* null: 0 */
extern char *EsQueryText(uint64 row, int column);  /* null: NULL */

/* Make a value. */
extern EsValue EsValueText(const char *text); /* NULL: null */
extern EsValue EsValueInt64(int64 value);
extern EsValue EsValueInt32(int32 value);
extern EsValue EsValueBool(bool value);
extern EsValue EsValueArray(ArrayType *array); /* NULL: null */
extern EsValue EsValueNull(void);

#endif /* ES_QUERY_H */
