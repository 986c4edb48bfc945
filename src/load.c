/*
 * load.c
 *	  es.load(): one aggregate, folded on the fly.
 *
 * Reading.  The aggregate's events are read by a query, as the caller: so his
 * privileges, row-level security and the snapshot of his statement hold,
 * whatever the isolation level.  They are folded when the query has ended, so
 * the apply function can't disturb the scan.
 *
 * Rights.  A function that the caller names runs as the caller, as it would if
 * he called it himself.  If he names none, he doesn't know whose code it is that
 * the projection runs: so it runs as the projection's owner, as it does when
 * events are appended, and under the same settings, so that the result is the
 * row of the state table.  The caller must be allowed to call it all the same.
 * Generated columns are computed as the owner of the table that has them.
 *
 * What is compiled is kept for the call site, until a projection, a function, a
 * type or a relation changes.  No lock is kept on the relation whose row type
 * it is: nothing but its type is used.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "acting.h"
#include "apply.h"
#include "catalog.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type_d.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "filter.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "optimizer/optimizer.h"
#include "projection.h"
#include "registry.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "version.h"

/* Arguments of es.load(). */
enum
{
	ARG_STATE,
	ARG_AGGREGATE_TYPE,
	ARG_AGGREGATE_ID,
	ARG_APPLY,
	ARG_AS_OF_VERSION,
	ARG_AS_OF_POSITION,
	ARG_AS_OF
};

/* What a call site loads with. */
typedef struct Loader
{
	MemoryContext context;
	uint64 changes; /* see EsProjectionChanges() */
	bool ready;     /* false: an error has left it in any state */
	Oid caller;     /* that it was made for */
	text *named;    /* the argument apply, or null */
	EsApply *apply;
	char *projection;      /* whose function it is, or null: run it as the caller */
	List *aggregate_types; /* of the projection; NIL: all */
	ArrayType *event_types;
	Oid relid; /* whose row type it is */
	Oid owner; /* of that relation */
	ArrayType *settings;
	ExprContext *econtext;
	TupleTableSlot *event;
	TupleTableSlot *row;   /* of the relation */
	ExprState **generated; /* by column; null: no column is generated */
} Loader;

#define NAME_FUNCTION_HINT "Name the function to fold with: es.load(..., apply => 'function')."

ES_FUNCTION_INFO_V1(es_load);

static Loader *find_loader(FunctionCallInfo fcinfo);
static Loader *make_loader(FunctionCallInfo fcinfo);
static Relation open_rowtype(Oid rowtype);
static Oid named_function(Relation relation, text *named);
static Oid projection_function(Loader *loader, Relation relation);
static EsProjection *find_projection(Relation relation);
static ArrayType *text_array(List *items);
static void compile(Loader *loader, Relation relation, Oid function);
static void compile_generated(Loader *loader, Relation relation);
static void check_aggregate_type(Loader *loader, text *aggregate_type);
static Tuplestorestate *read_events(FunctionCallInfo fcinfo, Loader *loader);
static SPIPlanPtr events_plan(void);
static ParamListInfo query_params(FunctionCallInfo fcinfo, Loader *loader);
static HeapTuple initial_state(FunctionCallInfo fcinfo);
static HeapTuple fold_events(Loader *loader, Tuplestorestate *events, HeapTuple state);
static Datum row_datum(Loader *loader, HeapTuple state);
static void describe_event(void *arg);

/* es.load(): see the COMMENT. */
Datum
es_load(PG_FUNCTION_ARGS)
{
	Loader *loader = find_loader(fcinfo);
	Tuplestorestate *events;
	HeapTuple state;
	Datum result = (Datum) 0;

	if (PG_ARGISNULL(ARG_AGGREGATE_TYPE) || PG_ARGISNULL(ARG_AGGREGATE_ID))
		PG_RETURN_NULL();
	check_aggregate_type(loader, PG_GETARG_TEXT_PP(ARG_AGGREGATE_TYPE));

	loader->ready = false;
	events = read_events(fcinfo, loader);
	state = fold_events(loader, events, initial_state(fcinfo));
	tuplestore_end(events);
	if (state != NULL)
		result = row_datum(loader, state);
	loader->ready = true;

	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* Returns the call site's loader, made anew where it no longer holds. */
static Loader *
find_loader(FunctionCallInfo fcinfo)
{
	Loader *loader = fcinfo->flinfo->fn_extra;
	text *named = PG_ARGISNULL(ARG_APPLY) ? NULL : PG_GETARG_TEXT_PP(ARG_APPLY);

	if (loader != NULL && loader->ready && loader->changes == EsProjectionChanges() &&
		loader->caller == GetUserId() &&
		(named == NULL) == (loader->named == NULL) &&
		(named == NULL || EsSameText(named, loader->named)))
		return loader;

	fcinfo->flinfo->fn_extra = NULL;
	if (loader != NULL)
		MemoryContextDelete(loader->context);
	loader = make_loader(fcinfo);
	MemoryContextSetParent(loader->context, fcinfo->flinfo->fn_mcxt);
	fcinfo->flinfo->fn_extra = loader;
	return loader;
}

/* Makes a loader in a context of its own, below the current one. */
static Loader *
make_loader(FunctionCallInfo fcinfo)
{
	Relation relation = open_rowtype(get_fn_expr_argtype(fcinfo->flinfo, ARG_STATE));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "es load",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Loader *loader = palloc0(sizeof(Loader));
	EsActing acting;
	Oid function;

	loader->context = context;
	loader->changes = EsProjectionChanges();
	loader->caller = GetUserId();
	loader->relid = RelationGetRelid(relation);
	loader->owner = relation->rd_rel->relowner;
	if (!PG_ARGISNULL(ARG_APPLY))
	{
		loader->named = PG_GETARG_TEXT_P_COPY(ARG_APPLY);
		compile(loader, relation, named_function(relation, loader->named));
	}
	else
	{
		function = projection_function(loader, relation);
		EsActingBegin(&acting, loader->owner, loader->settings);
		compile(loader, relation, function);
		EsActingEnd(&acting);
		if (!EsApplyPinned(loader->apply))
			loader->settings = NULL;
	}
	compile_generated(loader, relation);
	relation_close(relation, AccessShareLock);
	loader->ready = true;
	MemoryContextSwitchTo(old);
	return loader;
}

/* Opens the relation that a row type belongs to. */
static Relation
open_rowtype(Oid rowtype)
{
	Relation relation;

	if (get_typtype(rowtype) != TYPTYPE_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("state is of type %s, which is not a row type of its own",
						format_type_be(rowtype)),
				 errhint("Pass a null of a table's or a composite type, such as NULL::account.")));
	relation = try_relation_open(get_typ_typrelid(rowtype), AccessShareLock);
	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type with OID %u does not exist", rowtype)));
	return relation;
}

/* Returns the function that the caller has named. */
static Oid
named_function(Relation relation, text *named)
{
	char *name = text_to_cstring(named);
	Oid function;

	if (name[strspn(name, " \t\r\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("apply must not be empty")));
	function = EsApplyFind(RelationGetRelid(relation), name);
	EsApplyCheck(relation, function, name);
	return function;
}

/*
 * Returns the apply function of the projection that keeps the relation's rows,
 * having noted what else is to be known of the projection.
 */
static Oid
projection_function(Loader *loader, Relation relation)
{
	Oid relid = RelationGetRelid(relation);
	EsProjection *projection;
	EsActing acting;
	Oid function;
	ListCell *lc;

	EsProjectionsEnter();
	projection = find_projection(relation);
	loader->projection = pstrdup(projection->name);
	loader->settings = DatumGetArrayTypePCopy(PointerGetDatum(projection->settings));
	foreach(lc, projection->aggregate_types)
		loader->aggregate_types = lappend(loader->aggregate_types,
										  DatumGetTextPCopy(PointerGetDatum(lfirst(lc))));
	if (projection->event_types != NIL)
		loader->event_types = text_array(projection->event_types);
	function = EsRegistryFunction(relid);
	if (!OidIsValid(function))
		function = EsApplyFind(relid, projection->apply);
	EsActingBegin(&acting, loader->owner, NULL);
	EsApplyCheck(relation, function, projection->apply);
	EsActingEnd(&acting);
	if (EsProcAclCheck(function, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, format_procedure(function));
	EsProjectionsLeave();
	return function;
}

/* Returns the projection that keeps the relation's rows, each from one aggregate's events. */
static EsProjection *
find_projection(Relation relation)
{
	EsProjection *projection = NULL;
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		projection = lfirst(lc);
		if (projection->target == RelationGetRelid(relation))
			break;
	}
	if (lc == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 errmsg("\"%s\" is not the state table of a projection",
						RelationGetRelationName(relation)),
				 errhint(NAME_FUNCTION_HINT)));
	if (projection->apply == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_UNKNOWN_NAME),
				 errmsg("projection \"%s\" has no apply function", projection->name),
				 errdetail("Statements keep its rows."),
				 errhint(NAME_FUNCTION_HINT)));
	if (projection->key != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("projection \"%s\" does not keep a row for each aggregate", projection->name),
				 errdetail("Its key is %s.", projection->key),
				 errhint(NAME_FUNCTION_HINT)));
	return projection;
}

/* Returns a list of text as an array. */
static ArrayType *
text_array(List *items)
{
	Datum *datums = palloc(sizeof(Datum) * list_length(items));
	ListCell *lc;

	foreach(lc, items)
		datums[foreach_current_index(lc)] = PointerGetDatum(lfirst(lc));
	return construct_array(datums, list_length(items), TEXTOID, -1, false, TYPALIGN_INT);
}

/* Compiles the function and the generated columns, as the current user. */
static void
compile(Loader *loader, Relation relation, Oid function)
{
	Relation events = relation_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	TupleDesc desc = CreateTupleDescCopyConstr(RelationGetDescr(relation));

	loader->apply = EsApplyCompile(relation, function);
	loader->econtext = CreateStandaloneExprContext();
	loader->event = MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(events)),
											 &TTSOpsMinimalTuple);
	loader->row = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	relation_close(events, AccessShareLock);
}

/* Compiles the expressions of the generated columns, if there are any, as the owner. */
static void
compile_generated(Loader *loader, Relation relation)
{
	TupleDesc desc = RelationGetDescr(relation);
	EsActing acting;

	for (int i = 0; i < desc->natts; i++)
	{
		Expr *expr;

		if (TupleDescAttr(desc, i)->attgenerated == '\0' || TupleDescAttr(desc, i)->attisdropped)
			continue;
		if (loader->generated == NULL)
			loader->generated = palloc0(sizeof(ExprState *) * desc->natts);
		EsActingBegin(&acting, loader->owner, NULL);
		expr = expression_planner((Expr *) build_column_default(relation, i + 1));
		loader->generated[i] = ExecInitExpr(expr, NULL);
		EsActingEnd(&acting);
	}
}

/* Refuses an aggregate whose events the projection does not take. */
static void
check_aggregate_type(Loader *loader, text *aggregate_type)
{
	if (EsFilterPasses(loader->aggregate_types, aggregate_type))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("projection \"%s\" takes no events of aggregate type \"%s\"",
					loader->projection, text_to_cstring(aggregate_type)),
			 errhint(NAME_FUNCTION_HINT)));
}

/* Reads the aggregate's events, as the caller sees them. */
static Tuplestorestate *
read_events(FunctionCallInfo fcinfo, Loader *loader)
{
	Tuplestorestate *events = tuplestore_begin_heap(false, false, work_mem);
	MemoryContext context = CurrentMemoryContext;
	SPIExecuteOptions options;

	SPI_connect();
	memset(&options, 0, sizeof(options));
	options.params = query_params(fcinfo, loader);
	options.read_only = true;
	options.dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(options.dest, events, context, false, NULL, NULL);
	if (SPI_execute_plan_extended(events_plan(), &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read es.events");
	options.dest->rDestroy(options.dest);
	SPI_finish();
	return events;
}

/*
 * Returns the plan that reads an aggregate's events.  A generic one: whatever
 * the parameters are, the index on (aggregate_type, aggregate_id, version) is
 * the one to use.
 */
static SPIPlanPtr
events_plan(void)
{
	static SPIPlanPtr kept = NULL;
	static Oid types[] = {TEXTOID, TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID, TEXTARRAYOID};

	if (kept == NULL)
	{
		SPIPlanPtr plan = SPI_prepare_cursor(
			"SELECT e.* FROM es.events AS e"
			" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
			" AND e.version OPERATOR(pg_catalog.<=) $3"
			" AND e.position OPERATOR(pg_catalog.<=) $4"
			" AND e.recorded_at OPERATOR(pg_catalog.<=) $5"
			" AND ($6 IS NULL OR e.event_type OPERATOR(pg_catalog.=) ANY ($6))"
			" ORDER BY e.version",
			lengthof(types), types, CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare to read es.events");
		kept = plan;
	}
	return kept;
}

/* Returns the query's parameters; a limit that is not given is the highest there can be. */
static ParamListInfo
query_params(FunctionCallInfo fcinfo, Loader *loader)
{
	const NullableDatum values[] = {
		{PG_GETARG_DATUM(ARG_AGGREGATE_TYPE), false},
		{PG_GETARG_DATUM(ARG_AGGREGATE_ID), false},
		{PG_ARGISNULL(ARG_AS_OF_VERSION) ? Int64GetDatum(PG_INT64_MAX)
										 : PG_GETARG_DATUM(ARG_AS_OF_VERSION),
		 false},
		{PG_ARGISNULL(ARG_AS_OF_POSITION) ? Int64GetDatum(PG_INT64_MAX)
										  : PG_GETARG_DATUM(ARG_AS_OF_POSITION),
		 false},
		{PG_ARGISNULL(ARG_AS_OF) ? TimestampTzGetDatum(DT_NOEND)
								 : PG_GETARG_DATUM(ARG_AS_OF),
		 false},
		{PointerGetDatum(loader->event_types), loader->event_types == NULL}};
	static const Oid types[] = {TEXTOID, TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID, TEXTARRAYOID};
	ParamListInfo params = makeParamList(lengthof(values));

	for (int i = 0; i < (int) lengthof(values); i++)
	{
		params->params[i].ptype = types[i];
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].value = values[i].value;
		params->params[i].isnull = values[i].isnull;
	}
	return params;
}

/* Returns a copy of the state to begin with; null: there is none yet. */
static HeapTuple
initial_state(FunctionCallInfo fcinfo)
{
	HeapTupleData tuple;

	if (PG_ARGISNULL(ARG_STATE))
		return NULL;
	tuple.t_data = PG_GETARG_HEAPTUPLEHEADER(ARG_STATE);
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	for (int i = 1; i <= HeapTupleHeaderGetNatts(tuple.t_data); i++)
		if (!heap_attisnull(&tuple, i, NULL))
			return heap_copytuple(&tuple);
	return NULL; /* as everywhere, all columns null is no row */
}

/* Folds the events into the state; both are freed or returned. */
static HeapTuple
fold_events(Loader *loader, Tuplestorestate *events, HeapTuple state)
{
	ErrorContextCallback callback = {.previous = error_context_stack,
									 .callback = describe_event,
									 .arg = loader};
	EsActing acting;

	error_context_stack = &callback;
	if (loader->projection != NULL)
		EsActingBegin(&acting, loader->owner, loader->settings);
	while (tuplestore_gettupleslot(events, true, false, loader->event))
	{
		HeapTuple before = state;
		HeapTuple after = EsApplyEvent(loader->apply, loader->econtext, before, loader->event);

		CHECK_FOR_INTERRUPTS();
		if (after != before)
		{
			state = after == NULL ? NULL : heap_copytuple(after);
			if (before != NULL)
				heap_freetuple(before);
		}
		ResetExprContext(loader->econtext);
	}
	if (loader->projection != NULL)
		EsActingEnd(&acting);
	error_context_stack = callback.previous;
	return state;
}

/* Returns the state as a datum, its generated columns computed. */
static Datum
row_datum(Loader *loader, HeapTuple state)
{
	TupleTableSlot *row = loader->row;
	TupleDesc desc = row->tts_tupleDescriptor;
	EsActing acting;
	Datum *values;
	bool *nulls;

	if (loader->generated == NULL)
		return heap_copy_tuple_as_datum(state, desc);

	values = palloc(sizeof(Datum) * desc->natts);
	nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(state, desc, values, nulls);
	ExecStoreHeapTuple(state, row, false);
	row->tts_tableOid = loader->relid;
	loader->econtext->ecxt_scantuple = row;
	EsActingBegin(&acting, loader->owner, NULL);
	for (int i = 0; i < desc->natts; i++)
		if (loader->generated[i] != NULL)
			values[i] = ExecEvalExprSwitchContext(loader->generated[i], loader->econtext,
												  &nulls[i]);
	EsActingEnd(&acting);
	ExecClearTuple(row);
	state = heap_form_tuple(desc, values, nulls);
	ResetExprContext(loader->econtext);
	return HeapTupleGetDatum(state);
}

/* Says in an error's context which event was being folded. */
static void
describe_event(void *arg)
{
	TupleTableSlot *event = ((Loader *) arg)->event;

	if (TupIsNull(event))
		return;
	slot_getallattrs(event);
	errcontext("es.load() of aggregate %s/%s, event \"%s\", version " INT64_FORMAT,
			   TextDatumGetCString(event->tts_values[ES_EVENT_AGGREGATE_TYPE - 1]),
			   TextDatumGetCString(event->tts_values[ES_EVENT_AGGREGATE_ID - 1]),
			   TextDatumGetCString(event->tts_values[ES_EVENT_EVENT_TYPE - 1]),
			   DatumGetInt64(event->tts_values[ES_EVENT_VERSION - 1]));
}
