/*
 * parked.c
 *	  es.retry_parked(), es.discard_parked(): events that were put aside.
 *
 * Both subscriptions and async projections put events aside.  A name may be
 * that of one of each, then both are meant, or the one that the user owns:
 * nobody takes a name from others by using it.
 *
 * A projection applies the event at once, to its rows as they are now.  A
 * subscription delivers it again, in the line of events that wait for it or for
 * a retry; if that fails max_attempts times, it is put aside again.
 */
#include "postgres.h"

#include "access/table.h"
#include "argument.h"
#include "catalog/pg_type_d.h"
#include "catchup.h"
#include "checkpoint.h"
#include "compat.h"
#include "errors.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "projection.h"
#include "read.h"
#include "stream.h"
#include "utils/builtins.h"
#include "version.h"

static EsQuery retry_query = {
	"UPDATE es.subscription_parked AS p SET held = false, attempts = 0, lease_id = NULL"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.held"
	" AND coalesce(p.position OPERATOR(pg_catalog.=) $2, true)",
	2,
	{TEXTOID, INT8OID}};

static EsQuery discard_query = {
	"UPDATE es.subscription_parked AS p SET held = false, done = true"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.held"
	" AND coalesce(p.position OPERATOR(pg_catalog.=) $2, true)",
	2,
	{TEXTOID, INT8OID}};

static Datum for_parked(FunctionCallInfo fcinfo, const char *function, EsQuery *query,
						int64 (*of_projection)(const char *name, int64 at_position));
static bool find_projection(const char *name, bool *owned);
static int64 of_subscription(const EsSubscription *subscription, EsValue at_position,
							 EsQuery *query);
static int64 retry_projection(const char *name, int64 at_position);
static int64 discard_projection(const char *name, int64 at_position);
static void forget_error(const char *name, int64 position);

ES_FUNCTION_INFO_V1(es_retry_parked);
ES_FUNCTION_INFO_V1(es_discard_parked);

/* es.retry_parked(): tries events again that were put aside. */
Datum
es_retry_parked(PG_FUNCTION_ARGS)
{
	return for_parked(fcinfo, "es.retry_parked()", &retry_query, retry_projection);
}

/* es.discard_parked(): forgets events that were put aside. */
Datum
es_discard_parked(PG_FUNCTION_ARGS)
{
	return for_parked(fcinfo, "es.discard_parked()", &discard_query, discard_projection);
}

/* Does what a function does with an event that was put aside, or with all of them (null). */
static Datum
for_parked(FunctionCallInfo fcinfo, const char *function, EsQuery *query,
		   int64 (*of_projection)(const char *name, int64 at_position))
{
	char *name = EsTextArgument(fcinfo, 0, "subscription", true);
	int64 at_position = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1);
	bool owned;
	bool projection;
	EsSubscription *subscription;
	int64 count = 0;

	EsRefuseReadOnly(function);
	projection = find_projection(name, &owned);
	subscription = EsSubscriptionRead(name);
	if (!projection && subscription == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 errmsg("there is no subscription or projection \"%s\"", name)));
	if (subscription != NULL && projection && owned != EsSubscriptionIsOwned(subscription))
	{
		projection = owned;
		if (owned)
			subscription = NULL;
	}
	if (subscription != NULL)
		count += of_subscription(subscription,
								 PG_ARGISNULL(1) ? EsValueNull() : EsValueInt64(at_position),
								 query);
	if (projection && (PG_ARGISNULL(1) || at_position > 0))
		count += of_projection(name, at_position);
	if (count == 0 && !PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the event at position " INT64_FORMAT " is not parked for \"%s\"",
						at_position, name),
				 errhint("The view es.parked_events lists those that are.")));
	PG_RETURN_INT64(count);
}

/* Says whether there is a projection of that name, and whether it is the current user's. */
static bool
find_projection(const char *name, bool *owned)
{
	EsProjection *projection;

	EsProjectionsEnter();
	projection = EsProjectionLookup(name);
	*owned = projection != NULL && EsProjectionIsOwned(projection);
	EsProjectionsLeave();
	return projection != NULL;
}

static int64
of_subscription(const EsSubscription *subscription, EsValue at_position, EsQuery *query)
{
	EsValue args[] = {EsValueText(subscription->name), at_position};
	int64 count;

	EsSubscriptionCheckOwner(subscription);
	SPI_connect();
	count = EsQueryRun(query, args);
	SPI_finish();
	EsStreamForget(subscription->name, EsValueNull());
	return count;
}

/* Applies events to the rows as they are now, in order. */
static int64
retry_projection(const char *name, int64 at_position)
{
	int64 position = Max(at_position, 1) - 1;
	int64 count = 0;
	EsProjection *projection;
	Relation target;

	EsRefuseFixedSnapshot("es.retry_parked()");
	EsProjectionsEnter();
	projection = EsProjectionOpenOwned(name, ShareRowExclusiveLock, &target);
	while ((position = EsCheckpointNextParked(name, position)) != 0 &&
		   (at_position == 0 || position == at_position))
	{
		EsRange range = {.after = position - 1, .up_to = position, .max_events = 1};

		CHECK_FOR_INTERRUPTS();
		(void) EsCheckpointUnpark(name, position);
		(void) EsCatchUp(projection, target, range, false, NULL);
		forget_error(name, position);
		count++;
	}
	table_close(target, NoLock);
	EsProjectionsLeave();
	return count;
}

static int64
discard_projection(const char *name, int64 at_position)
{
	int64 count;
	Relation target;

	EsProjectionsEnter();
	(void) EsProjectionOpenOwned(name, ShareRowExclusiveLock, &target);
	count = EsCheckpointUnpark(name, at_position);
	forget_error(name, at_position);
	table_close(target, NoLock);
	EsProjectionsLeave();
	return count;
}

/*
 * Takes back the error that put the event aside, or that put any aside (0).  The
 * lock on the state table keeps others from changing the checkpoint.
 */
static void
forget_error(const char *name, int64 position)
{
	EsCheckpoint checkpoint;

	if (!EsCheckpointRead(name, &checkpoint) || checkpoint.stopped || checkpoint.error == NULL ||
		(position != 0 && position != checkpoint.error_position))
		return;
	EsCheckpointForgetError(&checkpoint);
	EsCheckpointWrite(name, &checkpoint);
}
