/*
 * apply.c
 *	  The apply function of a fold projection, compiled.
 *
 * An SQL function that the planner can inline is evaluated straight on tuple
 * slots: the call is planned with two parameters, the state and the event, and
 * each "state.column" and "event.column" in the inlined body becomes a
 * reference to a column of a slot (the state is the inner tuple, the event the
 * outer one).  No row is built for the call, and only the columns in use are
 * taken out of the stored tuples.
 *
 * What remains of the parameters is their use as whole rows: "ELSE state", or
 * the arguments of a PL/pgSQL or C function, which is called.  Those rows are
 * built when the expression asks for them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupmacs.h"
#include "acting.h"
#include "apply.h"
#include "catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/params.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#define STATE_PARAM 1
#define EVENT_PARAM 2

struct EsApply
{
	ExprState *expr;
	Expr *planned; /* that expr is made of */
	bool pinned;
	ParamListInfo params;
	TupleTableSlot *state_slot; /* the state as a stored tuple */
	TupleTableSlot *no_state;   /* all columns null */
	TupleTableSlot *masked;     /* the state without its generated columns; null: it has none */
	TupleTableSlot *state;      /* of the current event: one of the three */
	TupleTableSlot *event;
	Datum state_row; /* the current state as a datum; 0: not asked for */
	HeapTupleData result;
};

static Oid find_signature(const char *text);
pg_noreturn static void wrong_function(Relation target, const char *text, const char *detail);
static TupleTableSlot *mask_generated(EsApply *apply);
static bool is_null_row(HeapTupleHeader row);
static bool same_row(HeapTuple a, HeapTuple b);
static Oid event_rowtype(void);
static Param *row_param(int paramid, Oid rowtype);
static Node *field_mutator(Node *node, void *context);
static ParamExternData *fetch_row(ParamListInfo params, int paramid, bool speculative,
								  ParamExternData *workspace);

Oid
EsApplyFind(Oid target, const char *text)
{
	Oid argtypes[2] = {get_rel_type_id(target), event_rowtype()};

	if (strchr(text, '(') != NULL)
		return find_signature(text);
	return LookupFuncName(EsStringToQualifiedNameList(text), 2, argtypes, true);
}

void
EsApplyCheck(Relation target, Oid function, const char *text)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple))
		wrong_function(target, text, "The function does not exist.");
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	text = format_procedure(function);

	if (EsProcAclCheck(function, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, text);
	if (proc->prokind != PROKIND_FUNCTION || proc->proretset)
		wrong_function(target, text, "It is not a function that returns one row.");
	if (proc->pronargs != 2 || proc->proargtypes.values[0] != target->rd_rel->reltype ||
		proc->proargtypes.values[1] != event_rowtype())
		wrong_function(target, text, "Its arguments are of other types.");
	if (proc->prorettype != target->rd_rel->reltype)
		wrong_function(target, text, psprintf("It returns %s.", format_type_be(proc->prorettype)));
	if (proc->provolatile != PROVOLATILE_IMMUTABLE)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("apply function %s is not immutable", text),
				 errdetail("A replay must give the rows that the writers gave."),
				 errhint("Take all that the state depends on from the event, and use ALTER FUNCTION ... IMMUTABLE.")));
	if (proc->proisstrict)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("apply function %s is strict", text),
				 errdetail("The state is null for the first event of a row, so the function would never be called."),
				 errhint("Use ALTER FUNCTION ... CALLED ON NULL INPUT.")));
	ReleaseSysCache(tuple);
}

char *
EsApplyText(Oid function)
{
	return format_procedure_qualified(function);
}

EsApply *
EsApplyCompile(Relation target, Oid function)
{
	EsApply *apply = palloc0(sizeof(EsApply));
	TupleDesc desc = CreateTupleDescCopyConstr(RelationGetDescr(target));
	Oid rowtype = target->rd_rel->reltype;
	FuncExpr *call;
	Expr *expr;

	call = makeFuncExpr(function, rowtype,
						list_make2(row_param(STATE_PARAM, rowtype),
								   row_param(EVENT_PARAM, event_rowtype())),
						InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	expr = expression_planner((Expr *) call);
	apply->pinned = EsActingNeedsSettings((Node *) expr);
	expr = (Expr *) field_mutator((Node *) expr, NULL);

	apply->params = makeParamList(0);
	apply->params->paramFetch = fetch_row;
	apply->params->paramFetchArg = apply;
	apply->params->numParams = EVENT_PARAM;
	apply->planned = expr;
	apply->expr = ExecInitExprWithParams(expr, apply->params);
	apply->state_slot = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	apply->no_state = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(apply->no_state);
	if (desc->constr != NULL && desc->constr->has_generated_stored)
		apply->masked = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	return apply;
}

bool
EsApplyPinned(EsApply *apply)
{
	return apply->pinned;
}

Node *
EsApplyExpr(EsApply *apply)
{
	return (Node *) apply->planned;
}

HeapTuple
EsApplyEvent(EsApply *apply, ExprContext *econtext, HeapTuple state, TupleTableSlot *event)
{
	Datum row;
	bool isnull;

	if (state != NULL)
	{
		ExecStoreHeapTuple(state, apply->state_slot, false);
		apply->state = apply->masked == NULL ? apply->state_slot : mask_generated(apply);
	}
	else
		apply->state = apply->no_state;
	apply->event = event;
	apply->state_row = (Datum) 0;
	econtext->ecxt_innertuple = apply->state;
	econtext->ecxt_outertuple = event;
	econtext->ecxt_param_list_info = apply->params;

	row = ExecEvalExprSwitchContext(apply->expr, econtext, &isnull);
	if (isnull)
		return NULL;
	if (row == apply->state_row)
		return state;

	apply->result.t_data = DatumGetHeapTupleHeader(row);
	apply->result.t_len = HeapTupleHeaderGetDatumLength(apply->result.t_data);
	if (is_null_row(apply->result.t_data))
		return NULL;
	ItemPointerSetInvalid(&apply->result.t_self);
	apply->result.t_tableOid = InvalidOid;
	return same_row(state, &apply->result) ? state : &apply->result;
}

/*
 * Returns the state with its generated columns null.  They are computed when
 * the row is written, which for the same events can be once or many times, so
 * the function must never see them.
 */
static TupleTableSlot *
mask_generated(EsApply *apply)
{
	TupleTableSlot *masked = apply->masked;
	TupleDesc desc = masked->tts_tupleDescriptor;

	slot_getallattrs(apply->state_slot);
	ExecClearTuple(masked);
	for (int i = 0; i < desc->natts; i++)
	{
		masked->tts_values[i] = apply->state_slot->tts_values[i];
		masked->tts_isnull[i] = apply->state_slot->tts_isnull[i] ||
			TupleDescAttr(desc, i)->attgenerated != '\0';
	}
	return ExecStoreVirtualTuple(masked);
}

/* Says whether all columns are null, which SQL's IS NULL takes for a null row. */
static bool
is_null_row(HeapTupleHeader row)
{
	int ncolumns = HeapTupleHeaderGetNatts(row);

	if ((row->t_infomask & HEAP_HASNULL) == 0)
		return false;
	for (int i = 0; i < ncolumns; i++)
		if (!att_isnull(i, row->t_bits))
			return false;
	return true;
}

/* Says whether two rows of one type have the same columns, byte for byte. */
static bool
same_row(HeapTuple a, HeapTuple b)
{
	return a != NULL && a->t_len == b->t_len && a->t_data->t_hoff == b->t_data->t_hoff &&
		HeapTupleHeaderGetNatts(a->t_data) == HeapTupleHeaderGetNatts(b->t_data) &&
		memcmp(a->t_data->t_bits, b->t_data->t_bits,
			   a->t_len - offsetof(HeapTupleHeaderData, t_bits)) == 0;
}

/* Returns the function that a signature such as "f(account, es.events)" names. */
static Oid
find_signature(const char *text)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum function;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(text);
	fcinfo->args[0].isnull = false;
	function = to_regprocedure(fcinfo);
	return fcinfo->isnull ? InvalidOid : DatumGetObjectId(function);
}

static void
wrong_function(Relation target, const char *text, const char *detail)
{
	const char *type = format_type_be(target->rd_rel->reltype);

	ereport(ERROR,
			(errcode(ES_ERRCODE_INVALID_PROJECTION),
			 errmsg("\"%s\" is not an apply function for \"%s\"", text, RelationGetRelationName(target)),
			 errdetail_internal("%s", detail),
			 errhint("Create it as FUNCTION %s(state %s, event es.events) RETURNS %s IMMUTABLE.",
					 strchr(text, '(') ? "..." : text, type, type)));
}

static Oid
event_rowtype(void)
{
	return get_rel_type_id(EsCatalogOid(ES_OBJECT_EVENTS));
}

static Param *
row_param(int paramid, Oid rowtype)
{
	Param *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = paramid;
	param->paramtype = rowtype;
	param->paramtypmod = -1;
	param->location = -1;
	return param;
}

/* Turns the columns taken from a parameter into references to a slot. */
static Node *
field_mutator(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, FieldSelect) && IsA(((FieldSelect *) node)->arg, Param))
	{
		FieldSelect *field = (FieldSelect *) node;
		Param *param = (Param *) field->arg;

		return (Node *) makeVar(param->paramid == STATE_PARAM ? INNER_VAR : OUTER_VAR,
								field->fieldnum, field->resulttype, field->resulttypmod,
								field->resultcollid, 0);
	}
	return expression_tree_mutator(node, field_mutator, context);
}

/* Gives the expression the whole row of the state or of the event. */
static ParamExternData *
fetch_row(ParamListInfo params, int paramid, bool speculative, ParamExternData *workspace)
{
	EsApply *apply = params->paramFetchArg;

	workspace->pflags = 0;
	workspace->value = (Datum) 0;
	if (paramid == STATE_PARAM)
	{
		workspace->ptype = apply->no_state->tts_tupleDescriptor->tdtypeid;
		workspace->isnull = apply->state == apply->no_state;
		if (!workspace->isnull && apply->state_row == (Datum) 0)
			apply->state_row = ExecFetchSlotHeapTupleDatum(apply->state);
		workspace->value = apply->state_row;
	}
	else
	{
		workspace->ptype = apply->event->tts_tupleDescriptor->tdtypeid;
		workspace->isnull = false;
		workspace->value = ExecFetchSlotHeapTupleDatum(apply->event);
	}
	return workspace;
}
