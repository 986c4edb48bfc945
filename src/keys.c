/*
 * keys.c
 *	  es.replay_keys(): some rows of a state table anew, in place.
 *
 * The rows' writers are held off as they hold off each other: by the locks of
 * the keys, or of the aggregates where each row is fed by one only.  Who feeds
 * a row takes that lock before he is given a position and keeps it to the end
 * of his transaction.  So once we have it, a fresh snapshot shows all events of
 * these rows, and there will be no other until our transaction ends.  Writers
 * of other rows, and readers, go on.
 *
 * A writer of more aggregates than es.max_aggregate_locks has let go of some
 * of these locks.  He is waited for when the aggregate's newest event is looked
 * up, as an append would; we ourselves take no more than we can keep.
 *
 * Nobody but the projection's runner writes the rows of an async or disabled
 * projection.  The checkpoint's lock holds it off, and the rows are folded up to
 * the checkpoint, without the events put aside.
 *
 * Triggers and foreign keys of the table see the changes as those of an append.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "aggregate.h"
#include "argument.h"
#include "catalog.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "checkpoint.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "keylock.h"
#include "miscadmin.h"
#include "past.h"
#include "progress.h"
#include "rowtext.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "version.h"

typedef struct Keys
{
	EsFoldSpec spec; /* spec.only: the keys, as entries of the stored rows */
	EsFold *fold;
	bool by_aggregate; /* each row is fed by one aggregate, whose id is the key */
	EsStateRows *rows;
	const EsFoldedPart *part; /* at work */
	EsRowText *rowtext;
	TupleTableSlot *stored;
	TupleTableSlot *folded;
	EsStateEntry **changes; /* rows of the part that differ */
	int nchanges;
	int64 changed;
} Keys;

/* The aggregates whose ids are the keys. */
typedef struct Aggregates
{
	Keys *keys;
	Relation events;
	Datum type;
	EsKeyLock *locks;
	int nlocks;
	Relation index;
	TupleTableSlot *event; /* at work */
	EsStates *states;      /* folded */
} Aggregates;

ES_FUNCTION_INFO_V1(es_replay_keys);

static void read_keys(Keys *keys, ArrayType *texts);
static void hold_off_writers(Keys *keys);
static void replay(Keys *keys);
static void add_key_lock(EsStateEntry *entry, void *arg);
static void lock_aggregates(Keys *keys);
static void add_aggregate_lock(EsStateEntry *entry, void *arg);
static void wait_for_writer(EsStateEntry *entry, void *arg);
static void fold_aggregates(Keys *keys);
static void fold_aggregate(EsStateEntry *entry, void *arg);
static void write_part(const EsFoldedPart *part, void *arg);
static void compare_row(EsStateEntry *entry, void *arg);
static bool same_row(Keys *keys, HeapTuple stored, HeapTuple folded);
static void write_changes(Keys *keys);
static HeapTuple folded_row(Keys *keys, EsStateEntry *entry);
static int compare_changes(const void *a, const void *b, void *arg);

/* es.replay_keys(): see the COMMENT. */
Datum
es_replay_keys(PG_FUNCTION_ARGS)
{
	Keys *keys = palloc0(sizeof(Keys));
	char *name = EsTextArgument(fcinfo, 0, "projection", true);
	EsMoment moment = {.position = PG_INT64_MAX, .as_of = DT_NOEND};
	EsProjection *projection;
	Relation target;

	EsRefuseReadOnly("es.replay_keys()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("keys must not be null")));
	EsProjectionsEnter();
	projection = EsProjectionOpenOwned(name, RowExclusiveLock, &target);
	EsPastCheckFold(projection, "run for some keys");
	keys->spec = EsPastSpec(projection, target, &moment);
	keys->fold = EsProjectionFold(projection, target);
	keys->by_aggregate = !EsKeyLocksNeeded(projection, keys->fold);
	keys->rowtext = EsRowTextCreate(target, keys->fold->key);
	keys->stored = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsHeapTuple);
	keys->folded = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsHeapTuple);
	read_keys(keys, PG_GETARG_ARRAYTYPE_P(1));

	hold_off_writers(keys);
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	replay(keys);
	PopActiveSnapshot();

	ExecDropSingleTupleTableSlot(keys->stored);
	ExecDropSingleTupleTableSlot(keys->folded);
	table_close(target, NoLock);
	EsProjectionsLeave();
	PG_RETURN_INT64(keys->changed);
}

/* Reads the keys, each once, as the projection's owner: its types may be domains of his. */
static void
read_keys(Keys *keys, ArrayType *texts)
{
	EsKey *key = keys->fold->key;
	Datum *items;
	bool *nulls;
	int nitems;
	EsActing acting;

	EsActingBegin(&acting, keys->spec.projection->owner, NULL);
	keys->spec.only = EsStatesCreate(key, 16);
	deconstruct_array(texts, TEXTOID, -1, false, TYPALIGN_INT, &items, &nulls, &nitems);
	for (int i = 0; i < nitems; i++)
	{
		Datum *values;
		bool is_new;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("keys must not contain nulls")));
		values = EsRowTextParseKey(keys->rowtext, TextDatumGetCString(items[i]));
		(void) EsStatesLookup(keys->spec.only, values, EsKeyHash(key, values), &is_new);
	}
	EsActingEnd(&acting);
	keys->changes = palloc(sizeof(EsStateEntry *) * (nitems + 1));
}

/* Waits for those who write the rows, and holds off others to the end of the transaction. */
static void
hold_off_writers(Keys *keys)
{
	EsProjection *projection = keys->spec.projection;
	EsCheckpoint checkpoint;
	Bitmapset *locks = NULL;

	if (!EsProjectionIsLive(projection))
	{
		EsCheckpointLock(projection->target);
		if (EsCheckpointRead(projection->name, &checkpoint))
			keys->spec.up_to_position = checkpoint.position;
	}
	else if (keys->by_aggregate)
		lock_aggregates(keys);
	else
	{
		EsStatesVisit(keys->spec.only, add_key_lock, &locks);
		EsKeyLocksTake(locks);
	}
	keys->spec.parked = EsCheckpointParkedAt(projection->name, GetLatestSnapshot(),
											 &keys->spec.nparked);
}

/* Folds the events of the rows, and writes them. */
static void
replay(Keys *keys)
{
	EsReplayState state =
		EsReplayBegin(keys->spec.projection->name, keys->spec.projection->target);

	PG_TRY();
	{
		if (keys->by_aggregate)
			fold_aggregates(keys);
		else
			(void) EsFoldLog(&keys->spec, write_part, keys);
	}
	PG_FINALLY();
	{
		EsReplayEnd(state);
	}
	PG_END_TRY();
}

static void
add_key_lock(EsStateEntry *entry, void *arg)
{
	Bitmapset **locks = arg;

	*locks = EsKeyLocksAdd(*locks, entry->hash);
}

/* Locks the aggregates that feed the rows, and waits for writers beyond the limit. */
static void
lock_aggregates(Keys *keys)
{
	Aggregates aggregates = {.keys = keys};
	int nkeys = EsStatesCount(keys->spec.only);

	if (nkeys > EsKeyLocksLeft())
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many keys (%d) for one transaction", nkeys),
				 errdetail("The aggregate of each row is locked, and the transaction can lock %d more.",
						   EsKeyLocksLeft()),
				 errhint("Use several transactions, or es.replay(), or raise es.max_aggregate_locks.")));
	aggregates.type = PointerGetDatum(linitial(keys->spec.projection->aggregate_types));
	aggregates.locks = palloc(sizeof(EsKeyLock) * (nkeys + 1));
	EsStatesVisit(keys->spec.only, add_aggregate_lock, &aggregates);
	EsAcquireKeyLocks(aggregates.locks, aggregates.nlocks);

	aggregates.events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	EsStatesVisit(keys->spec.only, wait_for_writer, &aggregates);
	table_close(aggregates.events, NoLock);
}

static void
add_aggregate_lock(EsStateEntry *entry, void *arg)
{
	Aggregates *aggregates = arg;

	aggregates->locks[aggregates->nlocks++] = EsAggregateLock(aggregates->type, entry->key[0]);
}

static void
wait_for_writer(EsStateEntry *entry, void *arg)
{
	Aggregates *aggregates = arg;

	(void) EsLastVersion(aggregates->events, aggregates->type, entry->key[0]);
}

/* Folds the rows' aggregates one by one, found by the index, and writes the rows. */
static void
fold_aggregates(Keys *keys)
{
	MemoryContext context = CurrentMemoryContext;
	EsFoldSpec *spec = &keys->spec;
	EsFoldedPart part = {.key = keys->fold->key};
	Aggregates aggregates = {.keys = keys};
	EsActing acting;

	aggregates.type = PointerGetDatum(linitial(spec->projection->aggregate_types));
	aggregates.events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	aggregates.index = index_open(EsCatalogOid(ES_OBJECT_EVENTS_AGGREGATE), AccessShareLock);
	aggregates.event = table_slot_create(aggregates.events, NULL);
	aggregates.states = EsStatesCreate(keys->fold->key, EsStatesCount(spec->only));
	EsFoldAct(spec, &acting);
	PG_TRY();
	{
		EsStatesVisit(spec->only, fold_aggregate, &aggregates);
	}
	PG_CATCH();
	{
		EsProjectionFailed(spec->projection,
						   TupIsNull(aggregates.event) ? NULL : aggregates.event, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);

	part.states = aggregates.states;
	write_part(&part, keys);
	EsStatesDestroy(aggregates.states);
	ExecDropSingleTupleTableSlot(aggregates.event);
	index_close(aggregates.index, AccessShareLock);
	table_close(aggregates.events, NoLock);
}

/* Folds the events of the aggregate whose id is the key, in the order of their versions. */
static void
fold_aggregate(EsStateEntry *entry, void *arg)
{
	Aggregates *aggregates = arg;
	EsFoldSpec *spec = &aggregates->keys->spec;
	EsFold *fold = aggregates->keys->fold;
	IndexScanDesc scan = EsIndexBeginScan(aggregates->events, aggregates->index,
										  GetActiveSnapshot(), 2);
	ScanKeyData scankeys[2];
	bool isnull;
	EsStateEntry *folded = EsStatesLookup(aggregates->states, entry->key, entry->hash, &isnull);

	ScanKeyEntryInitialize(&scankeys[0], 0, 1, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, aggregates->type);
	ScanKeyEntryInitialize(&scankeys[1], 0, 2, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, entry->key[0]);
	index_rescan(scan, scankeys, 2, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, aggregates->event))
	{
		int64 position =
			DatumGetInt64(slot_getattr(aggregates->event, ES_EVENT_POSITION, &isnull));
		HeapTuple row;

		CHECK_FOR_INTERRUPTS();
		if (position > spec->up_to_position ||
			!EsFoldPasses(spec, aggregates->event, position) ||
			!EsProjectionMatches(spec->projection, aggregates->event))
			continue;
		folded->last_position = position;
		row = EsApplyEvent(fold->apply, fold->econtext, folded->state, aggregates->event);
		if (row != folded->state)
			EsStatesKeep(aggregates->states, folded, row);
		ResetExprContext(fold->econtext);
	}
	index_endscan(scan);
	ExecClearTuple(aggregates->event);
}

/*
 * Writes the rows of a part that differ from the fold, as the projection's
 * owner; what the table's AFTER triggers do is not the projection's failure.
 */
static void
write_part(const EsFoldedPart *part, void *arg)
{
	Keys *keys = arg;
	MemoryContext context = CurrentMemoryContext;
	EsProjection *projection = keys->spec.projection;
	EsActing acting;

	keys->part = part;
	keys->nchanges = 0;
	EsFoldAct(&keys->spec, &acting);
	PG_TRY();
	{
		keys->rows =
			EsStateRowsOpen(keys->spec.target, part->key, !projection->protect, false, NULL);
		EsStatesVisit(keys->spec.only, compare_row, keys);
		write_changes(keys);
		CommandCounterIncrement();
	}
	PG_CATCH();
	{
		EsProjectionFailed(projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);

	EsActingBegin(&acting, projection->owner, NULL);
	(void) EsStateRowsClose(keys->rows);
	EsActingEnd(&acting);
}

/* Fetches a row and notes it if it differs from the fold. */
static void
compare_row(EsStateEntry *entry, void *arg)
{
	Keys *keys = arg;

	CHECK_FOR_INTERRUPTS();
	if (!EsPartHas(keys->part, entry->hash))
		return;
	EsStateRowsFetch(keys->rows, keys->spec.only, entry);
	if (!same_row(keys, entry->state, folded_row(keys, entry)))
		keys->changes[keys->nchanges++] = entry;
	EsStatesKeep(keys->spec.only, entry, NULL);
}

static bool
same_row(Keys *keys, HeapTuple stored, HeapTuple folded)
{
	if (stored == NULL || folded == NULL)
		return stored == folded;
	ExecStoreHeapTuple(stored, keys->stored, false);
	ExecStoreHeapTuple(folded, keys->folded, false);
	return EsRowTextSame(keys->rowtext, keys->stored, keys->folded);
}

/*
 * Writes what is noted: first the rows that go, then the others in the order of
 * their last events, so that a unique value can go from one to another.
 */
static void
write_changes(Keys *keys)
{
	qsort_arg(keys->changes, keys->nchanges, sizeof(EsStateEntry *), compare_changes, keys);
	for (int i = 0; i < keys->nchanges; i++)
	{
		EsStateEntry *entry = keys->changes[i];

		CHECK_FOR_INTERRUPTS();
		EsStatesKeep(keys->spec.only, entry, folded_row(keys, entry));
		EsStateRowsWrite(keys->rows, entry);
		EsStatesKeep(keys->spec.only, entry, NULL);
	}
	keys->changed += keys->nchanges;
}

/* Returns the row that the log gives for a key of the part, or null. */
static HeapTuple
folded_row(Keys *keys, EsStateEntry *entry)
{
	EsStateEntry *folded = EsStatesFind(keys->part->states, entry->key, entry->hash);

	return folded == NULL ? NULL : folded->state;
}

static int
compare_changes(const void *a, const void *b, void *arg)
{
	Keys *keys = arg;
	EsStateEntry *ea = *(EsStateEntry *const *) a;
	EsStateEntry *eb = *(EsStateEntry *const *) b;
	EsStateEntry *fa = EsStatesFind(keys->part->states, ea->key, ea->hash);
	EsStateEntry *fb = EsStatesFind(keys->part->states, eb->key, eb->hash);
	int64 pa = fa == NULL || fa->state == NULL ? 0 : fa->last_position;
	int64 pb = fb == NULL || fb->state == NULL ? 0 : fb->last_position;

	return pa < pb ? -1 : pa > pb;
}
