/*
 * projection.c
 *	  The registry of projections, cached and compiled.
 *
 * Each backend keeps what es.projection says, and the compiled folds.  An
 * invalidation callback only marks: the registry when es.projection changes
 * (registry.c sends a relcache invalidation for it), a fold when its
 * state table, or any function or type, changes.  Who looks next builds anew.
 *
 * A change can arrive while a fold is being evaluated, and what runs inside it
 * may append and so look the registry up.  So what is replaced is freed only
 * when nobody is using the cache: EsProjectionsEnter/Leave count the users.
 *
 * The registry is read with the latest snapshot whatever the isolation level
 * (by parallel workers with their leader's, who holds the locks).
 * Why a writer can't miss a projection, nor run one that is gone: creating one
 * locks es.events against all writers until it commits; dropping or replaying
 * one takes a lock on the state table that conflicts with RowExclusiveLock,
 * and writers take that lock before they rely on the definition
 * (EsProjectionOpen), which processes the invalidation.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "acting.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "failure.h"
#include "filter.h"
#include "handler.h"
#include "miscadmin.h"
#include "position.h"
#include "projection.h"
#include "registry.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static MemoryContext registry_context = NULL; /* of registry */
static List *registry = NIL;
static EsFilterIndex *by_event_type;
static EsFilterIndex *by_aggregate_type;
static Bitmapset *live = NULL; /* places in registry */
static bool registry_valid = false;
static uint64 registry_changes = 0;
static uint64 fold_changes = 0;
static Oid registry_relation = InvalidOid; /* es.projection, as last read */
static List *garbage = NIL;                /* of MemoryContext, in TopMemoryContext */
static int users = 0;
static uint64 transaction = 1; /* counts this backend's transactions */

static void register_callbacks(void);
static void load_registry(void);
static void index_filters(void);
static List *read_registry(MemoryContext context);
static EsProjection *load_projection(Relation registry_table, HeapTuple row);
static void read_statements(List *projections, Snapshot snapshot, MemoryContext context);
static List *text_list(Datum array, bool isnull);
static void free_garbage(void);
static void discard(MemoryContext context);
static void compile(EsProjection *projection, Relation target);
static void compile_fold(EsProjection *projection, Relation target, Relation events,
						 Oid function, EsFold *fold);
static void compile_statements(EsProjection *projection, Relation events, EsFold *fold);
static bool passes_filter(List *list, TupleTableSlot *event, EsEventColumn column);
static void relation_changed(Datum arg, Oid relid);
static void object_changed(Datum arg, int cacheid, uint32 hashvalue);
static void transaction_ended(XactEvent event, void *arg);
pg_noreturn static void fail(EsProjection *projection, TupleTableSlot *event, int64 position,
							 MemoryContext context);
static int64 event_position(TupleTableSlot *event);
static void subtransaction_changed(SubXactEvent event, SubTransactionId mySubid,
								   SubTransactionId parentSubid, void *arg);

void
EsProjectionsEnter(void)
{
	register_callbacks();
	if (users++ == 0)
		free_garbage();
}

void
EsProjectionsLeave(void)
{
	if (--users == 0)
		free_garbage();
}

/* Else the folds that are compiled anew after each of many errors add up. */
void
EsProjectionRecover(EsProjection *projection)
{
	if (users > 1 || projection->fold_context == NULL)
		return;
	MemoryContextDelete(projection->fold_context);
	projection->fold = NULL;
	projection->fold_context = NULL;
}

List *
EsProjections(void)
{
	if (!registry_valid)
		load_registry();
	return registry;
}

EsProjection *
EsProjectionFind(const char *name)
{
	EsProjection *projection = EsProjectionLookup(name);

	if (projection == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 errmsg("projection \"%s\" does not exist", name),
				 errhint("The view es.projections lists them.")));
	return projection;
}

EsProjection *
EsProjectionLookup(const char *name)
{
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (strcmp(projection->name, name) == 0)
			return projection;
	}
	return NULL;
}

bool
EsProjectionIsOwned(EsProjection *projection)
{
	return get_rel_name(projection->target) != NULL &&
		EsRelationOwnerCheck(projection->target, GetUserId());
}

void
EsProjectionCheckOwner(EsProjection *projection)
{
	char *table = get_rel_name(projection->target);

	if (table != NULL && !EsRelationOwnerCheck(projection->target, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of projection \"%s\"", projection->name),
				 errdetail("A projection belongs to the owner of its state table, \"%s\".", table)));
}

bool
EsProjectionIsLive(EsProjection *projection)
{
	return projection->enabled && !projection->async;
}

int64
EsProjectionBound(EsProjection *projection)
{
	return EsProjectionIsLive(projection) ? PG_INT64_MAX : EsHighWaterMark();
}

Bitmapset *
EsProjectionsWanting(Bitmapset *wanted, TupleTableSlot *event)
{
	bool isnull;
	Bitmapset *members =
		bms_intersect(EsFilterIndexFind(by_event_type,
										slot_getattr(event, ES_EVENT_EVENT_TYPE, &isnull)),
					  EsFilterIndexFind(by_aggregate_type,
										slot_getattr(event, ES_EVENT_AGGREGATE_TYPE, &isnull)));

	return bms_join(wanted, bms_int_members(members, live));
}

bool
EsProjectionMatches(EsProjection *projection, TupleTableSlot *event)
{
	return passes_filter(projection->event_types, event, ES_EVENT_EVENT_TYPE) &&
		passes_filter(projection->aggregate_types, event, ES_EVENT_AGGREGATE_TYPE);
}

Relation
EsProjectionOpen(EsProjection *projection, LOCKMODE lockmode)
{
	Relation target = try_table_open(projection->target, lockmode);

	/* If anything has changed, then projection is no longer in the registry's list. */
	if (registry_valid && list_member_ptr(registry, projection))
	{
		if (target == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("the state table of projection \"%s\" does not exist", projection->name),
					 errhint("Remove the projection with es.drop_projection().")));
		if (projection->owner != target->rd_rel->relowner && projection->fold != NULL)
			projection->fold->valid = false;
		projection->owner = target->rd_rel->relowner;
		return target;
	}
	if (target != NULL)
		table_close(target, NoLock);
	return NULL;
}

EsProjection *
EsProjectionOpenOwned(const char *name, LOCKMODE lockmode, Relation *target)
{
	EsProjection *projection;

	do
	{
		projection = EsProjectionFind(name);
		EsProjectionCheckOwner(projection);
		*target = EsProjectionOpen(projection, lockmode);
	} while (*target == NULL);
	return projection;
}

EsFold *
EsProjectionFold(EsProjection *projection, Relation target)
{
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	if (projection->fold != NULL && projection->fold->valid)
		return projection->fold;

	discard(projection->fold_context);
	projection->fold = NULL;
	projection->fold_context = NULL;
	EsActingBegin(&acting, projection->owner, projection->settings);
	PG_TRY();
	{
		compile(projection, target);
	}
	PG_CATCH();
	{
		EsProjectionFailed(projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
	return projection->fold;
}

EsFold *
EsProjectionFoldWith(EsProjection *projection, Relation target, Oid function)
{
	MemoryContext context = CurrentMemoryContext;
	EsFold *volatile fold = NULL;
	EsActing acting;

	EsActingBegin(&acting, projection->owner, projection->settings);
	PG_TRY();
	{
		Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);

		fold = palloc0(sizeof(EsFold));
		compile_fold(projection, target, events, function, fold);
		table_close(events, NoLock);
	}
	PG_CATCH();
	{
		EsProjectionFailed(projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
	return fold;
}

void
EsProjectionAct(EsProjection *projection, EsActing *acting)
{
	EsFold *fold = projection->fold;
	bool pinned = fold == NULL || fold->apply == NULL || fold->key->pinned ||
		EsApplyPinned(fold->apply);

	EsActingBegin(acting, projection->owner, pinned ? projection->settings : NULL);
}

/*
 * A statement's events are applied when it ends.  A function that the
 * statement calls may append meanwhile, and its events are applied at once;
 * then the statement's own come too late.
 */
void
EsProjectionAdvance(EsProjection *projection, int64 position)
{
	if (projection->transaction == transaction && position < projection->last_position)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("events were appended by a function inside a statement that appends events"),
				 errdetail("Position " INT64_FORMAT " was applied before position " INT64_FORMAT ".",
						   projection->last_position, position),
				 errhint("Append in separate statements.")));
	projection->transaction = transaction;
	projection->last_position = position;
}

uint64
EsProjectionChanges(void)
{
	register_callbacks();
	return registry_changes + fold_changes;
}

void
EsProjectionRewind(EsProjection *projection)
{
	projection->last_position = 0;
}

void
EsProjectionReset(EsProjection *projection)
{
	if (projection->fold != NULL)
		projection->fold->valid = false;
}

void
EsProjectionFailed(EsProjection *projection, TupleTableSlot *event, MemoryContext context)
{
	fail(projection, event, event == NULL ? 0 : event_position(event), context);
}

void
EsProjectionFailedAt(EsProjection *projection, int64 position, MemoryContext context)
{
	fail(projection, NULL, position, context);
}

/*
 * The fold is compiled anew after an error: what functions keep in it between two
 * calls may be in any state.
 */
static void
fail(EsProjection *projection, TupleTableSlot *event, int64 position, MemoryContext context)
{
	EsProjectionReset(projection);
	projection->failed_position = position;
	EsFailureRaise(projection->name, projection->target, event, position, context);
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, object_changed, (Datum) 0);
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_changed, NULL);
	registered = true;
}

/* Reads es.projection, again if it changes while it is read; marked valid last. */
static void
load_registry(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es projections",
												  ALLOCSET_SMALL_SIZES);
	List *list;
	uint64 changes;

	register_callbacks();
	do
	{
		changes = registry_changes;
		MemoryContextReset(context);
		list = read_registry(context);
	} while (changes != registry_changes);

	discard(registry_context); /* and the compiled folds with it */
	MemoryContextSetParent(context, CacheMemoryContext);
	registry_context = context;
	registry = list;
	index_filters();
	registry_valid = true;
}

/* Indexes the filters of all projections. */
static void
index_filters(void)
{
	MemoryContext old = MemoryContextSwitchTo(registry_context);
	List *event_types = NIL;
	List *aggregate_types = NIL;
	ListCell *lc;

	live = NULL; /* the old one goes with the old registry */
	foreach(lc, registry)
	{
		EsProjection *projection = lfirst(lc);

		if (EsProjectionIsLive(projection))
			live = bms_add_member(live, list_length(event_types));
		event_types = lappend(event_types, projection->event_types);
		aggregate_types = lappend(aggregate_types, projection->aggregate_types);
	}
	by_event_type = EsFilterIndexBuild(event_types);
	by_aggregate_type = EsFilterIndexBuild(aggregate_types);
	MemoryContextSwitchTo(old);
}

/* Returns what es.projection holds now, by name. */
static List *
read_registry(MemoryContext context)
{
	Relation relation = table_open(EsCatalogOid(ES_OBJECT_PROJECTION), AccessShareLock);
	Relation index = index_open(EsCatalogOid(ES_OBJECT_PROJECTION_PKEY), AccessShareLock);
	Snapshot snapshot =
		RegisterSnapshot(IsParallelWorker() ? GetActiveSnapshot() : GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan_ordered(relation, index, snapshot, 0, NULL);
	MemoryContext old = MemoryContextSwitchTo(context);
	List *list = NIL;
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
		list = lappend(list, load_projection(relation, tuple));
	MemoryContextSwitchTo(old);
	registry_relation = RelationGetRelid(relation);
	systable_endscan_ordered(scan);
	read_statements(list, snapshot, context);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(relation, AccessShareLock);
	return list;
}

static EsProjection *
load_projection(Relation registry_table, HeapTuple row)
{
	EsProjection *projection = palloc0(sizeof(EsProjection));
	Datum values[ES_PROJECTION_NCOLUMNS];
	bool nulls[ES_PROJECTION_NCOLUMNS];

#define VALUE(column)  values[ES_PROJECTION_##column - 1]
#define ISNULL(column) nulls[ES_PROJECTION_##column - 1]
	EsCatalogRead(registry_table, row, ES_PROJECTION_NCOLUMNS, values, nulls);
	projection->name = TextDatumGetCString(VALUE(NAME));
	projection->target = DatumGetObjectId(VALUE(TARGET));
	projection->apply = ISNULL(APPLY) ? NULL : TextDatumGetCString(VALUE(APPLY));
	projection->key = ISNULL(KEY) ? NULL : TextDatumGetCString(VALUE(KEY));
	projection->aggregate_types = text_list(VALUE(AGGREGATE_TYPES), ISNULL(AGGREGATE_TYPES));
	projection->event_types = text_list(VALUE(EVENT_TYPES), ISNULL(EVENT_TYPES));
	projection->async = EsRegistryIsAsync(TextDatumGetCString(VALUE(MODE)));
	projection->park = EsRegistryIsPark(TextDatumGetCString(VALUE(ON_ERROR)));
	projection->protect = DatumGetBool(VALUE(PROTECT));
	projection->enabled = DatumGetBool(VALUE(ENABLED));
	projection->settings = DatumGetArrayTypePCopy(VALUE(SETTINGS));
#undef VALUE
#undef ISNULL
	return projection;
}

/* Adds to the projections the statements that es.projection_handler holds now. */
static void
read_statements(List *projections, Snapshot snapshot, MemoryContext context)
{
	Relation relation = table_open(EsCatalogOid(ES_OBJECT_HANDLER), AccessShareLock);
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
	MemoryContext old = MemoryContextSwitchTo(context);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		EsStatement *statement = palloc(sizeof(EsStatement));
		Datum values[ES_HANDLER_NCOLUMNS];
		bool nulls[ES_HANDLER_NCOLUMNS];
		char *name;
		ListCell *lc;

		EsCatalogRead(relation, tuple, ES_HANDLER_NCOLUMNS, values, nulls);
		name = TextDatumGetCString(values[ES_HANDLER_PROJECTION - 1]);
		statement->event_type = NULL;
		if (!nulls[ES_HANDLER_EVENT_TYPE - 1])
			statement->event_type = DatumGetTextPCopy(values[ES_HANDLER_EVENT_TYPE - 1]);
		statement->statement = TextDatumGetCString(values[ES_HANDLER_STATEMENT - 1]);
		foreach(lc, projections)
		{
			EsProjection *projection = lfirst(lc);

			if (strcmp(projection->name, name) != 0)
				continue;
			projection->statements = lappend(projection->statements, statement);
			projection->batch = DatumGetBool(values[ES_HANDLER_BATCH - 1]);
		}
	}
	MemoryContextSwitchTo(old);
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
}

/* Returns the elements of a text array as a list of text. */
static List *
text_list(Datum array, bool isnull)
{
	List *list = NIL;
	Datum *items;
	int nitems;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &items, NULL, &nitems);
	for (int i = 0; i < nitems; i++)
		list = lappend(list, DatumGetTextPCopy(items[i]));
	return list;
}

static void
free_garbage(void)
{
	while (garbage != NIL)
	{
		MemoryContextDelete(linitial(garbage));
		garbage = list_delete_first(garbage);
	}
}

/* Frees a context, now or when nobody uses the cache any more. */
static void
discard(MemoryContext context)
{
	MemoryContext old;

	if (context == NULL)
		return;
	if (users == 0)
	{
		MemoryContextDelete(context);
		return;
	}
	/* Each by itself: its parent may be garbage as well. */
	MemoryContextSetParent(context, TopMemoryContext);
	old = MemoryContextSwitchTo(TopMemoryContext);
	garbage = lappend(garbage, context);
	MemoryContextSwitchTo(old);
}

/*
 * Compiles the fold in a context of its own, which is kept only if that succeeds, as
 * long as the projection: a registry that has been replaced may still be used.
 */
static void
compile(EsProjection *projection, Relation target)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es fold",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	EsFold *fold = palloc0(sizeof(EsFold));
	uint64 changes = fold_changes;

	if (projection->apply != NULL)
		compile_fold(projection, target, events, EsRegistryFunction(projection->target), fold);
	else
		compile_statements(projection, events, fold);
	table_close(events, NoLock);
	MemoryContextSwitchTo(old);
	fold->valid = changes == fold_changes;

	MemoryContextSetParent(context, GetMemoryChunkContext(projection));
	projection->fold = fold;
	projection->fold_context = context;
}

static void
compile_fold(EsProjection *projection, Relation target, Relation events, Oid function,
			 EsFold *fold)
{
	fold->key = EsKeyCompile(target, events, projection->key);
	if (!OidIsValid(function))
		function = EsApplyFind(projection->target, projection->apply);
	EsApplyCheck(target, function, projection->apply);
	fold->apply = EsApplyCompile(target, function);
	fold->key_econtext = CreateStandaloneExprContext();
	fold->econtext = CreateStandaloneExprContext();
}

static void
compile_statements(EsProjection *projection, Relation events, EsFold *fold)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi_context;
	ListCell *lc;

	SPI_connect();
	spi_context = MemoryContextSwitchTo(context);
	foreach(lc, projection->statements)
	{
		EsStatement *statement = lfirst(lc);

		fold->handlers = lappend(fold->handlers,
								 EsHandlerCompile(statement->statement, events, projection->batch));
	}
	MemoryContextSwitchTo(spi_context);
	SPI_finish();
}

/* Says whether the event's column is in the list; NIL lets all pass. */
static bool
passes_filter(List *list, TupleTableSlot *event, EsEventColumn column)
{
	bool isnull;

	return list == NIL ||
		EsFilterPasses(list, DatumGetTextPP(slot_getattr(event, column, &isnull)));
}

static void
relation_changed(Datum arg, Oid relid)
{
	ListCell *lc;

	/* A registry that was read names the relation that it was read from. */
	if (!OidIsValid(relid) || relid == registry_relation)
	{
		registry_valid = false;
		registry_changes++;
	}
	fold_changes++;
	foreach(lc, registry)
	{
		EsProjection *projection = lfirst(lc);

		if (projection->fold != NULL && (!OidIsValid(relid) || relid == projection->target))
			projection->fold->valid = false;
	}
}

static void
object_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	ListCell *lc;

	fold_changes++;
	foreach(lc, registry)
	{
		EsProjection *projection = lfirst(lc);

		if (projection->fold != NULL)
			projection->fold->valid = false;
	}
}

/* Nobody uses the cache between transactions, however the last one ended. */
static void
transaction_ended(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE ||
		event == XACT_EVENT_PARALLEL_PRE_COMMIT)
		return;
	transaction++;
	users = 1;
	EsProjectionsLeave();
}

/*
 * Who began to use the cache in a subtransaction that is rolled back is gone.  (When
 * the first of all users comes, and registers this, there are none in any level.)
 */
static void
subtransaction_changed(SubXactEvent event, SubTransactionId mySubid,
					   SubTransactionId parentSubid, void *arg)
{
	static int *users_before = NULL; /* by nesting level */
	static int nlevels = 0;
	int level = GetCurrentTransactionNestLevel();

	if (event != SUBXACT_EVENT_START_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		users = level < nlevels ? users_before[level] : 0;
		return;
	}
	if (level >= nlevels)
	{
		int more = Max(64, level * 2);

		users_before = users_before == NULL
			? MemoryContextAllocZero(TopMemoryContext, sizeof(int) * more)
			: repalloc(users_before, sizeof(int) * more);
		nlevels = more;
	}
	users_before[level] = users;
}

/* Returns the event's position; 0 if it has none yet. */
static int64
event_position(TupleTableSlot *event)
{
	bool isnull;
	Datum position = slot_getattr(event, ES_EVENT_POSITION, &isnull);

	return isnull ? 0 : DatumGetInt64(position);
}
