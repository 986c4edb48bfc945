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
static FilterValue *find_place(EsFilterIndex *index, text *value, bool *is_there);
static int compare_values(const text *ta, const text *tb);

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
	FilterValue *place;
	bool is_there;

	if (index->nvalues == 0)
		return index->unfiltered;
	place = find_place(index, DatumGetTextPP(value), &is_there);
	return is_there ? place->members : index->unfiltered;
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
		bool is_there;
		FilterValue *place = find_place(index, lfirst(lc), &is_there);

		if (!is_there)
		{
			memmove(place + 1, place,
					sizeof(FilterValue) * (index->values + index->nvalues++ - place));
			place->value = lfirst(lc);
			place->members = NULL;
		}
		place->members = bms_add_member(place->members, number);
	}
}

/* Returns the place where the value is, or where it would have to be entered. */
static FilterValue *
find_place(EsFilterIndex *index, text *value, bool *is_there)
{
	int low = 0;
	int high = index->nvalues;

	*is_there = false;
	while (low < high)
	{
		int middle = low + (high - low) / 2;
		int order = compare_values(index->values[middle].value, value);

		if (order == 0)
		{
			*is_there = true;
			return &index->values[middle];
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return &index->values[low];
}

/* Any order will do that tells different values apart. */
static int
compare_values(const text *ta, const text *tb)
{
	Size la = VARSIZE_ANY_EXHDR(ta);
	Size lb = VARSIZE_ANY_EXHDR(tb);

	if (la != lb)
		return la < lb ? -1 : 1;
	return memcmp(VARDATA_ANY(ta), VARDATA_ANY(tb), la);
}
