/*
 * verify.c
 *	  es.verify_projection(): the rows of a state table that the log does not give.
 *
 * State and log commit together, so under one snapshot the rows must equal the
 * fold of the events; those of an async or disabled projection, the fold up to
 * its checkpoint without the events put aside (which another function is
 * previewed with, as a replay would have them).
 *
 * The snapshot is a fresh one whatever the isolation level, taken once
 * AccessShareLock on the state table is held: that keeps out the rows of a
 * replay, which are frozen and so visible to every snapshot.  Writers go on.
 *
 * Each part of the keys that fits into memory is compared by a scan of the
 * whole table, in which the rows of the other parts are passed over.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "argument.h"
#include "checkpoint.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "past.h"
#include "receiver.h"
#include "rowtext.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "version.h"

typedef struct Verification
{
	DestReceiver receiver; /* of the rows of the state table; must come first */
	EsFoldSpec spec;
	const EsFoldedPart *part; /* at work */
	EsRowText *rowtext;
	TupleTableSlot *actual;   /* of the state table, virtual */
	TupleTableSlot *expected; /* of the state table, a tuple */
	MemoryContext row;        /* reset for each row */
	ReturnSetInfo *result;
} Verification;

ES_FUNCTION_INFO_V1(es_verify_projection);

static Relation begin(Verification *verification, const char *name, const char *apply);
static void verify_part(const EsFoldedPart *part, void *arg);
static void check_keys(Verification *verification);
static void check_key(EsStateEntry *entry, void *arg);
static void compare_rows(Verification *verification);
static bool compare_row(TupleTableSlot *row, DestReceiver *receiver);
static void report_missing(EsStateEntry *entry, void *arg);
static void report(Verification *verification, const Datum *key, TupleTableSlot *actual,
				   TupleTableSlot *expected);

/* es.verify_projection(): see the COMMENT. */
Datum
es_verify_projection(PG_FUNCTION_ARGS)
{
	Verification *verification = palloc0(sizeof(Verification));
	char *name = EsTextArgument(fcinfo, 0, "projection", true);
	char *apply = EsTextArgument(fcinfo, 1, "apply", false);
	Relation target;

	PreventCommandIfParallelMode("es.verify_projection()");
	InitMaterializedSRF(fcinfo, 0);
	verification->result = (ReturnSetInfo *) fcinfo->resultinfo;
	EsProjectionsEnter();
	target = begin(verification, name, apply);
	(void) EsFoldLog(&verification->spec, verify_part, verification);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(verification->actual);
	ExecDropSingleTupleTableSlot(verification->expected);
	table_close(target, NoLock);
	EsProjectionsLeave();
	return (Datum) 0;
}

/* Opens the projection, pushes the snapshot and says what to fold. */
static Relation
begin(Verification *verification, const char *name, const char *apply)
{
	Relation target;
	EsProjection *projection = EsPastOpen(name, AccessShareLock, &target);
	EsMoment moment = {.position = PG_INT64_MAX, .as_of = DT_NOEND};
	EsCheckpoint checkpoint;

	EsPastCheckFold(projection, "verified");
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	if (EsCheckpointReadAt(projection->name, GetActiveSnapshot(), &checkpoint))
		moment.position = checkpoint.position;
	verification->spec = EsPastSpec(projection, target, &moment);
	verification->spec.function = EsPastFunction(projection, target, apply);
	if (apply == NULL)
		verification->spec.parked = EsCheckpointParkedAt(projection->name, GetActiveSnapshot(),
														 &verification->spec.nparked);
	verification->actual = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsVirtual);
	verification->expected = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsHeapTuple);
	verification->row = AllocSetContextCreate(CurrentMemoryContext, "es verify row",
											  ALLOCSET_DEFAULT_SIZES);
	EsReceiverInit(&verification->receiver, compare_row);
	return target;
}

/* Compares the rows of a part of the keys. */
static void
verify_part(const EsFoldedPart *part, void *arg)
{
	Verification *verification = arg;

	verification->part = part;
	check_keys(verification);
	verification->rowtext = EsRowTextCreate(verification->spec.target, part->key);
	compare_rows(verification);
	EsStatesVisit(part->states, report_missing, verification);
}

/* Sees that each row has the key that it was folded for, as the projection's owner. */
static void
check_keys(Verification *verification)
{
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	EsFoldAct(&verification->spec, &acting);
	PG_TRY();
	{
		EsStatesVisit(verification->part->states, check_key, verification);
	}
	PG_CATCH();
	{
		EsProjectionFailed(verification->spec.projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
}

static void
check_key(EsStateEntry *entry, void *arg)
{
	Verification *verification = arg;

	CHECK_FOR_INTERRUPTS();
	if (entry->state == NULL)
		return;
	ExecStoreHeapTuple(entry->state, verification->expected, false);
	EsStateCheckKey(verification->part->key, entry->key, verification->expected);
}

/* Compares the rows that the table has, as the current user sees them. */
static void
compare_rows(Verification *verification)
{
	SPIExecuteOptions options = {.read_only = true, .dest = &verification->receiver};
	Relation target = verification->spec.target;
	char *schema = get_namespace_name(RelationGetNamespace(target));
	bool partitioned = target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;

	SPI_connect();
	if (SPI_execute_extended(psprintf("SELECT %s FROM %s %s",
									  EsRowTextColumns(verification->rowtext),
									  partitioned ? "" : "ONLY",
									  quote_qualified_identifier(schema,
																 RelationGetRelationName(target))),
							 &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read \"%s\"", RelationGetRelationName(target));
	SPI_finish();
}

/* Compares a row of the table with what the log gives for its key. */
static bool
compare_row(TupleTableSlot *row, DestReceiver *receiver)
{
	Verification *verification = (Verification *) receiver;
	EsKey *key = verification->part->key;
	MemoryContext old;
	Datum values[INDEX_MAX_KEYS];
	uint32 hash;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(verification->row);
	old = MemoryContextSwitchTo(verification->row);
	EsRowTextStore(verification->rowtext, row, verification->actual);
	EsKeyOfRow(key, verification->actual, values);
	hash = EsKeyHash(key, values);
	if (EsPartHas(verification->part, hash))
	{
		EsStateEntry *entry = EsStatesFind(verification->part->states, values, hash);

		if (entry == NULL || entry->state == NULL)
			report(verification, values, verification->actual, NULL);
		else
		{
			entry->changed = true; /* that is, found */
			ExecStoreHeapTuple(entry->state, verification->expected, false);
			if (!EsRowTextSame(verification->rowtext, verification->actual,
							   verification->expected))
				report(verification, values, verification->actual, verification->expected);
		}
	}
	MemoryContextSwitchTo(old);
	return true;
}

/* Reports a row that the log gives and the table has not. */
static void
report_missing(EsStateEntry *entry, void *arg)
{
	Verification *verification = arg;

	CHECK_FOR_INTERRUPTS();
	if (entry->state != NULL && !entry->changed)
	{
		MemoryContextReset(verification->row);
		ExecStoreHeapTuple(entry->state, verification->expected, false);
		report(verification, entry->key, NULL, verification->expected);
	}
}

/* Adds a row to the result.  Casts to JSON may be the projection's owner's. */
static void
report(Verification *verification, const Datum *key, TupleTableSlot *actual,
	   TupleTableSlot *expected)
{
	EsRowText *rowtext = verification->rowtext;
	MemoryContext old = MemoryContextSwitchTo(verification->row);
	Datum values[3] = {0};
	bool nulls[3] = {false, actual == NULL, expected == NULL};
	EsActing acting;

	EsActingBegin(&acting, verification->spec.projection->owner, NULL);
	values[0] = EsRowTextKey(rowtext, key);
	if (actual != NULL)
		values[1] = EsRowTextJsonb(rowtext, actual);
	if (expected != NULL)
		values[2] = EsRowTextJsonb(rowtext, expected);
	EsActingEnd(&acting);
	tuplestore_putvalues(verification->result->setResult, verification->result->setDesc, values,
						 nulls);
	MemoryContextSwitchTo(old);
}
