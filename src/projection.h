/*
 * projection.h
 *	  The registry of projections, cached and compiled.
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

#include "postgres.h"

#include "acting.h"
#include "apply.h"
#include "key.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

/* A statement that keeps a projection. */
typedef struct EsStatement
{
	text *event_type; /* null: every other type, or (batch) all events */
	char *statement;
} EsStatement;

/* Which events to apply: visible ones above after, no more than max_events. */
typedef struct EsRange
{
	int64 after;
	int64 up_to;
	int64 max_events;
	/* Statements only: the snapshot (null: the latest) and which of the events (null: all). */
	Snapshot snapshot;
	bool (*passes)(TupleTableSlot *event, const void *arg);
	const void *arg;
} EsRange;

/* What applying events came to. */
typedef struct EsApplied
{
	int64 events;         /* that the projection wanted */
	int64 rows;           /* that the state table has gained */
	int64 up_to_position; /* of the last event read; where it began, if there was none */
	int64 bound;          /* nothing above was looked for */
	bool all;             /* the range was not cut short by max_events */
} EsApplied;

/* A fold: what the rows of a state table are computed with. */
typedef struct EsFold
{
	EsKey *key;
	EsApply *apply;
	ExprContext *key_econtext; /* for key and for apply: reset them after each event */
	ExprContext *econtext;
	List *handlers; /* of EsHandler, as the projection's statements; key and apply are null then */
	bool valid;
} EsFold;

typedef struct EsProjection
{
	char *name;
	Oid target;
	Oid owner;             /* of the state table, when it was last opened */
	char *apply;           /* null: kept by statements */
	List *statements;      /* of EsStatement */
	bool batch;            /* the only statement is for many events */
	char *key;             /* null: the aggregate's id */
	List *aggregate_types; /* of text; NIL: all */
	List *event_types;     /* of text; NIL: all */
	bool async;            /* not maintained by the writers */
	bool park;             /* async: go on after an event that fails */
	bool protect;
	bool enabled;
	ArrayType *settings;

	EsFold *fold; /* null: not compiled */
	MemoryContext fold_context;
	int64 last_position;   /* of the last event applied in this transaction */
	uint64 transaction;    /* that last_position is of */
	int64 failed_position; /* of the event that it has failed on last; 0: not known */
} EsProjection;

/*
 * Brackets every use of the cache: what the functions below return stays valid
 * until the outermost EsProjectionsLeave(), or the end of the transaction.
 */
extern void EsProjectionsEnter(void);
extern void EsProjectionsLeave(void);

/*
 * Frees a projection's compiled fold that has failed in a subtransaction, after the
 * rollback, if nobody but the caller uses the cache.
 */
extern void EsProjectionRecover(EsProjection *projection);

/* Returns the projections (EsProjection *), by name, as of the latest commit. */
extern List *EsProjections(void);

/* Returns the projection of that name; raises SE006 if there is none. */
extern EsProjection *EsProjectionFind(const char *name);

/* The same, but null if there is none. */
extern EsProjection *EsProjectionLookup(const char *name);

/* Says whether the current user owns the projection, that is its state table. */
extern bool EsProjectionIsOwned(EsProjection *projection);

/* Raises 42501 unless he does. */
extern void EsProjectionCheckOwner(EsProjection *projection);

/* Says whether writers maintain the projection; else it has a checkpoint. */
extern bool EsProjectionIsLive(EsProjection *projection);

/*
 * Returns the position up to which visible events may be applied: of a live
 * projection all, because the caller has locked out its writers; of another one
 * those that are settled, because it will go on from there.
 */
extern int64 EsProjectionBound(EsProjection *projection);

/*
 * Adds to the set the places, in the list that EsProjections() returns, of the
 * live projections that want the event.  The cost hardly depends on the others.
 */
extern Bitmapset *EsProjectionsWanting(Bitmapset *wanted, TupleTableSlot *event);

/* Says whether the event passes the projection's filters. */
extern bool EsProjectionMatches(EsProjection *projection, TupleTableSlot *event);

/*
 * Locks the state table and opens it.  Returns null when the projection is no
 * longer what it was: then look it up again.
 */
extern Relation EsProjectionOpen(EsProjection *projection, LOCKMODE lockmode);

/*
 * Finds the projection, for its owner only (SE006, 42501), and opens its state
 * table with the lock.
 */
extern EsProjection *EsProjectionOpenOwned(const char *name, LOCKMODE lockmode, Relation *target);

/* Returns the projection's fold, compiled as its owner.  The caller has opened the state table. */
extern EsFold *EsProjectionFold(EsProjection *projection, Relation target);

/*
 * Compiles a fold with another function in CurrentMemoryContext, to be evaluated
 * as the projection's owner, under its settings.
 */
extern EsFold *EsProjectionFoldWith(EsProjection *projection, Relation target, Oid function);

/* Becomes the projection's owner, to evaluate its fold; ends with EsActingEnd(). */
extern void EsProjectionAct(EsProjection *projection, EsActing *acting);

/*
 * Keeps events in position order; an error if one comes after an event that
 * follows it, since the transaction began or EsProjectionRewind().
 */
extern void EsProjectionAdvance(EsProjection *projection, int64 position);
extern void EsProjectionRewind(EsProjection *projection);

/*
 * Returns a number that changes whenever a projection, or anything that can be
 * compiled into a fold, may have changed.
 */
extern uint64 EsProjectionChanges(void);

/* Has the fold compiled anew when it is used next. */
extern void EsProjectionReset(EsProjection *projection);

/*
 * Rethrows the current error as SE008, naming the event it is about (may be
 * null), which is also noted in the projection.
 */
extern void EsProjectionFailed(EsProjection *projection, TupleTableSlot *event,
							   MemoryContext context);

/*
 * The same where a row can't be written that was folded from several events: known
 * is the position of the last one of them.
 */
extern void EsProjectionFailedAt(EsProjection *projection, int64 position, MemoryContext context);

#endif /* ES_PROJECTION_H */
