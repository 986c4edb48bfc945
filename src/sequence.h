/*
 * sequence.h
 *	  Giving events their version and position.
 */
#ifndef ES_SEQUENCE_H
#define ES_SEQUENCE_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

/*
 * Called with events that are complete but for their position (and, ahead of
 * a batch, their version), before any of them is given one.  Whoever needs
 * the events of several aggregates applied in position order takes his locks
 * here: a lock taken later could be granted in another order than positions
 * were.  The slots have the row type of es.events.
 */
typedef void (*EsSerializeHookType)(TupleTableSlot **events, int nevents);

extern EsSerializeHookType EsSerializeHook;

/*
 * Tells whether this session loads a dump: rows then bring their position,
 * version and recorded_at, and projections must not run.
 */
extern bool EsRestoring(void);

/* Tells whether it would, if the extension were its role's: it may not be there yet. */
extern bool EsRestoreMarked(void);

/* An event that is already in the log. */
typedef struct EsStoredEvent
{
	int64 position;
	int64 version;
	pg_uuid_t event_id;
} EsStoredEvent;

/* What an append function tells the trigger of one row, and hears from it. */
typedef struct EsRowRequest
{
	TupleTableSlot *slot; /* the row is the one in this slot */
	bool has_expected;
	int64 expected;         /* version expected before the event */
	bool has_previous;      /* the call's previous row went into the log ... */
	uint64 previous;        /* ... and was this one for the trigger, which sets this */
	bool is_duplicate;      /* out: not inserted, the event is stored already ... */
	EsStoredEvent original; /* out: ... as this one */
} EsRowRequest;

/* Set by an append function around the insertion of one row. */
extern EsRowRequest *EsCurrentRequest;

/* Refuses an expectation that can't be meant. */
extern void EsCheckExpectation(int64 expected);

/*
 * Looks for an event of this id, whose lock must be held.  One that is the
 * same event is returned in *original, another one under this id is SE003.
 */
extern bool EsFindOriginal(Relation events, const Datum *values, EsStoredEvent *original);

#endif /* ES_SEQUENCE_H */
