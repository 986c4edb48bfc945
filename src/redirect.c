/*
 * redirect.c
 *	  Having SQL statements use other storage in the place of a table.
 *
 * The statements of a projection name the state table.  To be run for the whole
 * log while the table is in use they must write somewhere else.  A heap is made
 * with the table's columns, check constraints, generated columns and indexes,
 * and while the redirection is on, the planner puts it into each query that it
 * plans, in the place of the table.  So the statement itself, views that it
 * reads, and queries of functions that it calls all see and change the new rows
 * only.  Plans made before are forgotten when the redirection begins, and those
 * made under it when it ends.
 *
 * What doesn't go through the planner is not redirected: TRUNCATE and COPY in a
 * function.  The trigger that protects the table refuses it.  The heap has no
 * triggers and no foreign keys.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/pg_attrdef.h"
#include "commands/cluster.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "errors.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "redirect.h"
#include "storage/lmgr.h"
#include "swap.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"

static const EsRedirect *redirect = NULL; /* that is on */
static planner_hook_type next_planner = NULL;

static void refuse(Relation table, const char *projection, const char *problem, const char *hint);
static void copy_constraints(Relation table, Relation heap);
static PlannedStmt *plan(Query *query, const char *text, int options, ParamListInfo params);
static bool put_storage(Node *node, void *context);
static void infer_arbiter(Query *query);

void
EsRedirectInit(void)
{
	next_planner = planner_hook;
	planner_hook = plan;
}

EsRedirect *
EsRedirectMake(Relation table, const char *projection, const char *hint)
{
	EsRedirect *made = palloc0(sizeof(EsRedirect));
	Relation heap;

	if (table->rd_rel->relkind != RELKIND_RELATION)
		refuse(table, projection, "is partitioned", hint);
	if (table->rd_rel->relhasrules)
		refuse(table, projection, "has rules", hint);
	made->table = RelationGetRelid(table);
	made->heap = make_new_heap(made->table, table->rd_rel->reltablespace, table->rd_rel->relam,
							   table->rd_rel->relpersistence, ShareUpdateExclusiveLock);
	/* Its name is seen in errors. */
	RenameRelationInternal(made->heap, ChooseRelationName(RelationGetRelationName(table), NULL, "replay", RelationGetNamespace(table), false),
						   true, false);
	CommandCounterIncrement();
	/* The executor wants the very locks that a query takes, though we have a stronger one. */
	LockRelationOid(made->heap, RowShareLock);
	LockRelationOid(made->heap, RowExclusiveLock);
	heap = table_open(made->heap, NoLock);
	copy_constraints(table, heap);
	table_close(heap, NoLock);
	CommandCounterIncrement();
	made->indexes = EsSwapBuildIndexes(table, made->heap);
	if (!EsSwapHasAll(made->indexes))
		refuse(table, projection, "has an exclusion constraint, or an index over whole rows", hint);
	return made;
}

void
EsRedirectBegin(EsRedirect *made)
{
	redirect = made;
	ResetPlanCache();
}

void
EsRedirectEnd(void)
{
	redirect = NULL;
	ResetPlanCache();
}

bool
EsRedirected(Oid table)
{
	return redirect != NULL && redirect->table == table;
}

static void
refuse(Relation table, const char *projection, const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_REPLAY_NOT_POSSIBLE),
			 errmsg("projection \"%s\" cannot be replayed beside its table", projection),
			 errdetail("Table \"%s\" %s.", RelationGetRelationName(table), problem),
			 errhint("%s", hint)));
}

/* Gives the heap the table's check constraints and generated columns. */
static void
copy_constraints(Relation table, Relation heap)
{
	TupleConstr *constraints = RelationGetDescr(table)->constr;
	List *checks = NIL;

	if (constraints == NULL)
		return;
	for (int i = 0; i < constraints->num_check; i++)
	{
		Constraint *check = makeNode(Constraint);

		check->contype = CONSTR_CHECK;
		check->conname = constraints->check[i].ccname;
		check->cooked_expr = constraints->check[i].ccbin;
		check->is_no_inherit = constraints->check[i].ccnoinherit;
		check->initially_valid = true;
		EsSetEnforced(check, &constraints->check[i]);
		checks = lappend(checks, check);
	}
	if (checks != NIL)
		(void) AddRelationNewConstraints(heap, NIL, checks, false, true, true, NULL);
	for (int i = 0; i < constraints->num_defval; i++)
	{
		AttrDefault *value = &constraints->defval[i];

		if (TupleDescAttr(RelationGetDescr(table), value->adnum - 1)->attgenerated != '\0')
			(void) EsStoreAttrDefault(heap, value->adnum, stringToNode(value->adbin));
	}
}

/* Plans a query, with the storage in the place of the table while that is so. */
static PlannedStmt *
plan(Query *query, const char *text, int options, ParamListInfo params)
{
	if (redirect != NULL)
		(void) put_storage((Node *) query, NULL);
	if (next_planner != NULL)
		return next_planner(query, text, options, params);
	return standard_planner(query, text, options, params);
}

static bool
put_storage(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION && rte->relid == redirect->table)
			rte->relid = redirect->heap;
		return false;
	}
	if (IsA(node, Query))
	{
		Query *query = (Query *) node;

		if (query->onConflict != NULL && OidIsValid(query->onConflict->constraint) &&
			rt_fetch(query->resultRelation, query->rtable)->relid == redirect->table)
			infer_arbiter(query);
		EsRedirectPermissions(query, redirect->table, redirect->heap);
		return query_tree_walker(query, put_storage, context, QTW_EXAMINE_RTES_BEFORE);
	}
	return expression_tree_walker(node, put_storage, context);
}

/* Turns ON CONFLICT ON CONSTRAINT into the columns of the constraint. */
static void
infer_arbiter(Query *query)
{
	OnConflictExpr *conflict = query->onConflict;
	Relation index = index_open(get_constraint_index(conflict->constraint), AccessShareLock);

	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		InferenceElem *element = makeNode(InferenceElem);
		AttrNumber column = index->rd_index->indkey.values[i];
		Oid type;
		int32 typmod;
		Oid collation;

		get_atttypetypmodcoll(redirect->table, column, &type, &typmod, &collation);
		element->expr = (Node *) makeVar(query->resultRelation, column, type, typmod, collation, 0);
		conflict->arbiterElems = lappend(conflict->arbiterElems, element);
	}
	conflict->constraint = InvalidOid;
	index_close(index, NoLock);
}
