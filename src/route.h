/*
 * route.h
 *	  The partition that a row of a partitioned state table belongs to.
 */
#ifndef ES_ROUTE_H
#define ES_ROUTE_H

#include "postgres.h"

#include "access/tupconvert.h"
#include "key.h"
#include "nodes/execnodes.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

/* A partition that has rows, not partitions of its own. */
typedef struct EsLeaf
{
	Oid relid; /* first: the hash key */
	ResultRelInfo *result;
	TupleConversionMap *from_root; /* null: the columns are the same */
	TupleConversionMap *to_root;
	bool has_missing;    /* its rows may lack columns that were added with a default */
	TupleTableSlot *row; /* a row of the leaf */
	void *data;          /* the caller's; null at first */
} EsLeaf;

typedef struct EsRouter EsRouter;

/*
 * Starts finding leaves of root, the partitioned state table, which is the
 * only result relation of estate (see EsDirectBegin()).
 */
extern EsRouter *EsRouterBegin(EState *estate, ResultRelInfo *root);

/*
 * Returns the leaf for the rows of a key, which it opens when it is found for
 * the first time, with RowExclusiveLock.  Raises 23514 if there is none.
 */
extern EsLeaf *EsRouterFind(EsRouter *router, EsKey *key, const Datum *values);

/* Returns all leaves that were found. */
extern List *EsRouterLeaves(EsRouter *router);

/* Turn a row of the root into one of the leaf, and the reverse; valid until the next call. */
extern TupleTableSlot *EsLeafFromRoot(EsLeaf *leaf, TupleTableSlot *row);
extern TupleTableSlot *EsLeafToRoot(EsRouter *router, EsLeaf *leaf, TupleTableSlot *row);

/* Returns the leaf's own part of an index of the root. */
extern Oid EsLeafIndex(EsLeaf *leaf, Oid index);

/* Closes the leaves; before EsDirectEnd(). */
extern void EsRouterEnd(EsRouter *router);

#endif /* ES_ROUTE_H */
