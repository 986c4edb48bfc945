/*
 * gap.c
 *	  Ranges of the log in which there is nothing for a stream.
 *
 * A consumer that polls, or waits, doesn't read again what it has read in
 * vain.  A gap is a fact of the log, which nothing changes below the high-water
 * mark, whatever becomes of the transaction that has found it.  (What is not
 * delivered because it was put aside is no such fact.)
 *
 * It holds for this log: a new CREATE EXTENSION makes another one.
 */
#include "postgres.h"

#include "catalog.h"
#include "gap.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

typedef struct Gap
{
	int32 stream; /* key */
	int64 from;
	int64 up_to;
	TimestampTz asked_at;
} Gap;

static HTAB *gaps(void);
static Gap *enter(const EsStream *stream);

void
EsGapLearn(const EsStream *stream, int64 up_to)
{
	Gap *gap = enter(stream);

	if (gap->from <= stream->checkpoint && stream->checkpoint <= gap->up_to)
		gap->up_to = Max(gap->up_to, up_to);
	else
	{
		gap->from = stream->checkpoint;
		gap->up_to = up_to;
	}
}

int64
EsGapEnd(const EsStream *stream)
{
	Gap *gap = hash_search(gaps(), &stream->id, HASH_FIND, NULL);

	if (gap != NULL && gap->from <= stream->checkpoint && stream->checkpoint <= gap->up_to)
		return gap->up_to;
	return stream->checkpoint;
}

bool
EsGapDue(const EsStream *stream, int interval)
{
	TimestampTz now = GetCurrentTimestamp();
	Gap *gap = enter(stream);

	if (!TimestampDifferenceExceeds(gap->asked_at, now, interval))
		return false;
	gap->asked_at = now;
	return true;
}

/* Returns the session's gaps, without those of another log. */
static HTAB *
gaps(void)
{
	static HTAB *table = NULL;
	static Oid log = InvalidOid;
	HASHCTL ctl = {.keysize = sizeof(int32), .entrysize = sizeof(Gap)};

	if (table != NULL && log != EsCatalogOid(ES_OBJECT_EVENTS))
	{
		hash_destroy(table);
		table = NULL;
	}
	log = EsCatalogOid(ES_OBJECT_EVENTS);
	if (table == NULL)
		table = hash_create("es gaps", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	return table;
}

static Gap *
enter(const EsStream *stream)
{
	bool found;
	Gap *gap = hash_search(gaps(), &stream->id, HASH_ENTER, &found);

	if (!found)
		gap->from = gap->up_to = gap->asked_at = 0;
	return gap;
}
