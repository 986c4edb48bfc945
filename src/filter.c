/*
 * filter.c
 *	  Which of many projections want an event of a type.
 *
 * A writer must not pay for the projections that don't want his event.  So the
 * values that occur in filters are sorted, each with the set of the filters
 * that it passes; those that let all values pass are in every set.
 */
#include "postgres.h"

#include "compat.h"
#include "filter.h"
#include "fmgr.h"

/* A value that occurs in filters. */
typedef struct FilterValue
{
	text *value;
	Bitmapset *members;
} FilterValue;

struct EsFilterIndex
{
	Bitmapset *unfiltered; /* pass any other value */
	FilterValue *values;   /* sorted */
	int nvalues;
};

static void add_filter(EsFilterIndex *index, int number, List *filter);
static FilterValue *find_value(EsFilterIndex *index, text *value);
static int compare_values(const void *a, const void *b);

EsFilterIndex *
EsFilterIndexBuild(List *filters)
{
	EsFilterIndex *index = palloc0(sizeof(EsFilterIndex));
	Size count = 0;
	int number = 0;
	ListCell *lc;

	foreach(lc, filters)
		count += list_length(lfirst(lc));
	index->values = palloc(sizeof(FilterValue) * Max(count, 1));
	foreach(lc, filters)
		add_filter(index, number++, lfirst(lc));
	for (int i = 0; i < index->nvalues; i++)
		index->values[i].members = bms_add_members(index->values[i].members, index->unfiltered);
	return index;
}

Bitmapset *
EsFilterIndexFind(EsFilterIndex *index, Datum value)
{
	FilterValue *found;

	if (index->nvalues == 0)
		return index->unfiltered;
	found = find_value(index, DatumGetTextPP(value));
	return found == NULL ? index->unfiltered : found->members;
}

/* Enters a filter, keeping the values sorted. */
static void
add_filter(EsFilterIndex *index, int number, List *filter)
{
	ListCell *lc;

	if (filter == NIL)
		index->unfiltered = bms_add_member(index->unfiltered, number);
	foreach(lc, filter)
	{
		FilterValue *found = find_value(index, lfirst(lc));

		if (found != NULL)
		{
			found->members = bms_add_member(found->members, number);
			continue;
		}
		found = &index->values[index->nvalues++];
		found->value = lfirst(lc);
		found->members = bms_make_singleton(number);
		qsort(index->values, index->nvalues, sizeof(FilterValue), compare_values);
	}
}

static FilterValue *
find_value(EsFilterIndex *index, text *value)
{
	FilterValue key = {.value = value};

	return bsearch(&key, index->values, index->nvalues, sizeof(FilterValue), compare_values);
}

/* Any order will do that tells different values apart. */
static int
compare_values(const void *a, const void *b)
{
	text *ta = ((const FilterValue *) a)->value;
	text *tb = ((const FilterValue *) b)->value;
	Size la = VARSIZE_ANY_EXHDR(ta);
	Size lb = VARSIZE_ANY_EXHDR(tb);

	if (la != lb)
		return la < lb ? -1 : 1;
	return memcmp(VARDATA_ANY(ta), VARDATA_ANY(tb), la);
}
