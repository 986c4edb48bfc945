/*
 * replay.c
 *	  es.replay(): building a state table anew, by hand.
 *
 * ShareUpdateExclusiveLock on the state table from the beginning lets readers
 * and writers go on, until the new rows are put in place and caught up with the
 * log; from then on they wait for the end of the transaction.  See rebuild.c.
 *
 * Before it comes a lock of ours on the state table, so that a second replay
 * can be told from the others that ShareUpdateExclusiveLock waits for: VACUUM,
 * say.  It would do the same work again, so it is refused.
 */
#include "postgres.h"

#include "access/table.h"
#include "aggregate.h"
#include "argument.h"
#include "checkpoint.h"
#include "errors.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parallel.h"
#include "progress.h"
#include "projection.h"
#include "rebuild.h"
#include "registry.h"
#include "statement.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "version.h"

ES_FUNCTION_INFO_V1(es_replay);

static EsApplied replay(const char *name, const char *apply, int nworkers, bool in_place);
static void refuse_second(EsProjection *projection);
static EsApplied rebuild(EsProjection *projection, Relation target, int nworkers, bool in_place);
static void restart(EsProjection *projection, int64 position);
static void return_row(FunctionCallInfo fcinfo, const char *name, EsApplied *rebuilt,
					   TimestampTz start);

/*
 * es.replay(): replaces the rows of a state table by the fold of the log, with
 * a new apply function if one is given.  parallel_workers is how many workers
 * may help; null: as es.replay_workers says, where the log is large.  in_place: run
 * the statements of a projection that has no function in the table itself.
 */
Datum
es_replay(PG_FUNCTION_ARGS)
{
	TimestampTz start = GetCurrentTimestamp();
	char *name;
	char *apply = EsTextArgument(fcinfo, 1, "apply", false);
	int nworkers = PG_ARGISNULL(2) ? ES_WORKERS_BY_SETTING : PG_GETARG_INT32(2);
	EsApplied rebuilt;

	EsRefuseReadOnly("es.replay()");
	name = EsTextArgument(fcinfo, 0, "projection", true);
	if (!PG_ARGISNULL(2) && nworkers < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parallel_workers must not be negative")));
	rebuilt = replay(name, apply, nworkers, !PG_ARGISNULL(3) && PG_GETARG_BOOL(3));
	return_row(fcinfo, name, &rebuilt, start);
	return (Datum) 0;
}

static EsApplied
replay(const char *name, const char *apply, int nworkers, bool in_place)
{
	Relation target;
	EsProjection *projection;
	EsApplied rebuilt;

	EsProjectionsEnter();
	projection = EsProjectionFind(name);
	EsProjectionCheckOwner(projection);
	refuse_second(projection);
	projection = EsProjectionOpenOwned(name, ShareUpdateExclusiveLock, &target);
	if (apply != NULL && projection->apply == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("projection \"%s\" has statements, not an apply function", name),
				 errhint("Change them with es.set_handler() or es.set_batch_handler().")));
	if (in_place && projection->apply != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("projection \"%s\" has an apply function and is never replayed in place", name)));
	if (in_place)
		EsRefuseFixedSnapshot("es.replay() in place");
	if (apply != NULL)
	{
		Oid function = EsApplyFind(projection->target, apply);

		EsApplyCheck(target, function, apply);
		EsRegistrySetFunction(name, projection->target, function);
		table_close(target, NoLock);
		projection = EsProjectionOpenOwned(name, ShareUpdateExclusiveLock, &target);
	}
	rebuilt = rebuild(projection, target, nworkers, in_place);
	if (!EsProjectionIsLive(projection))
		restart(projection, rebuilt.bound);
	table_close(target, NoLock);
	EsProjectionsLeave();
	return rebuilt;
}

/* Refuses to replay what another transaction replays. */
static void
refuse_second(EsProjection *projection)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, projection->target, ES_LOCK_REPLAY);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
				 errmsg("projection \"%s\" is already being replayed", projection->name),
				 errdetail("Another transaction replays it, or has done so and is still open."),
				 errhint("See es.replay_progress and pg_stat_activity.")));
}

/* Builds the rows anew, in the way of the projection's kind. */
static EsApplied
rebuild(EsProjection *projection, Relation target, int nworkers, bool in_place)
{
	EsReplayState state = EsReplayBegin(projection->name, projection->target);
	EsApplied rebuilt;

	PG_TRY();
	{
		if (projection->apply != NULL)
			rebuilt = EsRebuild(projection, target, nworkers);
		else if (in_place)
			rebuilt = EsStatementsRebuildInPlace(projection, target);
		else
			rebuilt = EsStatementsRebuild(projection, target);
	}
	PG_FINALLY();
	{
		EsReplayEnd(state);
	}
	PG_END_TRY();
	return rebuilt;
}

/* Has a projection that has been built anew go on from there, without its errors. */
static void
restart(EsProjection *projection, int64 position)
{
	EsCheckpoint checkpoint = {.position = position};

	EsCheckpointWrite(projection->name, &checkpoint);
	(void) EsCheckpointUnpark(projection->name, 0);
}

static void
return_row(FunctionCallInfo fcinfo, const char *name, EsApplied *rebuilt, TimestampTz start)
{
	ReturnSetInfo *result;
	Datum values[5];
	bool nulls[5] = {false};

	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;
	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum(rebuilt->events);
	values[2] = Int64GetDatum(rebuilt->rows);
	values[3] = Int64GetDatum(rebuilt->up_to_position);
	values[4] = DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(GetCurrentTimestamp()),
									TimestampTzGetDatum(start));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}
