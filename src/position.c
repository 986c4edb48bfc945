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
 * A lock taken in a subtransaction goes with its rollback, so we remember at
 * which nesting level the tag was taken.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "aggregate.h"
#include "catalog.h"
#include "commands/sequence.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "pgstat.h"
#include "position.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#define POLL_INTERVAL 5 /* milliseconds between two looks at the log */

/* Nesting level at which this transaction took its tag; 0: it has none. */
static int tag_level = 0;

static void take_tag(Oid sequence);
static int64 last_value(Oid sequence);
static void end_transaction(XactEvent event, void *arg);
static void end_subtransaction(SubXactEvent event, SubTransactionId mySubid,
							   SubTransactionId parentSubid, void *arg);

PG_FUNCTION_INFO_V1(es_high_water_mark);

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

/* Returns the last position that was given out, 0 if none. */
int64
EsPositionLast(void)
{
	return last_value(EsCatalogOid(ES_OBJECT_POSITION_SEQ));
}

/* Returns the high-water mark.  The order of the two reads is what counts. */
int64
EsHighWaterMark(void)
{
	int64 mark;
	LockData *locks;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the high-water mark is not known during recovery"),
				 errhint("Ask the primary: appends in flight are registered there.")));

	mark = last_value(EsCatalogOid(ES_OBJECT_POSITION_SEQ));
	locks = GetLockStatusData();
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
 * a look costs a microsecond.
 */
int64
EsHighWaterMarkWait(int64 seen, TimestampTz until)
{
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		int64 mark = EsPositionLast() > seen ? EsHighWaterMark() : seen;

		if (mark > seen || now >= until)
			return mark;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(POLL_INTERVAL, TimestampDifferenceMilliseconds(now, until)),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
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
		registered = true;
	}

	bound = (uint64) last_value(sequence);
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (bound >> 32), (uint32) bound,
						 ES_LOCK_IN_FLIGHT);
	(void) LockAcquire(&tag, ShareLock, false, false);
	tag_level = GetCurrentTransactionNestLevel();
}

/*
 * Returns the last value that the sequence has given out, 0 if none.  Reads
 * the sequence's page, because the SQL functions ask for the caller's rights.
 */
static int64
last_value(Oid sequence)
{
	Relation rel = relation_open(sequence, AccessShareLock);
	Buffer buffer = ReadBuffer(rel, 0);
	Page page;
	HeapTupleHeader tuple;
	Form_pg_sequence_data data;
	int64 result;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	data = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);
	result = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return result;
}

/* Forgets the tag when the transaction has ended or is prepared. */
static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		tag_level = 0;
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
