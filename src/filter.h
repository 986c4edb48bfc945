/*
 * filter.h
 *	  Which of many projections want an event of a type.
 */
#ifndef ES_FILTER_H
#define ES_FILTER_H

#include "postgres.h"

#include "compat.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

typedef struct EsFilterIndex EsFilterIndex;

/*
 * Builds, in CurrentMemoryContext, an index of filters.  Filter number i is a
 * list of text, NIL for one that lets all values pass.
 */
extern EsFilterIndex *EsFilterIndexBuild(List *filters);

/* Returns the numbers of the filters that the value passes; not to be changed. */
extern Bitmapset *EsFilterIndexFind(EsFilterIndex *index, Datum value);

/* Says whether two texts have the same bytes. */
static inline bool
EsSameText(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* Says whether a filter, a list of text, lets the value pass. */
static inline bool
EsFilterPasses(List *filter, const text *value)
{
	ListCell *lc;

	if (filter == NIL)
		return true;
	foreach(lc, filter)
		if (EsSameText(lfirst(lc), value))
			return true;
	return false;
}

#endif /* ES_FILTER_H */
