/*
 * past.c
 *	  Reading the log as of a moment, with a projection's fold.
 *
 * A moment without a position and a time is now: the events that the next
 * query of the transaction would see, so the state tables as it sees them.
 *
 * A position is a moment of its own only when nothing can appear at or below it
 * any more.  So it must not lie above the high-water mark, which is read first,
 * and the snapshot is taken afterwards, a fresh one whatever the isolation
 * level: what happened up to a position is the same for everybody.
 *
 * A time is compared with the events' recorded_at.  A transaction that is open
 * at that time and commits later counts as of when its events were recorded.
 *
 * Rights.  Who folds sees what the state table would hold, made from the whole
 * log, so he must be allowed to read both, with no row-level security between.
 * The fold runs as the projection's owner, so only he may bring a function of
 * his own.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "miscadmin.h"
#include "past.h"
#include "position.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

static int64 check_position(int64 position);
static void check_readable(Oid relid);

EsMoment
EsMomentBegin(FunctionCallInfo fcinfo, int position_arg, int as_of_arg)
{
	EsMoment moment = {.position = PG_INT64_MAX, .as_of = DT_NOEND};

	if (!PG_ARGISNULL(position_arg))
		moment.position = check_position(PG_GETARG_INT64(position_arg));
	if (!PG_ARGISNULL(as_of_arg))
		moment.as_of = PG_GETARG_TIMESTAMPTZ(as_of_arg);
	CommandCounterIncrement();
	if (PG_ARGISNULL(position_arg) && PG_ARGISNULL(as_of_arg))
		PushActiveSnapshot(GetTransactionSnapshot());
	else
		PushActiveSnapshot(GetLatestSnapshot());
	return moment;
}

void
EsMomentEnd(void)
{
	PopActiveSnapshot();
}

EsProjection *
EsPastOpen(const char *name, LOCKMODE lockmode, Relation *target)
{
	EsProjection *projection;

	do
	{
		projection = EsProjectionFind(name);
		check_readable(EsCatalogOid(ES_OBJECT_EVENTS));
		check_readable(projection->target);
		*target = EsProjectionOpen(projection, lockmode);
	} while (*target == NULL);
	return projection;
}

void
EsPastCheckFold(EsProjection *projection, const char *what)
{
	if (projection->apply == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
				 errmsg("projection \"%s\" has statements, not an apply function", projection->name),
				 errdetail("Statements write their own tables, so they cannot be %s.", what),
				 errhint("Use a projection with an apply function.")));
}

Oid
EsPastFunction(EsProjection *projection, Relation target, const char *apply)
{
	Oid function;

	if (apply == NULL)
		return InvalidOid;
	EsProjectionCheckOwner(projection);
	function = EsApplyFind(projection->target, apply);
	EsApplyCheck(target, function, apply);
	return function;
}

EsFoldSpec
EsPastSpec(EsProjection *projection, Relation target, const EsMoment *moment)
{
	EsFoldSpec spec = {.projection = projection,
					   .target = target,
					   .up_to_position = moment->position,
					   .as_of = moment->as_of == DT_NOEND ? NULL : &moment->as_of};

	return spec;
}

/* Returns the position if it is settled. */
static int64
check_position(int64 position)
{
	int64 mark = EsHighWaterMark();
	int64 last = EsPositionLast();

	if (position < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of_position must not be negative")));
	if (position > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of_position " INT64_FORMAT " lies beyond the end of the log", position),
				 errdetail("The last position is " INT64_FORMAT ".", last),
				 errhint("Leave as_of_position out for the present state.")));
	if (position > mark)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("as_of_position " INT64_FORMAT " is not settled yet", position),
				 errdetail("A transaction that has appended is still open, so events may appear above position " INT64_FORMAT ".",
						   mark),
				 errhint("Use a position up to es.high_water_mark(), or leave as_of_position out for the present state.")));
	return position;
}

/* Raises 42501 unless the current user may read all of the table. */
static void
check_readable(Oid relid)
{
	char *table = get_rel_name(relid);

	if (table == NULL)
		return; /* dropped: whoever opens it says so */
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, table);
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security of table \"%s\" applies to role \"%s\"", table,
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("A fold of the log would show rows that the policies hide.")));
}
