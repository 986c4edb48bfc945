/*
 * statement.c
 *	  Keeping a projection by SQL statements.
 *
 * A statement projection has a statement per event type, run for each event in
 * position order.  A batch projection has one statement that is run for all
 * events of a batch, which it reads as a relation.  Both write their tables by
 * ordinary SQL, with its locks: events of one aggregate arrive in order, but
 * transactions that append to different aggregates and write one row meet at
 * the row, in the order in which they get there.
 *
 * While a statement runs, the trigger that refuses direct writes lets it
 * through (EsStatementsWriting).
 *
 * Rebuilding runs the statements for the whole log with storage beside the table
 * (redirect.c), which then becomes the table's, as for a fold (rebuild.c): writers
 * and readers go on meanwhile.  The last events are read when writers are locked
 * out; see rebuild.c for why each is applied once.
 *
 * In place, the table is emptied first.  ShareRowExclusiveLock waits for those
 * who have run the statements and holds off those who will; readers see the old
 * rows until it commits.
 *
 * What the statements call, and the triggers of the tables that they write, must
 * not append meanwhile (inline.c refuses it): that would be history made twice.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/pg_inherits.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "failure.h"
#include "filter.h"
#include "guc.h"
#include "handler.h"
#include "logscan.h"
#include "miscadmin.h"
#include "position.h"
#include "nodes/nodeFuncs.h"
#include "progress.h"
#include "redirect.h"
#include "registry.h"
#include "statement.h"
#include "storage/lmgr.h"
#include "swap.h"
#include "utils/builtins.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define REBUILD_BATCH 10000 /* events at most that are handed over at once */

static Oid writing = InvalidOid; /* state table of the statement that runs */

static void run_each(EsProjection *projection, EsFold *fold, Tuplestorestate *events, int pointer,
					 TupleTableSlot *event, volatile int64 *position);
static void run_batch(EsProjection *projection, EsFold *fold, Relation log,
					  Tuplestorestate *events, TupleTableSlot *event, volatile int64 *position);
static EsHandler *find_handler(EsProjection *projection, EsFold *fold, TupleTableSlot *event);
static int64 run_range(EsProjection *projection, Relation target, EsRange *range, EsApplied *sum);
static void check_targets(EsProjection *projection, EsFold *fold);
static bool writes_other_table(Node *node, void *context);
static void run_chunk(EsProjection *projection, Relation target, Tuplestorestate *chunk,
					  TupleTableSlot *event);
static int64 count_rows(Relation target);
static int64 count_table(Relation table, Snapshot snapshot);

void
EsStatementsRun(EsProjection *projection, Relation target, Tuplestorestate *events,
				volatile int64 *position)
{
	EsFold *fold = EsProjectionFold(projection, target);
	int pointer = tuplestore_alloc_read_pointer(events, EXEC_FLAG_REWIND);
	Relation log = table_open(EsCatalogOid(ES_OBJECT_EVENTS), NoLock);
	TupleTableSlot *event = MakeSingleTupleTableSlot(RelationGetDescr(log), &TTSOpsMinimalTuple);
	Oid outer = writing;
	EsActing acting;

	tuplestore_select_read_pointer(events, pointer);
	tuplestore_rescan(events);
	EsProjectionAct(projection, &acting);
	SPI_connect();
	PG_TRY();
	{
		writing = RelationGetRelid(target);
		if (projection->batch)
			run_batch(projection, fold, log, events, event, position);
		else
			run_each(projection, fold, events, pointer, event, position);
	}
	PG_FINALLY();
	{
		writing = outer;
	}
	PG_END_TRY();
	SPI_finish();
	EsActingEnd(&acting);
	ExecDropSingleTupleTableSlot(event);
	table_close(log, NoLock);
}

void
EsStatementsDepend(EsProjection *projection, Relation target)
{
	EsFold *fold = EsProjectionFold(projection, target);
	List *queries = NIL;
	ListCell *lc;

	foreach(lc, fold->handlers)
		queries = list_concat(queries, EsHandlerQueries(lfirst(lc)));
	EsRegistryDepend(projection->target, queries);
}

bool
EsStatementsWriting(Oid table)
{
	return OidIsValid(writing) && writing == table;
}

/* Reads the events in their order, and runs the statements for one chunk after the other. */
EsApplied
EsStatementsCatchUp(EsProjection *projection, Relation target, EsRange range)
{
	EsApplied result = {.up_to_position = range.after, .bound = range.up_to, .all = true};
	Relation log = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	Snapshot snapshot =
		RegisterSnapshot(range.snapshot != NULL ? range.snapshot : GetLatestSnapshot());
	EsLogScan scan = EsLogScanBegin(log, snapshot, range.after, range.up_to);
	TupleTableSlot *event = table_slot_create(log, NULL);
	TupleTableSlot *stored = MakeSingleTupleTableSlot(RelationGetDescr(log), &TTSOpsMinimalTuple);
	bool more = true;

	EsProjectionRewind(projection);
	while (more && result.all)
	{
		Tuplestorestate *chunk = tuplestore_begin_heap(true, false, work_mem);

		while (tuplestore_tuple_count(chunk) < REBUILD_BATCH && result.all &&
			   (more = EsLogScanNext(&scan, event, &result.up_to_position)))
		{
			CHECK_FOR_INTERRUPTS();
			if (!EsProjectionMatches(projection, event) ||
				(range.passes != NULL && !range.passes(event, range.arg)))
				continue;
			tuplestore_puttupleslot(chunk, event);
			result.all = ++result.events < range.max_events;
		}
		run_chunk(projection, target, chunk, stored);
		EsProgressAdd(tuplestore_tuple_count(chunk));
		tuplestore_end(chunk);
	}
	ExecDropSingleTupleTableSlot(stored);
	ExecDropSingleTupleTableSlot(event);
	EsLogScanEnd(&scan);
	UnregisterSnapshot(snapshot);
	table_close(log, NoLock);
	return result;
}

void
EsStatementsEmpty(EsProjection *projection, Relation target)
{
	Oid outer = writing;
	EsActing acting;

	EsProjectionAct(projection, &acting);
	SPI_connect();
	PG_TRY();
	{
		char *schema = get_namespace_name(RelationGetNamespace(target));
		char *table = quote_qualified_identifier(schema, RelationGetRelationName(target));

		writing = RelationGetRelid(target);
		if (SPI_execute(psprintf("DELETE FROM %s", table), false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not empty state table \"%s\"", table);
	}
	PG_FINALLY();
	{
		writing = outer;
	}
	PG_END_TRY();
	SPI_finish();
	EsActingEnd(&acting);
}

EsApplied
EsStatementsRebuild(EsProjection *projection, Relation target)
{
	EsRange range = {.max_events = PG_INT64_MAX};
	EsApplied result = {0};
	List *tables = list_make1_oid(RelationGetRelid(target));
	int64 events = ES_SWAP_EVENTS;
	EsRedirect *redirect;

	CheckTableNotInUse(target, "rebuild");
	check_targets(projection, EsProjectionFold(projection, target));
	redirect = EsRedirectMake(target, projection->name, ES_IN_PLACE_HINT);
	EsProgressPhase(ES_PHASE_FOLDING);
	EsProgressExpect(EsLogEstimate());
	EsRedirectBegin(redirect);
	PG_TRY();
	{
		for (int pass = 0; pass < ES_SWAP_PASSES && events >= ES_SWAP_EVENTS; pass++)
		{
			range.up_to = Max(range.after, EsHighWaterMark());
			events = run_range(projection, target, &range, &result);
		}
		EsSwapLock(target, tables);
		EsProgressPhase(ES_PHASE_CATCHING_UP);
		range.up_to = Max(range.after, EsProjectionBound(projection));
		(void) run_range(projection, target, &range, &result);
	}
	PG_FINALLY();
	{
		EsRedirectEnd();
	}
	PG_END_TRY();
	EsSwapHeap(target, redirect->heap, redirect->indexes);
	EsSwapCheckForeignKeys(tables);
	result.rows = count_rows(target);
	return result;
}

Oid
EsStatementsBeside(EsProjection *projection, Relation target, EsRange range, const char *hint,
				   int64 *up_to_position)
{
	EsReplayState state = EsReplayBegin(projection->name, projection->target);
	EsRedirect *volatile redirect;

	PG_TRY();
	{
		check_targets(projection, EsProjectionFold(projection, target));
		redirect = EsRedirectMake(target, projection->name, hint);
		EsProgressPhase(ES_PHASE_FOLDING);
		EsProgressExpect(EsLogEstimate());
		EsRedirectBegin(redirect);
		*up_to_position = EsStatementsCatchUp(projection, target, range).up_to_position;
	}
	PG_FINALLY();
	{
		EsRedirectEnd();
		EsReplayEnd(state);
	}
	PG_END_TRY();
	CommandCounterIncrement();
	return redirect->heap;
}

EsApplied
EsStatementsRebuildInPlace(EsProjection *projection, Relation target)
{
	EsRange range = {.max_events = PG_INT64_MAX};
	EsApplied result;

	LockRelation(target, ShareRowExclusiveLock);
	range.up_to = EsProjectionBound(projection);
	CheckTableNotInUse(target, "rebuild");
	check_targets(projection, EsProjectionFold(projection, target));
	EsStatementsEmpty(projection, target);
	CommandCounterIncrement();
	EsProgressPhase(ES_PHASE_FOLDING);
	EsProgressExpect(EsLogEstimate());
	result = EsStatementsCatchUp(projection, target, range);
	CommandCounterIncrement();
	result.rows = count_rows(target);
	return result;
}

/* Runs the statements for a range, goes to its end, and returns how many events there were. */
static int64
run_range(EsProjection *projection, Relation target, EsRange *range, EsApplied *sum)
{
	EsApplied applied = EsStatementsCatchUp(projection, target, *range);

	CommandCounterIncrement();
	sum->events += applied.events;
	sum->up_to_position = applied.up_to_position;
	sum->bound = applied.bound;
	range->after = range->up_to;
	return applied.events;
}

/* Runs for each event the statement of its type. */
static void
run_each(EsProjection *projection, EsFold *fold, Tuplestorestate *events, int pointer,
		 TupleTableSlot *event, volatile int64 *position)
{
	while (tuplestore_gettupleslot(events, true, false, event))
	{
		EsHandler *handler;
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		if (!EsProjectionMatches(projection, event))
			continue;
		handler = find_handler(projection, fold, event);
		if (handler == NULL)
			continue;
		*position = DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION, &isnull));
		EsProjectionAdvance(projection, *position);
		EsHandlerRun(handler, event);
		/* What the statement does may append, and have our events read meanwhile. */
		tuplestore_select_read_pointer(events, pointer);
	}
}

/* Runs the statement once, for the events that the projection wants. */
static void
run_batch(EsProjection *projection, EsFold *fold, Relation log, Tuplestorestate *events,
		  TupleTableSlot *event, volatile int64 *position)
{
	Tuplestorestate *wanted = tuplestore_begin_heap(true, false, work_mem);
	bool isnull;

	while (tuplestore_gettupleslot(events, true, false, event))
	{
		CHECK_FOR_INTERRUPTS();
		if (!EsProjectionMatches(projection, event))
			continue;
		*position = DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION, &isnull));
		EsProjectionAdvance(projection, *position);
		tuplestore_puttupleslot(wanted, event);
	}
	if (tuplestore_tuple_count(wanted) > 0 && fold->handlers != NIL)
		EsHandlerRunBatch(linitial(fold->handlers), log, wanted);
	tuplestore_end(wanted);
}

/* Returns the handler of the event's type, else the one of every other type, else null. */
static EsHandler *
find_handler(EsProjection *projection, EsFold *fold, TupleTableSlot *event)
{
	bool isnull;
	text *type = DatumGetTextPP(slot_getattr(event, ES_EVENT_EVENT_TYPE, &isnull));
	EsHandler *other = NULL;
	ListCell *statement;
	ListCell *handler;

	forboth(statement, projection->statements, handler, fold->handlers)
	{
		text *handled = ((EsStatement *) lfirst(statement))->event_type;

		if (handled == NULL)
			other = lfirst(handler);
		else if (EsSameText(handled, type))
			return lfirst(handler);
	}
	return other;
}

/* Refuses to rebuild if a statement writes a table that would not be emptied. */
static void
check_targets(EsProjection *projection, EsFold *fold)
{
	ListCell *handler;

	foreach(handler, fold->handlers)
	{
		ListCell *query;

		foreach(query, EsHandlerQueries(lfirst(handler)))
			(void) writes_other_table(lfirst(query), projection);
	}
}

static bool
writes_other_table(Node *node, void *context)
{
	EsProjection *projection = context;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query *query = (Query *) node;

		if (query->resultRelation > 0)
		{
			Oid relid = rt_fetch(query->resultRelation, query->rtable)->relid;

			if (EsRegistryStateTable(relid) != projection->target)
				ereport(ERROR,
						(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
						 errmsg("projection \"%s\" cannot be replayed", projection->name),
						 errdetail("Its statements write table \"%s\", which a replay does not empty.",
								   get_rel_name(relid)),
						 errhint("Keep each table by a projection of its own.")));
		}
		return query_tree_walker(query, writes_other_table, context, 0);
	}
	return expression_tree_walker(node, writes_other_table, context);
}

static void
run_chunk(EsProjection *projection, Relation target, Tuplestorestate *chunk,
		  TupleTableSlot *event)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int64 position = 0;

	PG_TRY();
	{
		EsStatementsRun(projection, target, chunk, &position);
	}
	PG_CATCH();
	{
		tuplestore_rescan(chunk);
		EsProjectionFailed(projection, EsFailureFindEvent(chunk, event, position), context);
	}
	PG_END_TRY();
}

/* Counts the rows of the table or of its partitions. */
static int64
count_rows(Relation target)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64 count = 0;
	ListCell *lc;

	foreach(lc, find_all_inheritors(RelationGetRelid(target), NoLock, NULL))
	{
		Relation table = table_open(lfirst_oid(lc), AccessShareLock);

		if (table->rd_rel->relkind == RELKIND_RELATION)
			count += count_table(table, snapshot);
		table_close(table, NoLock);
	}
	UnregisterSnapshot(snapshot);
	return count;
}

static int64
count_table(Relation table, Snapshot snapshot)
{
	TableScanDesc scan = table_beginscan(table, snapshot, 0, NULL);
	TupleTableSlot *row = table_slot_create(table, NULL);
	int64 count = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		CHECK_FOR_INTERRUPTS();
		count++;
	}
	ExecDropSingleTupleTableSlot(row);
	table_endscan(scan);
	return count;
}
