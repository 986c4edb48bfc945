/*
 * alter.c
 *	  es.alter_projection(): how a projection runs.
 *
 * A projection is live while the writers maintain it: it is inline and enabled.
 *
 * What ends that takes ShareRowExclusiveLock on the state table, which waits
 * for everybody who has applied the projection.  Whoever wants it for an event
 * locks the table before the event gets its position (inline.c).  So when the
 * lock is granted, the rows reflect all the projection's events up to the last
 * position that was given out: that is the checkpoint.
 *
 * To become live, the projection first catches up with the settled events while
 * everybody goes on.  Then es.events is locked against all writers, because
 * those in flight don't apply the projection: the visible events above are
 * exactly those that the rows lack.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "argument.h"
#include "catalog.h"
#include "catchup.h"
#include "checkpoint.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "position.h"
#include "projection.h"
#include "registry.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "version.h"

ES_FUNCTION_INFO_V1(es_alter_projection);

static void set_running(const char *name, FunctionCallInfo fcinfo);
static void end_live(EsProjection *projection);
static void become_live(EsProjection *projection, Relation target);
static int64 catch_up(EsProjection *projection, Relation target, int64 after, int64 up_to);
static void resume(EsProjection *projection);

/* es.alter_projection(): changes what is not null. */
Datum
es_alter_projection(PG_FUNCTION_ARGS)
{
	char *name;
	EsProjection *projection;
	Relation target;

	EsRefuseReadOnly("es.alter_projection()");
	name = EsTextArgument(fcinfo, 0, "name", true);
	EsProjectionsEnter();
	EsProjectionCheckOwner(EsProjectionFind(name));
	if (!PG_ARGISNULL(1) || !PG_ARGISNULL(2) || !PG_ARGISNULL(3))
		set_running(name, fcinfo);
	if (!PG_ARGISNULL(4))
	{
		projection = EsProjectionOpenOwned(name, ShareRowExclusiveLock, &target);
		table_close(target, NoLock);
		EsRegistrySetProtect(name, projection->target, PG_GETARG_BOOL(4));
	}
	EsProjectionsLeave();
	PG_RETURN_VOID();
}

/* Changes mode, on_error and enabled, as far as they are given. */
static void
set_running(const char *name, FunctionCallInfo fcinfo)
{
	Relation target;
	EsProjection *projection = EsProjectionOpenOwned(name, ShareRowExclusiveLock, &target);
	bool async = projection->async;
	bool park = projection->park;
	bool enabled = projection->enabled;
	bool live;

	if (!PG_ARGISNULL(1))
		async = EsRegistryIsAsync(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (!PG_ARGISNULL(2))
		park = EsRegistryIsPark(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	if (!PG_ARGISNULL(3))
		enabled = PG_GETARG_BOOL(3);
	live = enabled && !async;
	if (EsProjectionIsLive(projection) && !live)
		end_live(projection);
	else if (!EsProjectionIsLive(projection) && live)
		become_live(projection, target);
	else if (!live && !PG_ARGISNULL(3) && enabled)
		resume(projection);
	EsRegistrySetRunning(name, async, park, enabled);
	table_close(target, NoLock);
}

static void
end_live(EsProjection *projection)
{
	EsCheckpoint checkpoint = {.position = EsPositionLast()};

	EsCheckpointWrite(projection->name, &checkpoint);
}

static void
become_live(EsProjection *projection, Relation target)
{
	EsCheckpoint checkpoint;
	int64 reached;

	if (projection->apply == NULL)
		EsRefuseFixedSnapshot("es.alter_projection() of a projection with statements");
	(void) EsCheckpointRead(projection->name, &checkpoint);
	reached = catch_up(projection, target, checkpoint.position, EsHighWaterMark());
	LockRelationOid(EsCatalogOid(ES_OBJECT_EVENTS), ShareRowExclusiveLock);
	(void) catch_up(projection, target, reached, PG_INT64_MAX);
	EsCheckpointRemove(projection->name);
}

/* Applies the visible events of a range; returns up to where the rows reflect the log then. */
static int64
catch_up(EsProjection *projection, Relation target, int64 after, int64 up_to)
{
	EsRange range = {.after = after, .up_to = up_to, .max_events = PG_INT64_MAX};

	if (up_to <= after)
		return after;
	CommandCounterIncrement();
	(void) EsCatchUp(projection, target, range, false, NULL);
	return up_to;
}

/* Has a projection that was stopped by an error go on. */
static void
resume(EsProjection *projection)
{
	EsCheckpoint checkpoint;

	(void) EsCheckpointRead(projection->name, &checkpoint);
	EsCheckpointForgetError(&checkpoint);
	EsCheckpointWrite(projection->name, &checkpoint);
}
