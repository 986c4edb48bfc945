/*
 * direct.h
 *	  Changing rows of a table without a query.
 */
#ifndef ES_DIRECT_H
#define ES_DIRECT_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "utils/rel.h"

/*
 * Returns an executor state with the table, open and locked by the caller, as
 * its only result relation, which *target is set to; its indexes are open.
 */
extern EState *EsDirectBegin(Relation table, ResultRelInfo **target);

/*
 * Readies a partition of such a table, opened by PostgreSQL's tuple routing,
 * before its rows are changed.
 */
extern void EsDirectOpenPartition(EState *estate, ResultRelInfo *root, ResultRelInfo *partition);

/* Frees it; the table stays open. */
extern void EsDirectEnd(EState *estate);

#endif /* ES_DIRECT_H */
