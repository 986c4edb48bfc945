/*
 * redirect.h
 *	  Having SQL statements use other storage in the place of a table.
 */
#ifndef ES_REDIRECT_H
#define ES_REDIRECT_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/rel.h"

/* Storage beside a table, empty at first, with constraints and indexes like the table's. */
typedef struct EsRedirect
{
	Oid table;
	Oid heap;
	List *indexes; /* for EsSwapHeap() */
} EsRedirect;

/* Joins the planner. */
extern void EsRedirectInit(void);

/*
 * Makes storage beside the table, which the caller has opened with
 * ShareUpdateExclusiveLock or a stronger one.  Raises SE009, with a hint, if
 * statements can't use it.
 */
extern EsRedirect *EsRedirectMake(Relation table, const char *projection, const char *hint);

/*
 * Has all statements that this session plans use the storage instead of the
 * table, until EsRedirectEnd(), which the caller calls after an error, too.
 */
extern void EsRedirectBegin(EsRedirect *redirect);
extern void EsRedirectEnd(void);

/* Says whether statements about the table use other storage now. */
extern bool EsRedirected(Oid table);

#endif /* ES_REDIRECT_H */
