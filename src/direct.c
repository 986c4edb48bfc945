/*
 * direct.c
 *	  Changing rows of a table without a query.
 *
 * The executor's functions for triggers, constraints and indexes want to know
 * the query that they work for.  This is the least that they are content with,
 * as logical replication has it.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "compat.h"
#include "direct.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "nodes/bitmapset.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

static bool has_column_triggers(Relation table);
static void mark_columns_updated(EState *estate, RangeTblEntry *rte, ResultRelInfo *target);

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
	if (has_column_triggers(table))
		mark_columns_updated(estate, rte, *target);
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

/* Says whether a trigger of the table fires only for updates of certain columns. */
static bool
has_column_triggers(Relation table)
{
	TriggerDesc *triggers = table->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgnattr > 0)
			return true;
	return false;
}

/*
 * Has such triggers fire: an update is one of all columns.  Generated columns
 * are set up before, because from then on one would only be computed if it
 * depends on another column.
 */
static void
mark_columns_updated(EState *estate, RangeTblEntry *rte, ResultRelInfo *target)
{
	TupleDesc desc = RelationGetDescr(target->ri_RelationDesc);
	Bitmapset *columns = NULL;

	if (desc->constr != NULL && desc->constr->has_generated_stored)
		EsExecInitGenerated(target, estate, CMD_UPDATE);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0')
			columns = bms_add_member(columns, att->attnum - FirstLowInvalidHeapAttributeNumber);
	}
	EsUpdatedColumns(estate, rte) = columns;
}
