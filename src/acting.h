/*
 * acting.h
 *	  Acting as another role, with the settings that its code was made under.
 */
#ifndef ES_ACTING_H
#define ES_ACTING_H

#include "postgres.h"

#include "nodes/nodes.h"
#include "utils/array.h"

typedef struct EsActing
{
	Oid userid;
	int sec_context;
	int guc_level; /* settings that are made above it are undone */
} EsActing;

/*
 * Becomes role, security-restricted, and gives the settings ("name=value", as
 * in pg_proc.proconfig; null for none) to what runs until EsActingEnd().  An
 * error in between needs no clean-up: the end of the (sub)transaction resets
 * both.  What settings the code itself makes is undone by EsActingEnd().
 */
extern void EsActingBegin(EsActing *acting, Oid role, ArrayType *settings);
extern void EsActingEnd(EsActing *acting);

/* Says whether a planned expression can depend on the settings. */
extern bool EsActingNeedsSettings(Node *expr);

/* Returns the current values of the settings that code may depend on. */
extern ArrayType *EsActingSettings(void);

/*
 * Says whether the detail of an error, raised by code of another role that has
 * written relid, shows a row that the session's user may not read.
 */
extern bool EsActingHidesDetail(const ErrorData *error, Oid relid);

#endif /* ES_ACTING_H */
