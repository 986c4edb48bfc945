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
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "commands/defrem.h"
#include "compat.h"
#include "miscadmin.h"
#include "progress.h"
#include "nodes/bitmapset.h"
#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "storage/proc.h"
#include "swap.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/relcache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define SWAP_WAIT     100   /* milliseconds of the first wait for the exclusive lock */
#define SWAP_PATIENCE 60000 /* milliseconds of waiting in all, without lock_timeout */

/* An index of the table, and the one that is to take its place; invalid: none. */
typedef struct SwapIndex
{
	Oid index;
	Oid copy;
} SwapIndex;

static bool can_copy(Relation index);
static Oid build_copy(Relation heap, Relation index);
pg_noreturn static void rename_in_error(MemoryContext context, Relation index);
static void transfer_predicate_locks(Relation table);
static void swap_files(Oid a, Oid b);
static void note_storage(Oid a, Oid b);
static void own_toast(Oid relid, Oid toast);
static void rename_toast(Relation table);
static bool try_lock(List *tables, int timeout);
static void lock_table(Oid relid, TimestampTz end);
static void lock_relation(Oid relid, LOCKMODE lockmode, TimestampTz end);
static void wait_for_grant(Oid relid, TimestampTz end);
static TransactionId changing_transaction(Oid relid);
static void lock_neighbours(List *tables, TimestampTz end);
static bool is_checked(Form_pg_constraint constraint, List *tables);
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

/*
 * An index that PostgreSQL can't make a copy of (of an exclusion constraint), or
 * that is over whole rows, whose type the heap doesn't share, is left to be built
 * in the end.
 */
List *
EsSwapBuildIndexes(Relation table, Oid heap_relid)
{
	Relation heap = table_open(heap_relid, NoLock);
	List *indexes = NIL;
	ListCell *lc;

	EsProgressPhase(ES_PHASE_INDEXING);
	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, RelationGetIndexList(table))
	{
		SwapIndex *swap = palloc0(sizeof(SwapIndex));
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		swap->index = RelationGetRelid(index);
		if (can_copy(index))
			swap->copy = build_copy(heap, index);
		index_close(index, NoLock);
		indexes = lappend(indexes, swap);
	}
	PopActiveSnapshot();
	table_close(heap, NoLock);
	return indexes;
}

bool
EsSwapHasAll(List *indexes)
{
	ListCell *lc;

	foreach(lc, indexes)
		if (!OidIsValid(((SwapIndex *) lfirst(lc))->copy))
			return false;
	return true;
}

Oid
EsSwapIndexOf(List *indexes, Oid index)
{
	ListCell *lc;

	foreach(lc, indexes)
	{
		SwapIndex *swap = lfirst(lc);

		if (swap->index == index)
			return swap->copy;
	}
	return InvalidOid;
}

/*
 * As PostgreSQL does at the end of CLUSTER, but the indexes change places with
 * those built beforehand.  So the table is locked for a moment only.
 */
void
EsSwapHeap(Relation table, Oid heap, List *indexes)
{
	Oid relid = RelationGetRelid(table);
	ObjectAddress object;
	ListCell *lc;

	CheckTableNotInUse(table, "rebuild");
	transfer_predicate_locks(table);
	swap_files(relid, heap);
	foreach(lc, indexes)
	{
		SwapIndex *swap = lfirst(lc);

		if (OidIsValid(swap->copy))
			swap_files(swap->index, swap->copy);
	}
	CommandCounterIncrement();
	foreach(lc, indexes)
	{
		SwapIndex *swap = lfirst(lc);
		ReindexParams params = {0};

		if (!OidIsValid(swap->copy))
			EsReindexIndex(swap->index, table->rd_rel->relpersistence, &params);
	}
	/* What has become the storage of the heap, and of its indexes, was the table's. */
	ObjectAddressSet(object, RelationRelationId, heap);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	rename_toast(table);
	RelationClearMissing(table);
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
		if (is_checked((Form_pg_constraint) GETSTRUCT(tuple), tables))
			check_foreign_key(tuple);
	}
	PopActiveSnapshot();
	systable_endscan(scan);
	table_close(constraints, AccessShareLock);
}

/* Says whether an index like this one can be built on a heap of another row type. */
static bool
can_copy(Relation index)
{
	Bitmapset *columns = NULL;

	if (index->rd_index->indisexclusion || !index->rd_index->indisvalid)
		return false;
	pull_varattnos((Node *) RelationGetIndexExpressions(index), 1, &columns);
	pull_varattnos((Node *) RelationGetIndexPredicate(index), 1, &columns);
	return !bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, columns);
}

/* Builds an index like another one on the heap, and returns its OID. */
static Oid
build_copy(Relation heap, Relation index)
{
	MemoryContext context = CurrentMemoryContext;
	char *name = ChooseRelationName(RelationGetRelationName(index), NULL, "replay",
									RelationGetNamespace(heap), false);
	Oid copy_relid = index_concurrently_create_copy(heap, RelationGetRelid(index),
													index->rd_rel->reltablespace, name);
	Relation copy;

	CommandCounterIncrement();
	copy = index_open(copy_relid, AccessExclusiveLock);
	PG_TRY();
	{
		index_build(heap, copy, BuildIndexInfo(copy), false, true);
	}
	PG_CATCH();
	{
		rename_in_error(context, index);
	}
	PG_END_TRY();
	index_close(copy, NoLock);
	index_set_state_flags(copy_relid, INDEX_CREATE_SET_READY);
	CommandCounterIncrement();
	index_set_state_flags(copy_relid, INDEX_CREATE_SET_VALID);
	CommandCounterIncrement();
	return copy_relid;
}

/* Rethrows an error about a copy in the name of the index that the user knows. */
static void
rename_in_error(MemoryContext context, Relation index)
{
	ErrorData *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
		PG_RE_THROW();
	FlushErrorState();
	error->message = psprintf("could not create unique index \"%s\"",
							  RelationGetRelationName(index));
	ReThrowError(error);
}

/*
 * Makes serializable transactions that have read some rows, or pages of indexes,
 * which will be others now, have read the whole table.
 */
static void
transfer_predicate_locks(Relation table)
{
	ListCell *lc;

	TransferPredicateLocksToHeapRelation(table);
	foreach(lc, RelationGetIndexList(table))
	{
		Relation index = index_open(lfirst_oid(lc), NoLock);

		TransferPredicateLocksToHeapRelation(index);
		index_close(index, NoLock);
	}
}

/*
 * Exchanges the storage of two tables, together with their toast tables, or of
 * two indexes.  The storage that a gets is of this transaction.
 */
static void
swap_files(Oid a, Oid b)
{
	Relation classes = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple tuple_a = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(a));
	HeapTuple tuple_b = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(b));
	Form_pg_class class_a = (Form_pg_class) GETSTRUCT(tuple_a);
	Form_pg_class class_b = (Form_pg_class) GETSTRUCT(tuple_b);
	FormData_pg_class was = *class_a;

#define EXCHANGE(field) (class_a->field = class_b->field, class_b->field = was.field)
	EXCHANGE(relfilenode);
	EXCHANGE(reltablespace);
	EXCHANGE(reltoastrelid);
	EXCHANGE(relpages);
	EXCHANGE(reltuples);
	EXCHANGE(relallvisible);
	EsExchangeAllFrozen();
	EXCHANGE(relfrozenxid);
	EXCHANGE(relminmxid);
#undef EXCHANGE
	note_storage(a, b);
	CatalogTupleUpdate(classes, &tuple_a->t_self, tuple_a);
	CatalogTupleUpdate(classes, &tuple_b->t_self, tuple_b);
	own_toast(a, class_a->reltoastrelid);
	own_toast(b, class_b->reltoastrelid);
	heap_freetuple(tuple_a);
	heap_freetuple(tuple_b);
	table_close(classes, RowExclusiveLock);
	EsRelationCloseStorage(a);
	EsRelationCloseStorage(b);
}

/* Tells the relation cache which of the two is of this transaction now. */
static void
note_storage(Oid a, Oid b)
{
	Relation rel_a = relation_open(a, NoLock);
	Relation rel_b = relation_open(b, NoLock);

	rel_b->rd_createSubid = rel_a->rd_createSubid;
	rel_b->EsNewStorageSubid = rel_a->EsNewStorageSubid;
	rel_b->EsFirstStorageSubid = rel_a->EsFirstStorageSubid;
	EsRelationAssumeNewStorage(rel_a);
	relation_close(rel_a, NoLock);
	relation_close(rel_b, NoLock);
}

/* Makes a toast table belong to the table whose it has become. */
static void
own_toast(Oid relid, Oid toast)
{
	ObjectAddress table;
	ObjectAddress object;

	if (!OidIsValid(toast))
		return;
	(void) deleteDependencyRecordsFor(RelationRelationId, toast, false);
	ObjectAddressSet(table, RelationRelationId, relid);
	ObjectAddressSet(object, RelationRelationId, toast);
	recordDependencyOn(&object, &table, DEPENDENCY_INTERNAL);
}

/* Names the toast table after the table that it belongs to now, as all are. */
static void
rename_toast(Relation table)
{
	Oid toast = table->rd_rel->reltoastrelid;
	Oid index;
	char name[NAMEDATALEN];

	if (!OidIsValid(toast))
		return;
	index = toast_get_valid_index(toast, NoLock);
	snprintf(name, NAMEDATALEN, "pg_toast_%u", RelationGetRelid(table));
	RenameRelationInternal(toast, name, true, false);
	snprintf(name, NAMEDATALEN, "pg_toast_%u_index", RelationGetRelid(table));
	RenameRelationInternal(index, name, true, true);
	CommandCounterIncrement();
	ResetRelRewrite(toast);
}

/* Tries for some milliseconds to lock all of them. */
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
			lock_table(lfirst_oid(lc), end);
		lock_neighbours(tables, end);
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

/*
 * Locks a table with what will get other storage or go with it.  The indexes and
 * the toast table can be locked alone: by ALTER INDEX, by autovacuum.
 */
static void
lock_table(Oid relid, TimestampTz end)
{
	Relation table;
	ListCell *lc;

	lock_relation(relid, AccessExclusiveLock, end);
	table = table_open(relid, NoLock);
	if (table->rd_rel->relkind == RELKIND_RELATION)
	{
		foreach(lc, RelationGetIndexList(table))
			lock_relation(lfirst_oid(lc), AccessExclusiveLock, end);
		if (OidIsValid(table->rd_rel->reltoastrelid))
			lock_relation(table->rd_rel->reltoastrelid, AccessExclusiveLock, end);
		wait_for_grant(relid, end);
	}
	table_close(table, NoLock);
}

/* Locks a relation, or raises 55P03 if it can't be had up to a time. */
static void
lock_relation(Oid relid, LOCKMODE lockmode, TimestampTz end)
{
	LockTimeout = Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end));
	LockRelationOid(relid, lockmode);
}

/*
 * Waits for a transaction that has changed the table's entry in pg_class without
 * a lock on the table, which is what GRANT does.
 */
static void
wait_for_grant(Oid relid, TimestampTz end)
{
	TransactionId transaction;

	while (TransactionIdIsValid(transaction = changing_transaction(relid)))
	{
		LockTimeout = Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end));
		XactLockTableWait(transaction, NULL, NULL, XLTW_None);
	}
	AcceptInvalidationMessages();
}

/* Returns the transaction that is changing the entry; invalid: there is none. */
static TransactionId
changing_transaction(Oid relid)
{
	Relation classes = table_open(RelationRelationId, AccessShareLock);
	TransactionId transaction = InvalidTransactionId;
	SnapshotData dirty;
	SysScanDesc scan;
	ScanKeyData key;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(classes, ClassOidIndexId, true, &dirty, 1, &key);
	while (!TransactionIdIsValid(transaction) && HeapTupleIsValid(systable_getnext(scan)))
		transaction = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
	systable_endscan(scan);
	table_close(classes, AccessShareLock);
	return transaction;
}

/*
 * Locks the tables at the other ends of foreign keys, as the check of these will,
 * which then doesn't wait: for the replay of such a table, say, that waits for us.
 */
static void
lock_neighbours(List *tables, TimestampTz end)
{
	Relation constraints = table_open(ConstraintRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(constraints, InvalidOid, false, NULL, 0, NULL);
	List *neighbours = NIL;
	HeapTuple tuple;
	ListCell *lc;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_constraint constraint = (Form_pg_constraint) GETSTRUCT(tuple);

		if (is_checked(constraint, tables))
		{
			neighbours = list_append_unique_oid(neighbours, constraint->conrelid);
			neighbours = list_append_unique_oid(neighbours, constraint->confrelid);
		}
	}
	systable_endscan(scan);
	table_close(constraints, AccessShareLock);
	foreach(lc, neighbours)
		lock_relation(lfirst_oid(lc), RowShareLock, end);
}

/* Says whether a constraint is a foreign key of the tables' that is to be checked. */
static bool
is_checked(Form_pg_constraint constraint, List *tables)
{
	return constraint->contype == CONSTRAINT_FOREIGN && constraint->convalidated &&
		!OidIsValid(constraint->conparentid) &&
		(list_member_oid(tables, constraint->conrelid) ||
		 list_member_oid(tables, constraint->confrelid));
}

/* Checks all rows against a foreign key, as ALTER TABLE ... VALIDATE CONSTRAINT does. */
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
