/*
 * swap.c
 *	  Putting a new heap in the place of a table's own.
 *
 * The exclusive lock is asked for in short waits, because whoever comes to the
 * table meanwhile queues behind us.  Someone who has read the table and then
 * appends is let through, as the weaker lock that we hold is not in his way;
 * so there is no deadlock.  If the lock can't be had in time, the rebuild fails
 * and the table stays as it was.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/multixact.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "commands/cluster.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "progress.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "swap.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define SWAP_WAIT     100   /* milliseconds of the first wait for the exclusive lock */
#define SWAP_PATIENCE 60000 /* milliseconds of waiting in all, without lock_timeout */

static bool try_lock(List *tables, int timeout);
static void check_foreign_key(HeapTuple tuple);

/*
 * While we wait for a lock, those who come to the table queue behind us, so one
 * wait is short; between two of them they get through, as all locks are given
 * back.  Where that isn't enough, because there is always some reader, the
 * waits grow.  They become longer than deadlock_timeout: while a projection is
 * created, es.events is locked too, and a transaction that has read the table
 * and now waits to append will never let us in; the deadlock detector is to
 * say so.
 */
void
EsSwapLock(Relation state, List *tables)
{
	TimestampTz start = GetCurrentTimestamp();
	int patience = LockTimeout > 0 ? LockTimeout : SWAP_PATIENCE;
	int timeout = SWAP_WAIT;

	EsProgressPhase(ES_PHASE_WAITING);
	while (!try_lock(tables, timeout))
	{
		timeout = Min(timeout * 2, DeadlockTimeout + SWAP_WAIT);
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), patience))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not lock state table \"%s\" to swap its rows",
							RelationGetRelationName(state)),
					 errdetail("Other transactions that have read the table were still open after %d ms.",
							   patience),
					 errhint("End them and try again, or set lock_timeout to wait longer. "
							 "The table is as it was.")));
		CHECK_FOR_INTERRUPTS();
		pg_usleep(SWAP_WAIT * 1000L);
	}
}

void
EsSwapHeap(Relation table, Oid heap)
{
	EsProgressPhase(ES_PHASE_INDEXING);
	CheckTableNotInUse(table, "rebuild");
	finish_heap_swap(RelationGetRelid(table), heap, false, false, true, true, RecentXmin,
					 ReadNextMultiXactId(), table->rd_rel->relpersistence);
}

/*
 * A foreign key from or to a partitioned table is checked as a whole, and so
 * are the constraints below it, which PostgreSQL has made for each partition.
 */
void
EsSwapCheckForeignKeys(List *tables)
{
	Relation constraints = table_open(ConstraintRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(constraints, InvalidOid, false, NULL, 0, NULL);
	HeapTuple tuple;

	EsProgressPhase(ES_PHASE_CHECKING);
	PushActiveSnapshot(GetLatestSnapshot());
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_constraint constraint = (Form_pg_constraint) GETSTRUCT(tuple);

		if (constraint->contype == CONSTRAINT_FOREIGN && constraint->convalidated &&
			!OidIsValid(constraint->conparentid) &&
			(list_member_oid(tables, constraint->conrelid) ||
			 list_member_oid(tables, constraint->confrelid)))
			check_foreign_key(tuple);
	}
	PopActiveSnapshot();
	systable_endscan(scan);
	table_close(constraints, AccessShareLock);
}

/* Tries for some milliseconds to get AccessExclusiveLock on all of them. */
static bool
try_lock(List *tables, int timeout)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int saved_timeout = LockTimeout;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	volatile bool locked = true;
	ListCell *lc;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		foreach(lc, tables)
		{
			LockTimeout = Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end));
			LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
		}
		LockTimeout = saved_timeout;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		LockTimeout = saved_timeout;
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
		locked = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return locked;
}

/* Checks all rows against a foreign key, as ALTER TABLE … VALIDATE CONSTRAINT does. */
static void
check_foreign_key(HeapTuple tuple)
{
	Form_pg_constraint constraint = (Form_pg_constraint) GETSTRUCT(tuple);
	Relation referencing = table_open(constraint->conrelid, RowShareLock);
	Relation referenced = table_open(constraint->confrelid, RowShareLock);
	Trigger trigger = {0};

	trigger.tgname = NameStr(constraint->conname);
	trigger.tgenabled = TRIGGER_FIRES_ON_ORIGIN;
	trigger.tgisinternal = true;
	trigger.tgconstrrelid = RelationGetRelid(referenced);
	trigger.tgconstrindid = constraint->conindid;
	trigger.tgconstraint = constraint->oid;
	if (!RI_Initial_Check(&trigger, referencing, referenced))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot check foreign key \"%s\"", NameStr(constraint->conname)),
				 errhint("Grant SELECT on both tables.")));
	table_close(referenced, NoLock);
	table_close(referencing, NoLock);
}
