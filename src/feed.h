/*
 * feed.h
 *	  Reading the log once for several processes.
 */
#ifndef ES_FEED_H
#define ES_FEED_H

#include "postgres.h"

#include "access/htup_details.h"
#include "compat.h"
#include "storage/block.h"

/* Blocks of the log that one process reads for all. */
#define ES_FEED_BLOCKS 32

typedef struct EsFeedEvent
{
	uint32 hash;   /* of its key */
	uint32 offset; /* of its length and tuple in the chunk's data */
} EsFeedEvent;

/* The events of some blocks. */
typedef struct EsFeedChunk
{
	bool filled;
	BlockNumber first;
	BlockNumber nblocks;
	uint32 nevents;
	uint32 used; /* bytes of data */
	EsFeedEvent events[ES_FEED_BLOCKS * MaxHeapTuplesPerPage];
	char data[FLEXIBLE_ARRAY_MEMBER];
} EsFeedChunk;

/* What a process is to do next. */
typedef enum EsFeedTurn
{
	ES_FEED_FILL, /* put the chunk's events, then EsFeedFilled() */
	ES_FEED_READ, /* take what it wants of the chunk, then EsFeedDone() */
	ES_FEED_END   /* the pass is over */
} EsFeedTurn;

/* In shared memory. */
typedef struct EsFeed EsFeed;

extern Size EsFeedSize(int max_readers);
extern void EsFeedInit(EsFeed *feed, BlockNumber nblocks, int max_readers);

/* Tells how many processes are going to read, before the first of them does. */
extern void EsFeedStart(EsFeed *feed, int nreaders);

/* Begins a pass of the reader through the log. */
extern void EsFeedBegin(EsFeed *feed, int reader);

/* Tells the reader what to do, and waits until there is something. */
extern EsFeedTurn EsFeedNext(EsFeed *feed, int reader, EsFeedChunk **chunk);
extern void EsFeedPut(EsFeedChunk *chunk, HeapTuple tuple, uint32 hash);
extern void EsFeedFilled(EsFeed *feed, EsFeedChunk *chunk);
extern void EsFeedDone(EsFeed *feed, int reader);

/* Ends the pass: the reader will not read the rest of it. */
extern void EsFeedSkip(EsFeed *feed, int reader);

/* Tells that the reader will not begin a pass for long, so that nobody waits for it. */
extern void EsFeedLeave(EsFeed *feed, int reader);

/* Makes tuple point to an event of a chunk, where it stays until EsFeedDone(). */
static inline void
EsFeedTuple(EsFeedChunk *chunk, uint32 event, HeapTuple tuple)
{
	char *data = (char *) chunk + MAXALIGN(offsetof(EsFeedChunk, data));

	data += chunk->events[event].offset;
	tuple->t_len = *(uint64 *) data;
	tuple->t_data = (HeapTupleHeader) (data + sizeof(uint64));
}

/* Fetches an event of a chunk into the processor's cache. */
static inline void
EsFeedPrefetch(EsFeedChunk *chunk, uint32 event)
{
	char *data = (char *) chunk + MAXALIGN(offsetof(EsFeedChunk, data));

	EsPrefetch(data + chunk->events[event].offset);
	EsPrefetch(data + chunk->events[event].offset + PG_CACHE_LINE_SIZE / 2);
}

#endif /* ES_FEED_H */
