/*
 * fill.c
 *	  Writing the rows that the log gives into a table of the same shape.
 *
 * The fold runs as the projection's owner, and its rows go into a tuplestore,
 * which work_mem bounds; statements write storage beside the state table.  Then
 * one INSERT reads the rows as a relation, as the current user: so privileges,
 * row-level security, defaults, constraints, triggers and partitions of the
 * table are what they are for any INSERT.  Only if the current user may do all
 * that the table's owner may, the rows of a fold are inserted as the owner:
 * what a superuser fills can then not do more than its owner.
 */
#include "postgres.h"

#include "catalog.h"
#include "catalog/dependency.h"
#include "catalog/pg_class_d.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fill.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "statement.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#define FOLDED "es_folded" /* name of the relation of rows */

/* A generated column of the state table that is none of the table. */
typedef struct Generated
{
	AttrNumber attnum;
	ExprState *value; /* over a row of the state table as scan tuple */
} Generated;

typedef struct Fill
{
	const EsFoldSpec *spec;
	TupleTableSlot *row;       /* of the state table */
	TupleTableSlot *completed; /* with the generated columns */
	EState *estate;
	List *generated; /* of Generated */
	EsKey *key;      /* of the part at work */
	Tuplestorestate *rows;
} Fill;

static int64 fold(Fill *fill, Relation table, const char *columns, int64 *up_to_position);
static char *column_list(Fill *fill, Relation table);
static bool takes_column(Fill *fill, Form_pg_attribute column, Relation table);
pg_noreturn static void wrong_shape(Relation table, Relation state, const char *detail);
static void add_generated(Fill *fill, Form_pg_attribute column);
static void keep_part(const EsFoldedPart *part, void *arg);
static void keep_state(EsStateEntry *entry, void *arg);
static TupleTableSlot *complete(Fill *fill);
static int64 insert_folded(Relation table, const char *columns, EphemeralNamedRelation folded);
static int64 insert_rows(Relation table, const char *columns, const char *source,
						 EphemeralNamedRelation given);
static int64 run_statements(const EsFoldSpec *spec, Relation table, const char *columns,
							int64 *up_to_position);
static bool passes(TupleTableSlot *event, const void *arg);

int64
EsFill(const EsFoldSpec *spec, Relation table, int64 *up_to_position)
{
	Fill *fill = palloc0(sizeof(Fill));
	char *columns;
	int64 count;

	fill->spec = spec;
	fill->estate = CreateExecutorState();
	columns = column_list(fill, table);
	if (spec->projection->apply != NULL)
		count = fold(fill, table, columns, up_to_position);
	else
		count = run_statements(spec, table, columns, up_to_position);
	FreeExecutorState(fill->estate);
	pfree(fill);
	return count;
}

/* Folds the log and inserts the rows. */
static int64
fold(Fill *fill, Relation table, const char *columns, int64 *up_to_position)
{
	TupleDesc desc = RelationGetDescr(fill->spec->target);
	EphemeralNamedRelation folded = palloc0(sizeof(EphemeralNamedRelationData));
	int64 count;

	fill->row = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	fill->completed = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	fill->rows = tuplestore_begin_heap(false, false, work_mem);
	*up_to_position = EsFoldLog(fill->spec, keep_part, fill).up_to_position;

	folded->md.name = pstrdup(FOLDED);
	folded->md.reliddesc = RelationGetRelid(fill->spec->target);
	folded->md.enrtype = ENR_NAMED_TUPLESTORE;
	folded->md.enrtuples = tuplestore_tuple_count(fill->rows);
	folded->reldata = fill->rows;
	count = insert_folded(table, columns, folded);

	tuplestore_end(fill->rows);
	ExecDropSingleTupleTableSlot(fill->completed);
	ExecDropSingleTupleTableSlot(fill->row);
	return count;
}

/* Returns the columns to insert, as SQL. */
static char *
column_list(Fill *fill, Relation table)
{
	TupleDesc desc = RelationGetDescr(fill->spec->target);
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (!column->attisdropped && takes_column(fill, column, table))
			appendStringInfo(&buf, "%s%s", buf.len == 0 ? "" : ", ",
							 quote_identifier(NameStr(column->attname)));
	}
	return buf.data;
}

/* Says whether a column of the state table is to be inserted. */
static bool
takes_column(Fill *fill, Form_pg_attribute column, Relation table)
{
	Relation state = fill->spec->target;
	const char *name = NameStr(column->attname);
	AttrNumber attnum = get_attnum(RelationGetRelid(table), name);
	Form_pg_attribute taker;

	if (attnum <= 0)
	{
		if (column->attgenerated != '\0')
			return false;
		wrong_shape(table, state, psprintf("It has no column \"%s\".", name));
	}
	taker = TupleDescAttr(RelationGetDescr(table), attnum - 1);
	if (taker->attgenerated != '\0' && column->attgenerated != '\0')
		return false;
	if (taker->attgenerated != '\0')
		wrong_shape(table, state, psprintf("Its column \"%s\" is generated.", name));
	if (taker->atttypid != column->atttypid && taker->atttypid != getBaseType(column->atttypid))
		wrong_shape(table, state,
					psprintf("Its column \"%s\" is of type %s, not %s.", name,
							 format_type_be(taker->atttypid), format_type_be(column->atttypid)));
	if (column->attgenerated != '\0' && column->attgenerated != ATTRIBUTE_GENERATED_STORED)
		wrong_shape(table, state,
					psprintf("Its column \"%s\" is not generated, and the state table does not store it.",
							 name));
	if (column->attgenerated != '\0')
		add_generated(fill, column);
	return true;
}

static void
wrong_shape(Relation table, Relation state, const char *detail)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_INVALID_PROJECTION),
			 errmsg("table \"%s\" is not of the shape of state table \"%s\"",
					RelationGetRelationName(table), RelationGetRelationName(state)),
			 errdetail_internal("%s", detail),
			 errhint("Create it as TABLE ... (LIKE %s INCLUDING ALL).",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(state)),
												RelationGetRelationName(state)))));
}

/* Prepares to compute a generated column, as the projection's owner. */
static void
add_generated(Fill *fill, Form_pg_attribute column)
{
	MemoryContext old = MemoryContextSwitchTo(fill->estate->es_query_cxt);
	Generated *generated = palloc(sizeof(Generated));
	EsActing acting;

	EsFoldAct(fill->spec, &acting);
	generated->attnum = column->attnum;
	generated->value =
		ExecPrepareExpr((Expr *) build_column_default(fill->spec->target, column->attnum),
						fill->estate);
	fill->generated = lappend(fill->generated, generated);
	EsActingEnd(&acting);
	MemoryContextSwitchTo(old);
}

/* Keeps the rows of a part, as the projection's owner. */
static void
keep_part(const EsFoldedPart *part, void *arg)
{
	Fill *fill = arg;
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	fill->key = part->key;
	EsFoldAct(fill->spec, &acting);
	PG_TRY();
	{
		EsStatesVisit(part->states, keep_state, fill);
	}
	PG_CATCH();
	{
		EsProjectionFailed(fill->spec->projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
}

static void
keep_state(EsStateEntry *entry, void *arg)
{
	Fill *fill = arg;

	CHECK_FOR_INTERRUPTS();
	if (entry->state == NULL)
		return;
	ExecStoreHeapTuple(entry->state, fill->row, false);
	EsStateCheckKey(fill->key, entry->key, fill->row);
	tuplestore_puttupleslot(fill->rows, fill->generated == NIL ? fill->row : complete(fill));
	ResetPerTupleExprContext(fill->estate);
}

/* Returns the row with its generated columns. */
static TupleTableSlot *
complete(Fill *fill)
{
	TupleTableSlot *completed = fill->completed;
	ExprContext *econtext = GetPerTupleExprContext(fill->estate);
	ListCell *lc;

	slot_getallattrs(fill->row);
	ExecClearTuple(completed);
	memcpy(completed->tts_values, fill->row->tts_values,
		   completed->tts_tupleDescriptor->natts * sizeof(Datum));
	memcpy(completed->tts_isnull, fill->row->tts_isnull,
		   completed->tts_tupleDescriptor->natts * sizeof(bool));
	econtext->ecxt_scantuple = fill->row;
	foreach(lc, fill->generated)
	{
		Generated *generated = lfirst(lc);
		int i = generated->attnum - 1;

		completed->tts_values[i] = ExecEvalExprSwitchContext(generated->value, econtext,
															 &completed->tts_isnull[i]);
	}
	return ExecStoreVirtualTuple(completed);
}

/* Inserts the columns of all folded rows, as the table's owner if the current user may. */
static int64
insert_folded(Relation table, const char *columns, EphemeralNamedRelation folded)
{
	Oid owner = table->rd_rel->relowner;
	EsActing acting;
	int64 count;

	if (owner == GetUserId() || !has_privs_of_role(GetUserId(), owner))
		return insert_rows(table, columns, FOLDED, folded);
	EsActingBegin(&acting, owner, NULL);
	count = insert_rows(table, columns, FOLDED, folded);
	EsActingEnd(&acting);
	return count;
}

/* Inserts the columns of all rows of source, a relation's name in SQL, which may be a given one. */
static int64
insert_rows(Relation table, const char *columns, const char *source, EphemeralNamedRelation given)
{
	char *schema = get_namespace_name(RelationGetNamespace(table));
	int64 count;

	SPI_connect();
	if ((given != NULL && SPI_register_relation(given) != SPI_OK_REL_REGISTER) ||
		SPI_execute(psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s",
							 quote_qualified_identifier(schema, RelationGetRelationName(table)),
							 columns, columns, source),
					false, 0) < 0)
		elog(ERROR, "could not insert into \"%s\"", RelationGetRelationName(table));
	count = SPI_processed;
	SPI_finish();
	return count;
}

/* Has the statements write storage beside the state table, and inserts what it has then. */
static int64
run_statements(const EsFoldSpec *spec, Relation table, const char *columns, int64 *up_to_position)
{
	EsRange range = {
		.up_to = spec->up_to_position,
		.max_events = PG_INT64_MAX,
		.snapshot = GetActiveSnapshot(),
		.passes = passes,
		.arg = spec,
	};
	Oid storage = EsStatementsBeside(spec->projection, spec->target, range,
									 "Use another projection.", up_to_position);
	char *source = quote_qualified_identifier(get_namespace_name(get_rel_namespace(storage)),
											  get_rel_name(storage));
	int64 count = insert_rows(table, columns, source, NULL);
	ObjectAddress object;

	ObjectAddressSet(object, RelationRelationId, storage);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	return count;
}

/* Says whether the spec, arg, lets the event through. */
static bool
passes(TupleTableSlot *event, const void *arg)
{
	bool isnull;

	return EsFoldPasses(arg, event, DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION, &isnull)));
}
