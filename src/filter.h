/*
 * filter.h
 *	  Which of many projections want an event of a type.
 */
#ifndef ES_FILTER_H
#define ES_FILTER_H

#include "postgres.h"

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

#endif /* ES_FILTER_H */
