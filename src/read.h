/*
 * read.h
 *	  Reading settled events, filtered and in position order.
 */
#ifndef ES_READ_H
#define ES_READ_H

#include "postgres.h"

#include "tcop/dest.h"
#include "utils/array.h"

typedef enum EsReadFilter
{
	ES_READ_AGGREGATE_TYPES,
	ES_READ_EVENT_TYPES,
	ES_READ_SOURCES,
	ES_READ_AGGREGATE_IDS
} EsReadFilter;

#define ES_READ_NFILTERS (ES_READ_AGGREGATE_IDS + 1)

/* What to read: the first max_count (negative: all) events above after, up to up_to. */
typedef struct EsReadRange
{
	int64 after;
	int64 up_to;
	int64 max_count;
	ArrayType *filters[ES_READ_NFILTERS]; /* of text; null: any */
} EsReadRange;

/*
 * Sends rows of es.events to the receiver, until that wants no more.  The
 * snapshot is a new one, so up_to is a high-water mark, or below it, that the
 * caller has found before; READ COMMITTED only (EsRefuseFixedSnapshot).  Rights
 * are those of the current user.
 */
extern void EsRead(const EsReadRange *range, DestReceiver *dest);

/*
 * The same for a range without filters and with a max_count, without the cost of a
 * query.  The caller has seen to it that the current user may read all of the log.
 */
extern void EsReadUnfiltered(const EsReadRange *range, DestReceiver *dest);

#endif /* ES_READ_H */
