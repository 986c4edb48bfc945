/*
 * registry.h
 *	  What is stored of a projection: its row, its trigger, its dependency.
 */
#ifndef ES_REGISTRY_H
#define ES_REGISTRY_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/array.h"

/* Columns of es.projection, in their order. */
typedef enum EsProjectionColumn
{
	ES_PROJECTION_NAME = 1,
	ES_PROJECTION_TARGET,
	ES_PROJECTION_APPLY,
	ES_PROJECTION_KEY,
	ES_PROJECTION_AGGREGATE_TYPES,
	ES_PROJECTION_EVENT_TYPES,
	ES_PROJECTION_MODE,
	ES_PROJECTION_ON_ERROR,
	ES_PROJECTION_PROTECT,
	ES_PROJECTION_SETTINGS,
	ES_PROJECTION_ENABLED
} EsProjectionColumn;

#define ES_PROJECTION_NCOLUMNS ES_PROJECTION_ENABLED

/* Columns of es.projection_handler, in their order. */
typedef enum EsHandlerColumn
{
	ES_HANDLER_PROJECTION = 1,
	ES_HANDLER_EVENT_TYPE,
	ES_HANDLER_BATCH,
	ES_HANDLER_STATEMENT
} EsHandlerColumn;

#define ES_HANDLER_NCOLUMNS ES_HANDLER_STATEMENT

/* A new row of es.projection. */
typedef struct EsRegistryRow
{
	char *name;
	Oid target;
	Oid function;               /* or invalid */
	char *key;                  /* or null */
	ArrayType *aggregate_types; /* or null */
	ArrayType *event_types;     /* or null */
	char *mode;
	char *on_error;
	bool protect;
	ArrayType *settings;
} EsRegistryRow;

/*
 * Adds and removes a projection: the row, and the trigger on the state table,
 * which the current user must own.  The caller holds ShareRowExclusiveLock
 * (add) or AccessExclusiveLock (remove) on it and has checked everything.
 */
extern void EsRegistryAdd(const EsRegistryRow *row);
extern void EsRegistryRemove(const char *name, Oid target);

/*
 * Sets the statement of an event type (null: every other type), or of a batch;
 * null removes it.  Returns whether there was one before.
 */
extern bool EsRegistrySetHandler(const char *name, const char *event_type, bool batch,
								 const char *statement);

/* Makes the projection depend on what its statements use: parsed queries. */
extern void EsRegistryDepend(Oid target, List *queries);

/* Removes the row only, and those that belong to it in other tables. */
extern void EsRegistryForget(const char *name);

/* Protects the state table from direct writes, or lets them through. */
extern void EsRegistrySetProtect(const char *name, Oid target, bool protect);

/* Sets the trigger of a table, and of its partitions (recurse), to what the registry says. */
extern void EsRegistryRestoreTrigger(Oid table, bool protect, bool recurse);

/* Makes the trigger of one of our tables that fires always do so again. */
extern void EsRegistryRestoreOwnTrigger(Oid table);

/*
 * Checks that the partitions of a partitioned state table can hold state, and
 * protects those that are not protected yet.
 */
extern void EsRegistryProtectPartitions(Oid target, bool protect);

/* Drops the triggers that protect the table and its partitions, or these only. */
extern void EsRegistryUnprotect(Oid table, bool only_partitions);

/* Returns the table that a table is a partition of, at the top; else itself. */
extern Oid EsRegistryStateTable(Oid table);

/* Return what the words mean; 22023 for other words. */
extern bool EsRegistryIsAsync(const char *mode);
extern bool EsRegistryIsPark(const char *on_error);

/* Changes how the projection is run. */
extern void EsRegistrySetRunning(const char *name, bool async, bool park, bool enabled);

/* Says whether a projection that has its trigger lacks its dependencies, as after a restore. */
extern bool EsRegistryDependsOnNothing(Oid target);

/* Makes the projection use another function. */
extern void EsRegistrySetFunction(const char *name, Oid target, Oid function);

/*
 * Brings the stored text of the apply function up to date with the name that
 * the function has now, or the dependency with the text where it was lost.
 */
extern void EsRegistryFollow(const char *name, Oid target, const char *text);

/* Returns the function that the projection depends on; invalid if that is not known. */
extern Oid EsRegistryFunction(Oid target);

/* Tells every session that the registry has changed, and shows it to the next command. */
extern void EsRegistryChanged(void);

#endif /* ES_REGISTRY_H */
