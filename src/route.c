/*
 * route.c
 *	  The partition that a row of a partitioned state table belongs to.
 *
 * The primary key holds the partition key at every level, so the key of a row
 * is enough to find its leaf, and a row never moves to another one.
 * PostgreSQL's own tuple routing does the work, as in COPY.  It opens a leaf
 * when it comes to it for the first time, and locks it as an INSERT does: after
 * the root, which the caller has locked.
 *
 * A leaf may have its columns in another order than the root.  States, keys
 * and apply functions are about rows of the root.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/partition.h"
#include "direct.h"
#include "errors.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "route.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

struct EsRouter
{
	EState *estate;
	ResultRelInfo *root;
	ModifyTableState *mtstate;
	PartitionTupleRouting *routing;
	HTAB *leaves;
	EsLeaf *last;             /* found, or null */
	TupleTableSlot *key_row;  /* a row of the root that has only the key */
	TupleTableSlot *root_row; /* a leaf's row as one of the root */
};

static void open_leaf(EsRouter *router, EsLeaf *leaf, ResultRelInfo *result);

EsRouter *
EsRouterBegin(EState *estate, ResultRelInfo *root)
{
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	EsRouter *router = palloc0(sizeof(EsRouter));
	TupleDesc desc = RelationGetDescr(root->ri_RelationDesc);
	HASHCTL control = {0};

	router->estate = estate;
	router->root = root;
	router->mtstate = makeNode(ModifyTableState);
	router->mtstate->ps.state = estate;
	router->mtstate->operation = CMD_INSERT;
	router->mtstate->mt_nrels = 1;
	router->mtstate->resultRelInfo = root;
	router->mtstate->rootResultRelInfo = root;
	router->routing = ExecSetupPartitionTupleRouting(estate, root->ri_RelationDesc);

	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(EsLeaf);
	control.hcxt = estate->es_query_cxt;
	router->leaves = hash_create("es leaves", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	router->key_row = ExecInitExtraTupleSlot(estate, desc, &TTSOpsVirtual);
	router->root_row = ExecInitExtraTupleSlot(estate, desc, &TTSOpsVirtual);
	memset(router->key_row->tts_isnull, true, sizeof(bool) * desc->natts);
	MemoryContextSwitchTo(old);
	return router;
}

EsLeaf *
EsRouterFind(EsRouter *router, EsKey *key, const Datum *values)
{
	ResultRelInfo *result;
	bool found;

	for (int i = 0; i < key->ncolumns; i++)
	{
		int column = key->columns[i].attnum - 1;

		router->key_row->tts_values[column] = values[i];
		router->key_row->tts_isnull[column] = false;
	}
	ExecStoreVirtualTuple(router->key_row);
	result = ExecFindPartition(router->mtstate, router->root, router->routing, router->key_row,
							   router->estate);
	ExecClearTuple(router->key_row);
	ResetPerTupleExprContext(router->estate);

	if (router->last == NULL || router->last->result != result)
	{
		Oid relid = RelationGetRelid(result->ri_RelationDesc);
		EsLeaf *leaf = hash_search(router->leaves, &relid, HASH_ENTER, &found);

		if (!found)
			open_leaf(router, leaf, result);
		router->last = leaf;
	}
	return router->last;
}

List *
EsRouterLeaves(EsRouter *router)
{
	HASH_SEQ_STATUS scan;
	List *leaves = NIL;
	EsLeaf *leaf;

	hash_seq_init(&scan, router->leaves);
	while ((leaf = hash_seq_search(&scan)) != NULL)
		leaves = lappend(leaves, leaf);
	return leaves;
}

TupleTableSlot *
EsLeafFromRoot(EsLeaf *leaf, TupleTableSlot *row)
{
	if (leaf->from_root == NULL)
		return row;
	return execute_attr_map_slot(leaf->from_root->attrMap, row, leaf->row);
}

TupleTableSlot *
EsLeafToRoot(EsRouter *router, EsLeaf *leaf, TupleTableSlot *row)
{
	if (leaf->to_root != NULL)
		return execute_attr_map_slot(leaf->to_root->attrMap, row, router->root_row);
	if (leaf->has_missing)
		return ExecCopySlot(router->root_row, row);
	return row;
}

/* A leaf's index need not have the root's name or columns' numbers, nor be its primary key. */
Oid
EsLeafIndex(EsLeaf *leaf, Oid index)
{
	Relation table = leaf->result->ri_RelationDesc;
	List *indexes = RelationGetIndexList(table);
	Oid pkey = table->rd_pkindex; /* an invalidation below may take it from the relation cache */
	ListCell *lc;

	if (OidIsValid(pkey) && list_member_oid(get_partition_ancestors(pkey), index))
		return pkey;
	foreach(lc, indexes)
		if (list_member_oid(get_partition_ancestors(lfirst_oid(lc)), index))
			return lfirst_oid(lc);
	ereport(ERROR,
			(errcode(ES_ERRCODE_INVALID_PROJECTION),
			 errmsg("partition \"%s\" has no part of its state table's primary key",
					RelationGetRelationName(table))));
}

void
EsRouterEnd(EsRouter *router)
{
	ExecCleanupTupleRouting(router->mtstate, router->routing);
}

/* Fills in a leaf that was found for the first time. */
static void
open_leaf(EsRouter *router, EsLeaf *leaf, ResultRelInfo *result)
{
	MemoryContext old = MemoryContextSwitchTo(router->estate->es_query_cxt);
	TupleDesc root = RelationGetDescr(router->root->ri_RelationDesc);
	TupleDesc desc = RelationGetDescr(result->ri_RelationDesc);

	EsDirectOpenPartition(router->estate, router->root, result);
	leaf->result = result;
	leaf->from_root = convert_tuples_by_name(root, desc);
	leaf->to_root = convert_tuples_by_name(desc, root);
	leaf->has_missing = desc->constr != NULL && desc->constr->missing != NULL;
	leaf->row = ExecInitExtraTupleSlot(router->estate, desc,
									   table_slot_callbacks(result->ri_RelationDesc));
	leaf->data = NULL;
	MemoryContextSwitchTo(old);
}
