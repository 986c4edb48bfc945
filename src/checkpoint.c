/*
 * checkpoint.c
 *	  How far a projection is that doesn't run in the writers' transactions.
 *
 * A projection that is async or disabled has a row in es.projection_checkpoint.
 * It is updated in the transaction that brings the state table up to date, and
 * is a row of its own, not a column of the registry, because every session
 * reads the registry again when that changes.
 *
 * Who brings a state table up to date holds a lock of ours, after a lock on
 * the table itself.  Whoever stores a checkpoint for another reason (a replay,
 * a change of mode) holds a lock on the table that keeps the former out.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "aggregate.h"
#include "catalog.h"
#include "catalog/indexing.h"
#include "checkpoint.h"
#include "miscadmin.h"
#include "rows.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Columns of es.projection_checkpoint, in their order. */
enum
{
	CHECKPOINT_PROJECTION,
	CHECKPOINT_POSITION,
	CHECKPOINT_STOPPED,
	CHECKPOINT_ERROR,
	CHECKPOINT_ERROR_POSITION,
	CHECKPOINT_NCOLUMNS
};

/* Columns of es.projection_parked, in their order. */
enum
{
	PARKED_PROJECTION,
	PARKED_POSITION,
	PARKED_REASON,
	PARKED_AT,
	PARKED_NCOLUMNS
};

static bool lock_checkpoint(Oid target, bool dont_wait);
static void open_rows(EsRows *rows, EsObject table, LOCKMODE lockmode, Snapshot snapshot,
					  const char *projection, StrategyNumber strategy, int64 position);

void
EsCheckpointLock(Oid target)
{
	(void) lock_checkpoint(target, false);
}

bool
EsCheckpointTryLock(Oid target)
{
	return lock_checkpoint(target, true);
}

bool
EsCheckpointRead(const char *projection, EsCheckpoint *checkpoint)
{
	return EsCheckpointReadAt(projection, GetLatestSnapshot(), checkpoint);
}

bool
EsCheckpointReadAt(const char *projection, Snapshot snapshot, EsCheckpoint *checkpoint)
{
	EsRows rows;
	HeapTuple tuple;
	bool found;

	memset(checkpoint, 0, sizeof(EsCheckpoint));
	open_rows(&rows, ES_OBJECT_CHECKPOINT, AccessShareLock, snapshot, projection, 0, 0);
	tuple = EsRowsNext(&rows);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		Datum values[CHECKPOINT_NCOLUMNS];
		bool nulls[CHECKPOINT_NCOLUMNS];

		EsCatalogRead(rows.table, tuple, CHECKPOINT_NCOLUMNS, values, nulls);
		checkpoint->position = DatumGetInt64(values[CHECKPOINT_POSITION]);
		checkpoint->stopped = DatumGetBool(values[CHECKPOINT_STOPPED]);
		if (!nulls[CHECKPOINT_ERROR])
			checkpoint->error = TextDatumGetCString(values[CHECKPOINT_ERROR]);
		if (!nulls[CHECKPOINT_ERROR_POSITION])
			checkpoint->error_position = DatumGetInt64(values[CHECKPOINT_ERROR_POSITION]);
	}
	EsRowsClose(&rows);
	return found;
}

void
EsCheckpointForgetError(EsCheckpoint *checkpoint)
{
	checkpoint->stopped = false;
	checkpoint->error = NULL;
	checkpoint->error_position = 0;
}

void
EsCheckpointWrite(const char *projection, const EsCheckpoint *checkpoint)
{
	Datum values[CHECKPOINT_NCOLUMNS] = {0};
	bool nulls[CHECKPOINT_NCOLUMNS] = {false};
	EsRows rows;
	HeapTuple old;
	HeapTuple tuple;

	values[CHECKPOINT_PROJECTION] = CStringGetTextDatum(projection);
	values[CHECKPOINT_POSITION] = Int64GetDatum(checkpoint->position);
	values[CHECKPOINT_STOPPED] = BoolGetDatum(checkpoint->stopped);
	nulls[CHECKPOINT_ERROR] = checkpoint->error == NULL;
	if (checkpoint->error != NULL)
		values[CHECKPOINT_ERROR] = CStringGetTextDatum(checkpoint->error);
	nulls[CHECKPOINT_ERROR_POSITION] = checkpoint->error_position == 0;
	values[CHECKPOINT_ERROR_POSITION] = Int64GetDatum(checkpoint->error_position);

	open_rows(&rows, ES_OBJECT_CHECKPOINT, RowExclusiveLock, GetLatestSnapshot(), projection, 0, 0);
	tuple = EsCatalogRow(rows.table, CHECKPOINT_NCOLUMNS, values, nulls);
	old = EsRowsNext(&rows);
	if (HeapTupleIsValid(old))
		CatalogTupleUpdate(rows.table, &old->t_self, tuple);
	else
		CatalogTupleInsert(rows.table, tuple);
	EsRowsClose(&rows);
	heap_freetuple(tuple);
	CommandCounterIncrement();
}

void
EsCheckpointRemove(const char *projection)
{
	EsRows rows;
	HeapTuple tuple;

	open_rows(&rows, ES_OBJECT_CHECKPOINT, RowExclusiveLock, GetLatestSnapshot(), projection, 0, 0);
	tuple = EsRowsNext(&rows);
	if (HeapTupleIsValid(tuple))
		CatalogTupleDelete(rows.table, &tuple->t_self);
	EsRowsClose(&rows);
	CommandCounterIncrement();
}

void
EsCheckpointPark(const char *projection, int64 position, const char *reason)
{
	Relation table = table_open(EsCatalogOid(ES_OBJECT_PARKED), RowExclusiveLock);
	Datum values[PARKED_NCOLUMNS];
	bool nulls[PARKED_NCOLUMNS] = {false};

	values[PARKED_PROJECTION] = CStringGetTextDatum(projection);
	values[PARKED_POSITION] = Int64GetDatum(position);
	values[PARKED_REASON] = CStringGetTextDatum(reason);
	values[PARKED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	CatalogTupleInsert(table, EsCatalogRow(table, PARKED_NCOLUMNS, values, nulls));
	table_close(table, NoLock);
	CommandCounterIncrement();
}

int64
EsCheckpointUnpark(const char *projection, int64 position)
{
	int64 count = 0;
	EsRows rows;
	HeapTuple tuple;

	open_rows(&rows, ES_OBJECT_PARKED, RowExclusiveLock, GetLatestSnapshot(), projection,
			  position == 0 ? 0 : BTEqualStrategyNumber, position);
	while (HeapTupleIsValid(tuple = EsRowsNext(&rows)))
	{
		CHECK_FOR_INTERRUPTS();
		CatalogTupleDelete(rows.table, &tuple->t_self);
		count++;
	}
	EsRowsClose(&rows);
	CommandCounterIncrement();
	return count;
}

int64
EsCheckpointNextParked(const char *projection, int64 after)
{
	int64 next = 0;
	EsRows rows;
	HeapTuple tuple;

	open_rows(&rows, ES_OBJECT_PARKED, AccessShareLock, GetLatestSnapshot(), projection,
			  BTGreaterStrategyNumber, after);
	tuple = EsRowsNext(&rows);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;

		next = DatumGetInt64(heap_getattr(tuple, PARKED_POSITION + 1, RelationGetDescr(rows.table),
										  &isnull));
	}
	EsRowsClose(&rows);
	return next;
}

int64 *
EsCheckpointParkedAt(const char *projection, Snapshot snapshot, int *nparked)
{
	int allocated = 16;
	int64 *parked = palloc(sizeof(int64) * allocated);
	EsRows rows;
	HeapTuple tuple;

	*nparked = 0;
	open_rows(&rows, ES_OBJECT_PARKED, AccessShareLock, snapshot, projection, 0, 0);
	while (HeapTupleIsValid(tuple = EsRowsNext(&rows)))
	{
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		if (*nparked == allocated)
		{
			allocated *= 2;
			parked = repalloc_huge(parked, sizeof(int64) * allocated);
		}
		parked[(*nparked)++] = DatumGetInt64(heap_getattr(tuple, PARKED_POSITION + 1,
														  RelationGetDescr(rows.table), &isnull));
	}
	EsRowsClose(&rows);
	return parked;
}

/* Takes the lock of who brings a state table up to date; false: it is not available. */
static bool
lock_checkpoint(Oid target, bool dont_wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, target, ES_LOCK_CHECKPOINT);
	return LockAcquire(&tag, ExclusiveLock, false, dont_wait) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Starts to read the projection's rows in one of the two tables: all of them
 * (strategy 0), or those at (equal) or above (greater) a position.
 */
static void
open_rows(EsRows *rows, EsObject table, LOCKMODE lockmode, Snapshot snapshot,
		  const char *projection, StrategyNumber strategy, int64 position)
{
	rows->nkeys = 0;
	EsRowsKeyText(rows, 1, projection);
	if (strategy != 0)
		EsRowsKey(rows, 2, strategy,
				  strategy == BTGreaterStrategyNumber ? F_INT8GT : F_INT8EQ,
				  Int64GetDatum(position));
	EsRowsOpen(rows, table,
			   table == ES_OBJECT_PARKED ? ES_OBJECT_PARKED_PKEY : ES_OBJECT_CHECKPOINT_PKEY,
			   lockmode, snapshot);
}
