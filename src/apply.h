/*
 * apply.h
 *	  The apply function of a fold projection, compiled.
 */
#ifndef ES_APPLY_H
#define ES_APPLY_H

#include "postgres.h"

#include "access/htup.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"

typedef struct EsApply EsApply;

/*
 * Returns the function that the text names, a name or a signature; invalid if
 * there is none.  A name alone is looked up with the state's and event's types.
 */
extern Oid EsApplyFind(Oid target, const char *text);

/*
 * Raises SE007 unless it is a function (state, es.events) -> state that is
 * immutable, not strict, and that the current user may call.  text names it
 * in the message that it does not exist.
 */
extern void EsApplyCheck(Relation target, Oid function, const char *text);

/* Returns the text that names the function under every search_path. */
extern char *EsApplyText(Oid function);

/* Compiles the function in CurrentMemoryContext, as the current user. */
extern EsApply *EsApplyCompile(Relation target, Oid function);

/* Says whether the function can depend on settings, so that they must be pinned. */
extern bool EsApplyPinned(EsApply *apply);

/* Returns what is evaluated: the call of the function, or what it was inlined to. */
extern Node *EsApplyExpr(EsApply *apply);

/*
 * Returns state' = apply(state, event), in the econtext's per-tuple memory.
 * A null state is a row that does not exist, or that goes.  Returns the very
 * state given when the event changes nothing.
 */
extern HeapTuple EsApplyEvent(EsApply *apply, ExprContext *econtext, HeapTuple state,
							  TupleTableSlot *event);

#endif /* ES_APPLY_H */
