/*
 * alter.c
 *	  es.alter_projection(): disabling, enabling and protecting.
 *
 * Disabling takes ShareRowExclusiveLock on the state table, which waits for
 * everybody who has applied the projection.  Whoever wants it for an event
 * locks the table before the event gets its position (inline.c).  So when the
 * lock is granted, the rows reflect all the projection's events up to the last
 * position that was given out: that is the checkpoint.
 *
 * Enabling locks es.events first, against all writers, because those in flight
 * don't apply the projection.  Then the visible events above the checkpoint are
 * exactly those that the rows lack.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog.h"
#include "catchup.h"
#include "errors.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "position.h"
#include "projection.h"
#include "registry.h"
#include "statement.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(es_alter_projection);

static void check_mode(FunctionCallInfo fcinfo);
static void disable(const char *name);
static void enable(const char *name);
static void catch_up(EsProjection *projection, Relation target);

/* es.alter_projection(): changes what is not null. */
Datum
es_alter_projection(PG_FUNCTION_ARGS)
{
	char *name;
	EsProjection *projection;
	Relation target;

	PreventCommandIfReadOnly("es.alter_projection()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	check_mode(fcinfo);

	EsProjectionsEnter();
	projection = EsProjectionFind(name);
	EsProjectionCheckOwner(projection);
	if (!PG_ARGISNULL(3) && PG_GETARG_BOOL(3) != projection->enabled)
	{
		if (PG_GETARG_BOOL(3))
			enable(name);
		else
			disable(name);
	}
	if (!PG_ARGISNULL(4))
	{
		projection = EsProjectionOpenOwned(name, ShareRowExclusiveLock, &target);
		table_close(target, NoLock);
		EsRegistrySetProtect(name, projection->target, PG_GETARG_BOOL(4));
	}
	EsProjectionsLeave();
	PG_RETURN_VOID();
}

static void
check_mode(FunctionCallInfo fcinfo)
{
	const char *mode = PG_ARGISNULL(1) ? "inline" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	const char *on_error = PG_ARGISNULL(2) ? "stop" : text_to_cstring(PG_GETARG_TEXT_PP(2));

	if (strcmp(mode, "inline") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode \"%s\"", mode),
				 errhint("Projections are maintained in the writer's transaction: the mode is \"inline\".")));
	if (strcmp(on_error, "stop") != 0 && strcmp(on_error, "park") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid on_error \"%s\"", on_error),
				 errhint("It is \"stop\" or \"park\".")));
}

static void
disable(const char *name)
{
	Relation target;
	EsProjection *projection = EsProjectionOpenOwned(name, ShareRowExclusiveLock, &target);

	if (projection->enabled)
		EsRegistrySetEnabled(name, false, EsPositionLast());
	table_close(target, NoLock);
}

static void
enable(const char *name)
{
	Relation target;
	EsProjection *projection;

	LockRelationOid(EsCatalogOid(ES_OBJECT_EVENTS), ShareRowExclusiveLock);
	projection = EsProjectionOpenOwned(name, ShareRowExclusiveLock, &target);
	if (!projection->enabled)
	{
		CommandCounterIncrement();
		catch_up(projection, target);
		EsRegistrySetEnabled(name, true, 0);
	}
	table_close(target, NoLock);
}

/* Applies the events above the checkpoint. */
static void
catch_up(EsProjection *projection, Relation target)
{
	if (projection->apply != NULL)
		(void) EsCatchUp(projection, EsProjectionFold(projection, target), target,
						 projection->checkpoint, false);
	else
		(void) EsStatementsCatchUp(projection, target, projection->checkpoint);
}
