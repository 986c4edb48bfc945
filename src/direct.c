/*
 * direct.c
 *	  Changing rows of a table without a query.
 *
 * The executor's functions for triggers, constraints and indexes want to know
 * the query that they work for.  This is the least that they are content with,
 * as logical replication has it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "direct.h"
#include "executor/executor.h"
#include "utils/snapmgr.h"

EState *
EsDirectBegin(Relation table, ResultRelInfo **target)
{
	EState *estate = CreateExecutorState();
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(table);
	rte->relkind = table->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
	EsInitRangeTable(estate, rte);
	estate->es_snapshot = GetActiveSnapshot();
	estate->es_output_cid = GetCurrentCommandId(true);

	*target = makeNode(ResultRelInfo);
	InitResultRelInfo(*target, table, 1, NULL, 0);
	estate->es_opened_result_relations = list_make1(*target);
	ExecOpenIndices(*target, false);
	MemoryContextSwitchTo(caller);
	return estate;
}

void
EsDirectEnd(EState *estate)
{
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecCloseResultRelations(estate);
	FreeExecutorState(estate);
}
