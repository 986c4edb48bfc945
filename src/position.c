/*
 * position.c
 *	  Positions in the log, and up to where nothing can appear any more.
 *
 * Positions come from a sequence, so a lower one can become visible after a
 * higher one.  A reader that remembers the highest position it has seen would
 * miss the lower one.  The lock manager serves as the register of the
 * transactions that can still add a position:
 *
 * Writer, once per transaction, before its first position: read the
 * sequence's last value b, take a ShareLock on a tag of our own whose key is
 * b, and only then call nextval.  All its positions are greater than b.
 *
 * Reader: read the sequence's last value p, then look for such tags in the
 * lock table.  The mark is the least of p and every b found.  A snapshot that
 * is taken afterwards sees everything at or below the mark that will ever be
 * there:
 *
 * - A writer whose tag isn't in the table during the scan and that will take
 *   it later calls nextval after the scan, so it gets a position above p.
 * - A writer that has let go of its tag did so after its commit became visible
 *   to new snapshots (locks are released after ProcArrayEndTransaction, for a
 *   prepared transaction as well), or it has rolled back.
 * - A writer that read b and paused before it took its tag can make a later
 *   mark smaller than an earlier one.  The earlier one stays right: that
 *   writer's nextval comes after the later scan.
 *
 * Nothing else holds the mark back: not an idle transaction that has appended
 * nothing, not another database, not a rolled-back position.  A ShareLock
 * never waits here, because nobody takes another mode of these tags.
 *
 * The top bits of a position are the number of the node, so that several
 * databases never give out the same one (es.set_node_id()).  Nothing but the
 * sequence's value says which node this is, so a dump carries it along.
 *
 * A lock taken in a subtransaction goes with its rollback, so we remember at
 * which nesting level the tag was taken.
 *
 * Hot standbys don't see the primary's locks.  There the mark is the one that
 * was published last: a mark that somebody on the primary has stored in a
 * sequence, which is WAL-logged at once and leaves no dead rows.  It is right on
 * a standby for this reason: when the mark was computed, the transactions of
 * all events at or below it had let go of their tags or had none, so their
 * commit records were in the WAL already, and the sequence's record comes after
 * them.  WAL is replayed in its order, so where the published mark is seen, a
 * snapshot taken afterwards sees these commits.  (A base backup's pages can be
 * newer than the WAL replayed so far, but connections are let in only when it
 * has been replayed up to the end of the backup.)  Nothing dumps that sequence:
 * in a database that is being restored it would come before the events.
 *
 * A mark is right after a crash, too.  A position that was given out and then
 * rolled back need not be in the WAL on disk, so the sequence could come to it
 * once more; and whoever was told a mark above it would miss its event.  So the
 * sequence's WAL is flushed before a mark is told.  (The sequence writes a record
 * for every 32nd value only, and who commits flushes it anyway.)
 *
 * A session that loads a dump into an empty log brings positions of its own.
 * It holds a tag, too, as long as it lasts (EsPositionHold), so that nobody
 * takes the sequence's value for settled before the events are there.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "acting.h"
#include "aggregate.h"
#include "catalog.h"
#include "commands/sequence.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "position.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "version.h"
#include "wakeup.h"

/* So many positions of a node are never begun with, lest a transaction come to the next node's. */
#define NODE_RESERVE UINT64CONST(0x100000000)

#define POLL_INTERVAL 5 /* milliseconds between two looks at the log, unless the worker tells */
#define MIN_INTERVAL  3 /* milliseconds between two marks that a waiting session computes */

/* When the session has computed a mark. */
static TimestampTz computed_at = 0;

/* Nesting level at which this transaction took its tag; 0: it has none. */
static int tag_level = 0;

/* A transaction with a tag has ended, and its locks are about to be released. */
static bool tag_ended = false;

static void take_tag(Oid sequence);
static void lock_publishing(bool lock);
static bool published_mark(int64 *mark);
static int64 *known_mark(void);
static int64 least_in_flight(int64 mark);
static int64 last_value(Oid sequence);
static FormData_pg_sequence_data read_sequence(Oid sequence, XLogRecPtr *lsn);
static void release_resources(ResourceReleasePhase phase, bool is_commit, bool is_top_level,
							  void *arg);
static void end_transaction(XactEvent event, void *arg);
static void end_subtransaction(SubXactEvent event, SubTransactionId mySubid,
							   SubTransactionId parentSubid, void *arg);

ES_FUNCTION_INFO_V1(es_high_water_mark);
ES_FUNCTION_INFO_V1(es_publish_mark);

/* es.high_water_mark(): the position up to which the log is settled. */
Datum
es_high_water_mark(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(EsHighWaterMark());
}

/* Returns a new position, registering the transaction as in flight before. */
int64
EsPositionNext(void)
{
	Oid sequence = EsCatalogOid(ES_OBJECT_POSITION_SEQ);

	if (tag_level == 0)
		take_tag(sequence);
	return nextval_internal(sequence, false);
}

bool
EsPositionInFlight(void)
{
	return tag_level != 0;
}

/* Returns the last position that was given out, the one before the node's first if none. */
int64
EsPositionLast(void)
{
	return last_value(EsCatalogOid(ES_OBJECT_POSITION_SEQ));
}

/* Returns the high-water mark.  The order of the two reads is what counts. */
int64
EsHighWaterMark(void)
{
	FormData_pg_sequence_data data;
	XLogRecPtr lsn;
	int64 mark;

	if (RecoveryInProgress())
	{
		if (!published_mark(&mark))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the high-water mark is not known during recovery"),
					 errdetail("The primary has not published it."),
					 errhint("Call es.publish_mark() on the primary from time to time, or let the worker do it.")));
		return mark;
	}

	data = read_sequence(EsCatalogOid(ES_OBJECT_POSITION_SEQ), &lsn);
	mark = data.is_called ? data.last_value : data.last_value - 1;
	XLogFlush(lsn);
	mark = least_in_flight(mark);
	*known_mark() = Max(*known_mark(), mark);
	computed_at = GetCurrentTimestamp();
	return mark;
}

int64
EsHighWaterMarkKnown(void)
{
	return Max(*known_mark(), EsWakeupMark(EsCatalogOid(ES_OBJECT_POSITION_SEQ)));
}

bool
EsHighWaterMarkIsRecent(void)
{
	return !TimestampDifferenceExceeds(computed_at, GetCurrentTimestamp(), MIN_INTERVAL);
}

/* Returns where the session keeps the highest mark that it has computed of this log. */
static int64 *
known_mark(void)
{
	static Oid sequence = InvalidOid;
	static int64 mark = 0;

	if (sequence != EsCatalogOid(ES_OBJECT_POSITION_SEQ))
	{
		sequence = EsCatalogOid(ES_OBJECT_POSITION_SEQ);
		mark = 0;
	}
	return &mark;
}

/*
 * Returns the least of the mark and what the tags of this database say.  (To walk
 * through the processes' own lists of locks would hold fewer locks for less time,
 * but a transaction that is being prepared initialises its lists unlocked.)
 */
static int64
least_in_flight(int64 mark)
{
	LockData *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LOCKTAG *tag = &locks->locks[i].locktag;
		int64 bound;

		if (tag->locktag_type != LOCKTAG_ADVISORY ||
			tag->locktag_field4 != ES_LOCK_IN_FLIGHT ||
			tag->locktag_field1 != MyDatabaseId)
			continue;
		bound = (int64) (((uint64) tag->locktag_field2 << 32) | tag->locktag_field3);
		mark = Min(mark, bound);
	}
	pfree(locks->locks);
	pfree(locks);
	return mark;
}

/*
 * Looks at the sequence's page before at the lock table: while nobody appends,
 * a look costs a microsecond.  While many do, the mark moves all the time, and each
 * waiting session lets some events gather.
 */
int64
EsHighWaterMarkWait(int64 seen, TimestampTz until)
{
	int64 mark;

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		long poll = POLL_INTERVAL;

		mark = Max(seen, EsWakeupMark(EsCatalogOid(ES_OBJECT_POSITION_SEQ)));
		if (mark == seen && EsPositionLast() > seen)
		{
			if (EsHighWaterMarkIsRecent())
				poll = MIN_INTERVAL;
			else
				mark = Max(seen, EsHighWaterMark());
		}
		if (mark > seen || now >= until)
			break;
		EsWakeupSleep(ES_WAKEUP_MARK, TimestampDifferenceMilliseconds(now, until), poll);
	}
	EsWakeupSleepEnd();
	return mark;
}

/* es.publish_mark(): lets hot standbys know the high-water mark, and returns it. */
Datum
es_publish_mark(PG_FUNCTION_ARGS)
{
	int64 mark;

	PreventCommandIfReadOnly("es.publish_mark()");
	mark = EsHighWaterMark();
	EsHighWaterMarkPublish(mark);
	PG_RETURN_INT64(mark);
}

/*
 * What is published only grows, so that it ends up with the last mark whoever
 * comes first.  The lock is held for that long only, and the value stays
 * whatever becomes of the transaction.
 */
void
EsHighWaterMarkPublish(int64 mark)
{
	Oid sequence = EsCatalogOid(ES_OBJECT_PUBLISHED_SEQ);
	int64 published;

	if (!XLogStandbyInfoActive() || (published_mark(&published) && published >= mark))
		return;
	lock_publishing(true);
	if (!published_mark(&published) || published < mark)
	{
		EsActing acting;

		EsActingBegin(&acting, EsCatalogOwner(), NULL);
		(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(mark));
		EsActingEnd(&acting);
	}
	lock_publishing(false);
}

void
EsPositionHold(bool hold)
{
	static bool held = false;
	LOCKTAG tag;

	if (hold == held)
		return;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, ES_LOCK_IN_FLIGHT);
	if (hold)
		(void) LockAcquire(&tag, ShareLock, true, false);
	else if (EsLockHeldByMe(&tag, ShareLock))
		(void) LockRelease(&tag, ShareLock, true);
	held = hold;
}

int64
EsLogEstimate(void)
{
	Relation events = relation_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	BlockNumber pages;
	double tuples;
	double allvisfrac;

	estimate_rel_size(events, NULL, &pages, &tuples, &allvisfrac);
	relation_close(events, AccessShareLock);
	return (int64) tuples;
}

/* Registers the transaction as one that may add positions above the last value. */
static void
take_tag(Oid sequence)
{
	static bool registered = false;
	uint64 bound;
	LOCKTAG tag;

	if (!registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
		RegisterResourceReleaseCallback(release_resources, NULL);
		registered = true;
	}

	bound = (uint64) last_value(sequence);
	if ((bound & ES_NODE_MASK) > ES_NODE_MASK - NODE_RESERVE)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("node %d has no positions left", (int) ES_NODE_OF(bound))));
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (bound >> 32), (uint32) bound,
						 ES_LOCK_IN_FLIGHT);
	(void) LockAcquire(&tag, ShareLock, false, false);
	tag_level = GetCurrentTransactionNestLevel();
}

/* Keeps others from publishing a mark, or no longer. */
static void
lock_publishing(bool lock)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, ES_LOCK_PUBLISH);
	if (lock)
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	else
		(void) LockRelease(&tag, ExclusiveLock, false);
}

/* Reads the mark that was published last; false: none was. */
static bool
published_mark(int64 *mark)
{
	FormData_pg_sequence_data data = read_sequence(EsCatalogOid(ES_OBJECT_PUBLISHED_SEQ), NULL);

	*mark = data.last_value;
	return data.is_called;
}

/* Returns the last value that the sequence has given out, the one before its first if none. */
static int64
last_value(Oid sequence)
{
	FormData_pg_sequence_data data = read_sequence(sequence, NULL);

	return data.is_called ? data.last_value : data.last_value - 1;
}

/*
 * Reads the sequence's page, because the SQL functions ask for the caller's
 * rights.  *lsn (unless null) is set to the end of the page's last WAL record.
 */
static FormData_pg_sequence_data
read_sequence(Oid sequence, XLogRecPtr *lsn)
{
	Relation rel = relation_open(sequence, AccessShareLock);
	Buffer buffer = ReadBuffer(rel, 0);
	FormData_pg_sequence_data data;
	Page page;
	HeapTupleHeader tuple;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	memcpy(&data, (char *) tuple + tuple->t_hoff, sizeof(data));
	if (lsn != NULL)
		*lsn = PageGetLSN(page);
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return data;
}

/* Forgets the tag when the transaction has ended or is prepared. */
static void
end_transaction(XactEvent event, void *arg)
{
	if (tag_level == 0 ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	tag_level = 0;
	tag_ended = true;
}

/* Tells the worker when the lock is really gone. */
static void
release_resources(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (!tag_ended || !is_top_level || phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;
	tag_ended = false;
	EsWakeupWriterEnded();
}

/* Forgets the tag with its subtransaction, or hands it to the parent. */
static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
				   void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (tag_level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		tag_level = 0;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		tag_level = level - 1;
}
