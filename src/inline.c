/*
 * inline.c
 *	  Projections that are maintained in the writer's transaction.
 *
 * The events of a statement arrive as the transition table of es.events' AFTER
 * INSERT trigger, in position order, and each projection that wants some of
 * them folds them into its rows.
 *
 * Order.  The state must be the fold of the log in position order, also where
 * several aggregates feed one row.  So whoever appends must hold the row's key
 * before he is given his position: two writers that got their positions first
 * and the row second could meet in the other order.  The log calls us with
 * each event just before it allocates the position (EsSerializeHook), and we
 * lock the keys there, to the end of the transaction.
 *
 * The state tables are locked before, and the key locks of all projections in
 * one order, so transactions of one event, or of one append_batch(), can't
 * deadlock here.
 *
 * Where each row is fed by one aggregate only, the aggregate's lock has
 * already done all this and no key is locked.
 *
 * Triggers on a state table fire when all rows of the projection are written.
 * They may append: such a statement's events come after those of the statement
 * around it, so a projection that is yet to get the outer ones gets them
 * first.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "append.h"
#include "aggregate.h"
#include "catalog.h"
#include "commands/trigger.h"
#include "errors.h"
#include "executor/executor.h"
#include "failure.h"
#include "fmgr.h"
#include "inline.h"
#include "keylock.h"
#include "maintain.h"
#include "miscadmin.h"
#include "progress.h"
#include "projection.h"
#include "statement.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "version.h"

/*
 * A statement that has appended events.  Triggers on a state table may append
 * too: that statement runs inside this one.
 */
typedef struct Statement
{
	struct Statement *outer;
	Tuplestorestate *events;
	int pointer; /* to read events with */
	TupleTableSlot *event;
	List *done;   /* state tables that the events are applied to, or being so */
	bool folding; /* user code that runs now must not append */
} Statement;

static Statement *running = NULL; /* innermost */

ES_FUNCTION_INFO_V1(es_apply_inline);

static void serialize_events(TupleTableSlot **events, int nevents);
static Bitmapset *wanted_by_any(TupleTableSlot **events, int nevents);
static Bitmapset *add_key_locks(Bitmapset *locks, EsProjection *projection, Relation target,
								TupleTableSlot **events, int nevents);
static Bitmapset *add_keys(Bitmapset *locks, EsProjection *projection, EsFold *fold,
						   TupleTableSlot **events, int nevents, int *current);
static void check_trigger(FunctionCallInfo fcinfo);
static void apply_statement(Statement *statement);
static Bitmapset *wanted_by(Statement *statement);
static bool apply_in_order(Statement *statement, EsProjection *projection);
static bool apply_projection(EsProjection *projection, Statement *statement);
static void rewind_events(Statement *statement);
static void maintain_rows(EsProjection *projection, Relation target, Statement *statement,
						  volatile int64 *position);
static void fold_events(EsProjection *projection, Statement *statement,
						EsMaintenance *maintenance);

/* Joins the log, which does not know us. */
void
EsInlineInit(void)
{
	EsSerializeHook = serialize_events;
}

/*
 * es.apply_inline(): AFTER INSERT trigger of es.events for each statement.
 */
Datum
es_apply_inline(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Statement statement = {.outer = running};

	check_trigger(fcinfo);
	if (EsRestoring())
		PG_RETURN_POINTER(NULL);
	if (running != NULL && running->folding)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an apply function cannot append events"),
				 errhint("Append from a trigger on the state table.")));
	if (EsReplaying())
		ereport(ERROR,
				(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
				 errmsg("a trigger or a statement appends events during a replay"),
				 errhint("Disable the trigger for the time of the replay.")));
	EsProjectionsEnter();
	if (EsProjections() != NIL)
	{
		statement.events = trigger->tg_newtable;
		statement.event = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation),
												   &TTSOpsMinimalTuple);
		statement.pointer = tuplestore_alloc_read_pointer(statement.events, EXEC_FLAG_REWIND);
		running = &statement;
		PG_TRY();
		{
			apply_statement(&statement);
		}
		PG_FINALLY();
		{
			running = statement.outer;
		}
		PG_END_TRY();
		ExecDropSingleTupleTableSlot(statement.event);
	}
	EsProjectionsLeave();
	PG_RETURN_POINTER(NULL);
}

/* Applies a statement's events to all projections that want some of them. */
static void
apply_statement(Statement *statement)
{
	List *projections = EsProjections();
	Bitmapset *wanted = wanted_by(statement);
	int next = -1;

	while ((next = bms_next_member(wanted, next)) >= 0)
	{
		if (!apply_in_order(statement, list_nth(projections, next)))
		{
			/* Its definition has changed: look all up again. */
			projections = EsProjections();
			wanted = wanted_by(statement);
			next = -1;
		}
	}
}

/* Returns the places of the projections that want any of the statement's events. */
static Bitmapset *
wanted_by(Statement *statement)
{
	Bitmapset *wanted = NULL;

	rewind_events(statement);
	while (tuplestore_gettupleslot(statement->events, true, false, statement->event))
	{
		CHECK_FOR_INTERRUPTS();
		wanted = EsProjectionsWanting(wanted, statement->event);
	}
	return wanted;
}

/*
 * Applies a statement's events to one projection, and before them those of the
 * statements around it, which come first; false: the definition has changed.
 */
static bool
apply_in_order(Statement *statement, EsProjection *projection)
{
	if (list_member_oid(statement->done, projection->target))
		return true;
	if (statement->outer != NULL && !apply_in_order(statement->outer, projection))
		return false;
	return apply_projection(projection, statement);
}

/*
 * EsSerializeHook: locks the keys of the events that feed rows together with
 * other aggregates' events.  If a definition changes while its table is
 * locked, all is looked up again; locks that were not needed do no harm.
 */
static void
serialize_events(TupleTableSlot **events, int nevents)
{
	Bitmapset *locks = NULL;
	Bitmapset *wanted;
	List *projections;
	int next = -1;

	EsProjectionsEnter();
	projections = EsProjections();
	wanted = wanted_by_any(events, nevents);
	while ((next = bms_next_member(wanted, next)) >= 0)
	{
		EsProjection *projection = list_nth(projections, next);
		Relation target = EsProjectionOpen(projection, RowExclusiveLock);

		if (target == NULL)
		{
			projections = EsProjections();
			wanted = wanted_by_any(events, nevents);
			next = -1;
			continue;
		}
		locks = add_key_locks(locks, projection, target, events, nevents);
		table_close(target, NoLock);
	}
	EsKeyLocksTake(locks);
	bms_free(locks);
	EsProjectionsLeave();
}

/* Returns the places of the projections that want any of the events. */
static Bitmapset *
wanted_by_any(TupleTableSlot **events, int nevents)
{
	Bitmapset *wanted = NULL;

	for (int i = 0; i < nevents; i++)
		wanted = EsProjectionsWanting(wanted, events[i]);
	return wanted;
}

/* Adds the numbers of the locks that the projection needs for the events. */
static Bitmapset *
add_key_locks(Bitmapset *locks, EsProjection *projection, Relation target,
			  TupleTableSlot **events, int nevents)
{
	MemoryContext context = CurrentMemoryContext;
	int current = 0;

	PG_TRY();
	{
		EsFold *fold = EsProjectionFold(projection, target);

		if (EsKeyLocksNeeded(projection, fold))
			locks = add_keys(locks, projection, fold, events, nevents, &current);
	}
	PG_CATCH();
	{
		EsProjectionFailed(projection, events[current], context);
	}
	PG_END_TRY();
	return locks;
}

/* Adds the numbers of the locks for the events' keys; *current is the event at work. */
static Bitmapset *
add_keys(Bitmapset *locks, EsProjection *projection, EsFold *fold,
		 TupleTableSlot **events, int nevents, int *current)
{
	Datum key[INDEX_MAX_KEYS];
	EsActing acting;

	EsProjectionAct(projection, &acting);
	for (int i = 0; i < nevents; i++)
	{
		*current = i;
		if (!EsProjectionMatches(projection, events[i]))
			continue;
		fold->key_econtext->ecxt_outertuple = events[i];
		if (EsKeyEval(fold->key, fold->key_econtext, key))
			locks = EsKeyLocksAdd(locks, EsKeyHash(fold->key, key));
		ResetExprContext(fold->key_econtext);
	}
	EsActingEnd(&acting);
	return locks;
}

static void
check_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) || trigger->tg_newtable == NULL ||
		RelationGetRelid(trigger->tg_relation) != EsCatalogOid(ES_OBJECT_EVENTS))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es.apply_inline() must be the AFTER INSERT trigger of es.events for each statement")));
}

/* Has the statement's events read from the first one on. */
static void
rewind_events(Statement *statement)
{
	tuplestore_select_read_pointer(statement->events, statement->pointer);
	tuplestore_rescan(statement->events);
}

/* Applies the events to one projection; false: its definition has changed. */
static bool
apply_projection(EsProjection *projection, Statement *statement)
{
	Relation target = EsProjectionOpen(projection, RowExclusiveLock);
	MemoryContext context = CurrentMemoryContext;
	volatile int64 position = 0;

	if (target == NULL)
		return false;
	statement->done = lappend_oid(statement->done, projection->target);
	PG_TRY();
	{
		if (projection->apply != NULL)
			maintain_rows(projection, target, statement, &position);
		else
			EsStatementsRun(projection, target, statement->events, &position);
	}
	PG_CATCH();
	{
		rewind_events(statement);
		EsProjectionFailed(projection,
						   EsFailureFindEvent(statement->events, statement->event, position),
						   context);
	}
	PG_END_TRY();
	table_close(target, NoLock);
	return true;
}

/* Folds the statement's events into the projection's rows. */
static void
maintain_rows(EsProjection *projection, Relation target, Statement *statement,
			  volatile int64 *position)
{
	EsFold *fold = EsProjectionFold(projection, target);
	EsMaintenance *maintenance;
	EsActing acting;

	EsProjectionAct(projection, &acting);
	maintenance = EsMaintainBegin(projection, fold, target, false, NULL, position);
	fold_events(projection, statement, maintenance);
	EsActingEnd(&acting);

	EsActingBegin(&acting, projection->owner, NULL);
	(void) EsMaintainEnd(maintenance);
	EsActingEnd(&acting);
}

/* Folds the statement's events and writes the rows.  What runs here must not append. */
static void
fold_events(EsProjection *projection, Statement *statement, EsMaintenance *maintenance)
{
	statement->folding = true;
	rewind_events(statement);
	while (tuplestore_gettupleslot(statement->events, true, false, statement->event))
	{
		bool isnull;
		int64 position;

		CHECK_FOR_INTERRUPTS();
		if (!EsProjectionMatches(projection, statement->event))
			continue;
		position = DatumGetInt64(slot_getattr(statement->event, ES_EVENT_POSITION, &isnull));
		EsProjectionAdvance(projection, position);
		EsMaintainEvent(maintenance, statement->event, position);
	}
	EsMaintainWrite(maintenance);
	statement->folding = false;
}
