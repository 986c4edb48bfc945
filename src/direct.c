/*
 * direct.c
 *	  Changing rows of a table without a query.
 *
 * The executor's functions for triggers, constraints and indexes want to know
 * the query that they work for.  This is the least that they are content with,
 * as logical replication has it.
 *
 * An update is one of all columns to a trigger that fires for certain columns.
 * Without such a trigger no columns are marked as updated.  Then index access
 * methods take a new entry for one that only a new version of the row needs,
 * as it mostly is, and clear old ones away.
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
static void init_generated(EState *estate, ResultRelInfo *target);
static Bitmapset *all_columns(Relation table);

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
	{
		init_generated(estate, *target);
		EsUpdatedColumns(estate) = all_columns(table);
	}
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

void
EsDirectOpenPartition(EState *estate, ResultRelInfo *root, ResultRelInfo *partition)
{
	Bitmapset *columns = EsUpdatedColumns(estate);
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);

	EsUpdatedColumns(estate) = NULL;
	init_generated(estate, partition);
	if (columns == NULL && has_column_triggers(partition->ri_RelationDesc))
		columns = all_columns(root->ri_RelationDesc);
	EsUpdatedColumns(estate) = columns;
	MemoryContextSwitchTo(caller);
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
 * Sets the generated columns up for an update.  That must be before columns are
 * marked as updated: later, one would only be computed if it depends on them.
 */
static void
init_generated(EState *estate, ResultRelInfo *target)
{
	TupleConstr *constraints = RelationGetDescr(target->ri_RelationDesc)->constr;

	if (constraints != NULL && constraints->has_generated_stored)
		EsExecInitGenerated(target, estate, CMD_UPDATE);
}

/* Returns all columns that an UPDATE could set. */
static Bitmapset *
all_columns(Relation table)
{
	TupleDesc desc = RelationGetDescr(table);
	Bitmapset *columns = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0')
			columns = bms_add_member(columns, att->attnum - FirstLowInvalidHeapAttributeNumber);
	}
	return columns;
}
