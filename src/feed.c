/*
 * feed.c
 *	  Reading the log once for several processes.
 *
 * Each of the processes wants other events, those of its keys, and all want
 * them in physical order.  If each read the whole log, then reading, checking
 * visibility and computing keys would take as long as in one process, and be
 * most of the work where there are many.  So each event is read by one of them,
 * which leaves it for the others with its key's hash.
 *
 * The log is divided into chunks of some blocks.  A process reads the next chunk
 * in order if it is there.  If it is not, because somebody is still filling it
 * or nobody has begun, the process fills the first one that nobody has begun.
 * The chunks lie in a ring of slots, so one can be begun as soon as all have
 * read the chunk whose slot it takes.
 *
 * A process may need the log several times.  The numbers of the chunks go on
 * from one pass to the next, and a pass begins at a multiple of their number.
 * All take part in the same passes, except who is away meanwhile: he comes back
 * to the pass that the others are in if its first chunk is still there, or else
 * to the next one.  Chunks of the rest of a pass that nobody wants are left out.
 *
 * Nobody waits for ever.  The slowest reader wants a chunk that has been begun,
 * or that it can begin, or is not waiting at all.  Who begins a chunk wants it
 * himself, so it is not left out meanwhile, and does nothing else before it is
 * filled.  A process that fails ends the others (see parallel.c).
 *
 * The mutex protects what changes in EsFeed, and filled of the chunks.  The rest
 * of a chunk belongs to the one that fills it, then to the readers.
 */
#include "postgres.h"

#include "feed.h"
#include "pgstat.h"
#include "postmaster/bgworker_internals.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"

#define MAX_SLOTS 64

/* The tuples of a block take no more than the block, but for their lengths and alignment. */
#define BLOCK_DATA (BLCKSZ + MaxHeapTuplesPerPage * (sizeof(uint64) + MAXIMUM_ALIGNOF))
#define SLOT_SIZE  (MAXALIGN(offsetof(EsFeedChunk, data)) + ES_FEED_BLOCKS * BLOCK_DATA)

#define AWAY PG_UINT64_MAX

typedef struct Reader
{
	uint64 next; /* the chunk that it will read next; or AWAY */
	uint64 end;  /* of its pass */
} Reader;

struct EsFeed
{
	slock_t mutex;
	ConditionVariable changed;
	BlockNumber nblocks;
	uint64 nchunks; /* in a pass */
	int nslots;
	int nreaders;
	uint64 next_fill; /* the first chunk that nobody has begun */
	Reader readers[MAX_PARALLEL_WORKER_LIMIT];
};

static int slot_count(int max_readers);
static EsFeedChunk *slot_of(EsFeed *feed, uint64 number);
static bool find_turn(EsFeed *feed, int reader, EsFeedTurn *turn, EsFeedChunk **chunk);
static uint64 join_at(EsFeed *feed);
static void move_to(EsFeed *feed, int reader, uint64 next);
static uint64 slowest(EsFeed *feed);

Size
EsFeedSize(int max_readers)
{
	return MAXALIGN(sizeof(EsFeed)) + slot_count(max_readers) * SLOT_SIZE;
}

void
EsFeedInit(EsFeed *feed, BlockNumber nblocks, int max_readers)
{
	memset(feed, 0, sizeof(EsFeed));
	SpinLockInit(&feed->mutex);
	ConditionVariableInit(&feed->changed);
	feed->nblocks = nblocks;
	feed->nchunks = nblocks / ES_FEED_BLOCKS + (nblocks % ES_FEED_BLOCKS != 0);
	feed->nslots = slot_count(max_readers);
	for (int i = 0; i < feed->nslots; i++)
		slot_of(feed, i)->filled = false;
}

void
EsFeedStart(EsFeed *feed, int nreaders)
{
	feed->nreaders = nreaders;
}

void
EsFeedBegin(EsFeed *feed, int number)
{
	Reader *reader = &feed->readers[number];

	SpinLockAcquire(&feed->mutex);
	if (reader->next == AWAY)
		reader->next = join_at(feed);
	reader->end = reader->next + feed->nchunks;
	SpinLockRelease(&feed->mutex);
}

EsFeedTurn
EsFeedNext(EsFeed *feed, int reader, EsFeedChunk **chunk)
{
	EsFeedTurn turn;

	for (;;)
	{
		bool found;

		SpinLockAcquire(&feed->mutex);
		found = find_turn(feed, reader, &turn, chunk);
		SpinLockRelease(&feed->mutex);
		if (found)
			break;
		ConditionVariableSleep(&feed->changed, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return turn;
}

void
EsFeedPut(EsFeedChunk *chunk, HeapTuple tuple, uint32 hash)
{
	EsFeedEvent *event = &chunk->events[chunk->nevents++];
	char *data = (char *) chunk + MAXALIGN(offsetof(EsFeedChunk, data)) + chunk->used;

	event->hash = hash;
	event->offset = chunk->used;
	*(uint64 *) data = tuple->t_len;
	memcpy(data + sizeof(uint64), tuple->t_data, tuple->t_len);
	chunk->used += sizeof(uint64) + MAXALIGN(tuple->t_len);
}

void
EsFeedFilled(EsFeed *feed, EsFeedChunk *chunk)
{
	SpinLockAcquire(&feed->mutex);
	chunk->filled = true;
	SpinLockRelease(&feed->mutex);
	ConditionVariableBroadcast(&feed->changed);
}

void
EsFeedDone(EsFeed *feed, int reader)
{
	move_to(feed, reader, feed->readers[reader].next + 1);
}

void
EsFeedSkip(EsFeed *feed, int reader)
{
	move_to(feed, reader, feed->readers[reader].end);
}

void
EsFeedLeave(EsFeed *feed, int reader)
{
	move_to(feed, reader, AWAY);
}

/* Returns how many chunks there is room for: some to read, and one for each to fill. */
static int
slot_count(int max_readers)
{
	return Min(2 * max_readers + 2, MAX_SLOTS);
}

static EsFeedChunk *
slot_of(EsFeed *feed, uint64 number)
{
	char *slots = (char *) feed + MAXALIGN(sizeof(EsFeed));

	return (EsFeedChunk *) (slots + number % feed->nslots * SLOT_SIZE);
}

/* Finds what the reader can do; false: nothing.  The caller holds the mutex. */
static bool
find_turn(EsFeed *feed, int number, EsFeedTurn *turn, EsFeedChunk **chunk)
{
	Reader *reader = &feed->readers[number];
	uint64 oldest;

	*turn = ES_FEED_END;
	if (reader->next == reader->end)
		return true;

	*turn = ES_FEED_READ;
	*chunk = slot_of(feed, reader->next);
	if (reader->next < feed->next_fill && (*chunk)->filled)
		return true;

	*turn = ES_FEED_FILL;
	oldest = slowest(feed);
	feed->next_fill = Max(feed->next_fill, oldest);
	if (feed->next_fill < reader->next || feed->next_fill >= reader->end ||
		feed->next_fill - oldest >= feed->nslots)
		return false;
	*chunk = slot_of(feed, feed->next_fill);
	(*chunk)->filled = false;
	(*chunk)->first = feed->next_fill % feed->nchunks * ES_FEED_BLOCKS;
	(*chunk)->nblocks = Min(ES_FEED_BLOCKS, feed->nblocks - (*chunk)->first);
	(*chunk)->nevents = 0;
	(*chunk)->used = 0;
	feed->next_fill++;
	return true;
}

/* Returns where a reader who was away begins: the first chunk of a pass. */
static uint64
join_at(EsFeed *feed)
{
	uint64 begun;

	if (feed->nchunks == 0)
		return 0;
	begun = feed->next_fill / feed->nchunks * feed->nchunks;
	return feed->next_fill - begun <= feed->nslots ? begun : begun + feed->nchunks;
}

static void
move_to(EsFeed *feed, int reader, uint64 next)
{
	SpinLockAcquire(&feed->mutex);
	feed->readers[reader].next = next;
	SpinLockRelease(&feed->mutex);
	ConditionVariableBroadcast(&feed->changed);
}

/* Returns the chunk that the slowest reader will read next. */
static uint64
slowest(EsFeed *feed)
{
	uint64 next = AWAY;

	for (int i = 0; i < feed->nreaders; i++)
		next = Min(next, feed->readers[i].next);
	return next;
}
