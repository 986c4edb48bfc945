/*
 * past.h
 *	  Reading the log as of a moment, with a projection's fold.
 */
#ifndef ES_PAST_H
#define ES_PAST_H

#include "postgres.h"

#include "fmgr.h"
#include "foldlog.h"

/* A moment in the history of the log, with the snapshot that shows all until then. */
typedef struct EsMoment
{
	int64 position;    /* PG_INT64_MAX: whatever is visible */
	TimestampTz as_of; /* recorded then or before; DT_NOEND: whenever */
} EsMoment;

/*
 * Makes a moment of two arguments, as_of_position and as_of, which may be null,
 * and pushes its snapshot, to be active until EsMomentEnd().  Raises an error
 * for a position below or at which events may yet appear.
 */
extern EsMoment EsMomentBegin(FunctionCallInfo fcinfo, int position_arg, int as_of_arg);
extern void EsMomentEnd(void);

/*
 * Finds a projection for somebody who may read its rows and the log (SE006,
 * 42501) and opens its state table with the lock.
 */
extern EsProjection *EsPastOpen(const char *name, LOCKMODE lockmode, Relation *target);

/* Raises SE009 unless the projection is a fold. */
extern void EsPastCheckFold(EsProjection *projection, const char *what);

/*
 * Returns the apply function that the text names (null: invalid, so the
 * projection's own).  Raises 42501 unless the current user owns the
 * projection, whose owner the function will run as.
 */
extern Oid EsPastFunction(EsProjection *projection, Relation target, const char *apply);

/* Describes a fold of the projection up to the moment. */
extern EsFoldSpec EsPastSpec(EsProjection *projection, Relation target, const EsMoment *moment);

#endif /* ES_PAST_H */
