/*
 * foldlog.h
 *	  Folding the log into states.
 */
#ifndef ES_FOLDLOG_H
#define ES_FOLDLOG_H

#include "postgres.h"

#include "feed.h"
#include "projection.h"
#include "state.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* The states of some of the keys, all their events folded. */
typedef struct EsFoldedPart
{
	EsKey *key;
	EsStates *states;
	int slices;    /* into which the range of hashes is divided ... */
	int slice;     /* ... the part is in this one */
	int bits;      /* its keys are those whose place in it starts with these bits ... */
	uint32 number; /* ... of this value */
} EsFoldedPart;

/* Takes a part, whose states are gone afterwards. */
typedef void (*EsPartTaker)(const EsFoldedPart *part, void *arg);

/* What to fold. */
typedef struct EsFoldSpec
{
	EsProjection *projection;
	Relation target;           /* its state table */
	Oid function;              /* to fold with instead of the projection's own; or invalid */
	int64 up_to_position;      /* leave out the events above */
	const TimestampTz *as_of;  /* leave out those recorded later; or null */
	const pg_uuid_t *excluded; /* leave out those with these ids, in ascending order */
	int nexcluded;
	const int64 *parked; /* leave out those at these positions, in ascending order */
	int nparked;
	EsStates *only; /* fold the events of these keys only; or null */
	int slices;     /* leave out all but one of so many slices of the keys; or 0 */
	int slice;
	EsFeed *feed; /* read the log from here, as the reader of this number; or null */
	int reader;
} EsFoldSpec;

typedef struct EsFolded
{
	int64 events;         /* folded */
	int64 up_to_position; /* of the last event read, folded or not */
} EsFolded;

/*
 * Folds the events that the active snapshot sees, as the projection's owner,
 * and has each part of the keys taken once, as the current user.
 */
extern EsFolded EsFoldLog(const EsFoldSpec *spec, EsPartTaker take, void *arg);

/* Says whether the spec does not leave the event out by its time, id or position. */
extern bool EsFoldPasses(const EsFoldSpec *spec, TupleTableSlot *event, int64 position);

/* Becomes the projection's owner, to evaluate what belongs to the fold; ends with EsActingEnd(). */
extern void EsFoldAct(const EsFoldSpec *spec, EsActing *acting);

/* Says whether the part has the key of this hash. */
static inline bool
EsPartHas(const EsFoldedPart *part, uint32 hash)
{
	uint64 place = (uint64) hash * part->slices;

	return (int) (place >> 32) == part->slice &&
		(part->bits == 0 || (uint32) place >> (32 - part->bits) == part->number);
}

#endif /* ES_FOLDLOG_H */
