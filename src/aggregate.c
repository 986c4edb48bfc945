/*
 * aggregate.c
 *	  Serialising the writers of one aggregate, and what the log knows of it.
 *
 * Locks.  A writer takes a heavyweight lock that is keyed by a hash of the
 * aggregate (and one keyed by the event id, if that is given), to the end of
 * its transaction.  The lock is fair, the deadlock detector sees it, pg_locks
 * shows it and it survives PREPARE TRANSACTION.  Two aggregates whose hashes
 * collide wait for each other, nothing worse.
 *
 * The lock table is finite.  A transaction that has taken
 * es.max_aggregate_locks of these locks takes each further one at session
 * level and lets it go when it takes the next of the same kind: rows are
 * inserted one by one (COPY does so because of our BEFORE trigger), so by then
 * the row is in the index.  From there on the row itself protects the version:
 * whoever wants the next one finds it with a dirty snapshot and waits for the
 * transaction that inserted it.  So the limit costs concurrency checks
 * nothing, and neither a unique violation nor a serialization failure comes
 * from it.  A transaction that comes back to such an aggregate must not wait for
 * the lock of somebody who waits for it: if the newest row is its own, the
 * lock is not needed, as its holder has found that row too.
 *
 * What is lost beyond the limit is the global order of EsAcquireKeyLocks(): two
 * batches of more aggregates than the limit can deadlock, and one of them gets
 * 40P01.
 *
 * Session level locks must not outlive the transaction, nor be held next to a
 * transaction level lock on the same tag, which PREPARE TRANSACTION refuses.
 * The callbacks see to the first, acquire() to the second.
 * pg_advisory_unlock_all() releases them too; the row still protects.
 *
 * Looking up.  SnapshotDirty sees committed rows, every row of the own
 * transaction (of the running command too) and the rows of transactions in
 * progress, for which we wait and look again.  In REPEATABLE READ and
 * SERIALIZABLE the row found must be visible to the transaction's snapshot,
 * otherwise the transaction would decide on history that it can't see: that
 * is PostgreSQL's own rule for UPDATE, and its 40001.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "aggregate.h"
#include "catalog.h"
#include "catalog/pg_collation_d.h"
#include "common/hashfn.h"
#include "compat.h"
#include "executor/executor.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

/* Transaction level locks taken at one nesting level, innermost first. */
typedef struct LevelCount
{
	int level;
	int count;
	struct LevelCount *outer;
} LevelCount;

/* A session level lock, held while a row is on its way into the index. */
typedef struct SessionLock
{
	bool held;
	LOCKTAG tag;
} SessionLock;

static int lock_count = 0;
static LevelCount *level_counts = NULL;
static SessionLock session_locks[2];

static uint64 hash_text(Datum value, uint64 seed);
static int compare_locks(const void *a, const void *b);
static bool acquire(EsKeyLock lock, bool try_beyond);
static void count_lock(void);
static SessionLock *session_lock(EsLockKind kind);
static void release_session_lock(SessionLock *lock);
static void register_callbacks(void);
static void end_transaction(XactEvent event, void *arg);
static void end_subtransaction(SubXactEvent event, SubTransactionId mySubid,
							   SubTransactionId parentSubid, void *arg);
static void aggregate_keys(ScanKey keys, Datum aggregate_type, Datum aggregate_id);
static bool find_newest(Relation events, EsObject index_object, ScanKey keys, int nkeys,
						TupleTableSlot *slot);
static bool is_recent(TransactionId xid);
static bool newest_is_own(Relation events, EsObject index_object, ScanKey keys, int nkeys);
static bool fetch_newest(Relation events, Relation index, ScanKey keys, int nkeys,
						 TupleTableSlot *slot, TransactionId *writer);
static TransactionId inserter(TupleTableSlot *slot);
static bool is_visible(Relation events, TupleTableSlot *slot);

/* Returns the lock that serialises the writers of an aggregate. */
EsKeyLock
EsAggregateLock(Datum aggregate_type, Datum aggregate_id)
{
	EsKeyLock lock;

	lock.kind = ES_LOCK_AGGREGATE;
	lock.key = hash_text(aggregate_id, hash_text(aggregate_type, 0));
	return lock;
}

/* Returns the lock that serialises the writers of an event id. */
EsKeyLock
EsEventIdLock(Datum event_id)
{
	EsKeyLock lock;

	lock.kind = ES_LOCK_EVENT_ID;
	lock.key = DatumGetUInt64(hash_any_extended((unsigned char *) DatumGetUUIDP(event_id),
												UUID_LEN, 0));
	return lock;
}

/* Takes the aggregate's lock, as far as it is needed. */
void
EsLockAggregate(Relation events, Datum aggregate_type, Datum aggregate_id)
{
	EsKeyLock lock = EsAggregateLock(aggregate_type, aggregate_id);
	ScanKeyData keys[2];

	if (acquire(lock, true))
		return;
	aggregate_keys(keys, aggregate_type, aggregate_id);
	if (!newest_is_own(events, ES_OBJECT_EVENTS_AGGREGATE, keys, 2))
		(void) acquire(lock, false);
}

/* Takes the event id's lock, as far as it is needed. */
void
EsLockEventId(Relation events, Datum event_id)
{
	EsKeyLock lock = EsEventIdLock(event_id);
	ScanKeyData key;

	if (acquire(lock, true))
		return;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, event_id);
	if (!newest_is_own(events, ES_OBJECT_EVENTS_EVENT_ID, &key, 1))
		(void) acquire(lock, false);
}

/*
 * Takes several locks in one order that is the same for everybody, so that
 * nobody who takes all his locks here can deadlock with another such one.
 * Beyond the limit a lock would not be kept, so none is taken.
 */
void
EsAcquireKeyLocks(EsKeyLock *locks, int nlocks)
{
	qsort(locks, nlocks, sizeof(EsKeyLock), compare_locks);
	for (int i = 0; i < nlocks && lock_count < EsMaxAggregateLocks; i++)
		if (i == 0 || compare_locks(&locks[i - 1], &locks[i]) != 0)
			(void) acquire(locks[i], false);
}

int
EsKeyLocksLeft(void)
{
	return Max(EsMaxAggregateLocks - lock_count, 0);
}

/*
 * Returns the aggregate's highest version, 0 if it does not exist.  Under the
 * aggregate's lock that is the version before the next one.
 */
int64
EsLastVersion(Relation events, Datum aggregate_type, Datum aggregate_id)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(events),
													table_slot_callbacks(events));
	ScanKeyData keys[2];
	int64 version = 0;
	bool isnull;

	aggregate_keys(keys, aggregate_type, aggregate_id);
	if (find_newest(events, ES_OBJECT_EVENTS_AGGREGATE, keys, 2, slot))
	{
		if (!is_visible(events, slot))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent append to aggregate %s \"%s\"",
							TextDatumGetCString(aggregate_type),
							TextDatumGetCString(aggregate_id)),
					 errhint("Retry the transaction.")));
		version = DatumGetInt64(slot_getattr(slot, ES_EVENT_VERSION, &isnull));
	}
	ExecDropSingleTupleTableSlot(slot);
	return version;
}

/*
 * Fetches the event with this id into the slot and returns true, if there is
 * one.  Under the event id's lock nobody can add one.
 */
bool
EsFindEvent(Relation events, Datum event_id, TupleTableSlot *slot)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, event_id);
	if (!find_newest(events, ES_OBJECT_EVENTS_EVENT_ID, &key, 1, slot))
		return false;
	if (!is_visible(events, slot))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent append of event %s",
						DatumGetCString(DirectFunctionCall1(uuid_out, event_id))),
				 errhint("Retry the transaction.")));
	return true;
}

/* Hashes a text's bytes, which decide equality in collation "C". */
static uint64
hash_text(Datum value, uint64 seed)
{
	text *t = DatumGetTextPP(value);

	return DatumGetUInt64(hash_any_extended((unsigned char *) VARDATA_ANY(t),
											VARSIZE_ANY_EXHDR(t), seed));
}

/* Orders locks: aggregates before event ids, then by key. */
static int
compare_locks(const void *a, const void *b)
{
	const EsKeyLock *la = a;
	const EsKeyLock *lb = b;

	if (la->kind != lb->kind)
		return la->kind < lb->kind ? -1 : 1;
	if (la->key != lb->key)
		return la->key < lb->key ? -1 : 1;
	return 0;
}

/*
 * Takes a lock: to the end of the transaction, or beyond the limit until the
 * next one of its kind is taken.  Returns false if try_beyond is true and a
 * lock beyond the limit would have to be waited for.
 */
static bool
acquire(EsKeyLock lock, bool try_beyond)
{
	SessionLock *session = session_lock(lock.kind);
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (lock.key >> 32), (uint32) lock.key,
						 lock.kind);
	if (session->held && memcmp(&session->tag, &tag, sizeof(tag)) == 0)
		return true;

	register_callbacks();
	if (lock_count < EsMaxAggregateLocks)
	{
		if (LockAcquire(&tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
			count_lock();
		return true;
	}

	if (EsLockHeldByMe(&tag, ExclusiveLock))
		return true;
	release_session_lock(session);
	if (LockAcquire(&tag, ExclusiveLock, true, try_beyond) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	session->tag = tag;
	session->held = true;
	return true;
}

/* Counts a lock at the current nesting level. */
static void
count_lock(void)
{
	int level = GetCurrentTransactionNestLevel();

	if (level_counts == NULL || level_counts->level != level)
	{
		LevelCount *inner = MemoryContextAlloc(TopTransactionContext, sizeof(LevelCount));

		inner->level = level;
		inner->count = 0;
		inner->outer = level_counts;
		level_counts = inner;
	}
	level_counts->count++;
	lock_count++;
}

/* Returns the place of the session level lock of this kind. */
static SessionLock *
session_lock(EsLockKind kind)
{
	return &session_locks[kind == ES_LOCK_AGGREGATE ? 0 : 1];
}

/* Releases a session level lock, unless somebody else has done so. */
static void
release_session_lock(SessionLock *lock)
{
	if (!lock->held)
		return;
	lock->held = false;
	if (EsLockHeldByMe(&lock->tag, ExclusiveLock))
		LockRelease(&lock->tag, ExclusiveLock, true);
}

/* Asks to be told of the ends of transactions and subtransactions. */
static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
	registered = true;
}

/*
 * Forgets the transaction's locks, and releases those at session level: before
 * PREPARE writes down what is held, otherwise after the rows are visible.
 */
static void
end_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			lock_count = 0;
			level_counts = NULL;
			/* FALLTHROUGH */
		case XACT_EVENT_PRE_PREPARE:
			release_session_lock(&session_locks[0]);
			release_session_lock(&session_locks[1]);
			break;
		default:
			break;
	}
}

/* Gives a committed subtransaction's count to its parent, takes back an aborted one's. */
static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
				   void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (level_counts == NULL || level_counts->level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		lock_count -= level_counts->count;
		level_counts = level_counts->outer;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		LevelCount *outer = level_counts->outer;

		if (outer != NULL && outer->level == level - 1)
		{
			outer->count += level_counts->count;
			level_counts = outer;
		}
		else
			level_counts->level = level - 1;
	}
}

/* Sets up the keys of an aggregate in the index on type, id and version. */
static void
aggregate_keys(ScanKey keys, Datum aggregate_type, Datum aggregate_id)
{
	ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID,
						   F_TEXTEQ, aggregate_type);
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID,
						   F_TEXTEQ, aggregate_id);
}

/*
 * Fetches the row at the end of the index range that the keys select, waiting
 * for the transaction that inserted it if that is still in progress.
 *
 * A scan reads the index page first and asks for the row's fate later.  In
 * between a transaction beyond the limit, which needs no lock after its own
 * row, can have inserted the next one and committed.  So the answer counts only if
 * the row's transaction had ended before the scan began: as the snapshot
 * says, or because an earlier scan has found it so.
 */
static bool
find_newest(Relation events, EsObject index_object, ScanKey keys, int nkeys, TupleTableSlot *slot)
{
	Relation index = index_open(EsCatalogOid(index_object), AccessShareLock);
	TransactionId ended = InvalidTransactionId;
	TransactionId writer;
	bool found;

	while ((found = fetch_newest(events, index, keys, nkeys, slot, &writer)))
	{
		TransactionId xid = inserter(slot);
		ItemPointerData tid = slot->tts_tid;

		if (!TransactionIdIsValid(writer) && (xid == ended || !is_recent(xid)))
			break;
		ExecClearTuple(slot);
		if (TransactionIdIsValid(writer))
			XactLockTableWait(writer, events, &tid, XLTW_InsertIndex);
		ended = xid;
		CHECK_FOR_INTERRUPTS();
	}
	index_close(index, AccessShareLock);
	return found;
}

/* Tells whether another transaction may have been in progress a moment ago. */
static bool
is_recent(TransactionId xid)
{
	return TransactionIdIsNormal(xid) && !TransactionIdIsCurrentTransactionId(xid) &&
		(!ActiveSnapshotSet() || XidInMVCCSnapshot(xid, GetActiveSnapshot()));
}

/* Tells whether the row at the end of the index range is the own transaction's. */
static bool
newest_is_own(Relation events, EsObject index_object, ScanKey keys, int nkeys)
{
	TupleTableSlot *slot =
		MakeSingleTupleTableSlot(RelationGetDescr(events), table_slot_callbacks(events));
	Relation index = index_open(EsCatalogOid(index_object), AccessShareLock);
	TransactionId writer;
	bool own;

	own = fetch_newest(events, index, keys, nkeys, slot, &writer) &&
		TransactionIdIsCurrentTransactionId(inserter(slot));
	index_close(index, AccessShareLock);
	ExecDropSingleTupleTableSlot(slot);
	return own;
}

/*
 * Fetches the row at the end of the index range that the keys select, and says
 * which other transaction is writing it, if one still is.
 */
static bool
fetch_newest(Relation events, Relation index, ScanKey keys, int nkeys, TupleTableSlot *slot,
			 TransactionId *writer)
{
	SnapshotData dirty;
	IndexScanDesc scan;
	bool found;

	InitDirtySnapshot(dirty);
	scan = EsIndexBeginScan(events, index, &dirty, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	found = index_getnext_slot(scan, BackwardScanDirection, slot);
	index_endscan(scan);
	*writer = dirty.xmin;
	return found;
}

/* Returns the transaction that inserted the row, or that it is frozen. */
static TransactionId
inserter(TupleTableSlot *slot)
{
	return HeapTupleHeaderGetXmin(ExecFetchSlotHeapTuple(slot, false, NULL)->t_data);
}

/* Tells whether the transaction may build on the row, which is not in progress elsewhere. */
static bool
is_visible(Relation events, TupleTableSlot *slot)
{
	return !IsolationUsesXactSnapshot() ||
		TransactionIdIsCurrentTransactionId(inserter(slot)) ||
		table_tuple_satisfies_snapshot(events, slot, GetTransactionSnapshot());
}
