/*
 * key.c
 *	  The key of a state table: its primary key, and the expressions over an
 *	  event that yield it.
 *
 * The expressions are parsed with the event as their only table, so
 * "data->>'currency'" and "event.data->>'currency'" mean the same.  They may be
 * STABLE, such as "(occurred_at)::date": what they depend on is pinned by the
 * projection (see acting.c).  They may not be VOLATILE, and may not use the
 * position: whoever feeds one row from several aggregates is given his
 * position only after he has locked the row's key (see inline.c).
 *
 * Hash and equality are those of the primary key's types, so that two events
 * meet in memory exactly when they would meet in the table.  For the same reason
 * a key has the column's type modifier, as an assigned value has.  A type that
 * has no hash function is hashed by its bytes if equal values have the same
 * bytes; if not (a composite type with a column of type money and one of type
 * numeric, say), all its values have one hash.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "acting.h"
#include "catalog.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "errors.h"
#include "executor/executor.h"
#include "key.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parse_target.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

static inline bool same_image(EsKeyColumn *column, Datum a, Datum b);
static void describe_columns(EsKey *key, Relation target);
static void describe_column(EsKeyColumn *column, Form_pg_attribute att, Relation index, int i);
static List *default_expressions(EsKey *key);
static Node *cast_to_column(EsKeyColumn *column, Node *expr, Oid type, CoercionContext context);
static List *parse_expressions(EsKey *key, Relation target, Relation events, const char *text);
static List *raw_targets(const char *text);
static Expr *coerce_expression(EsKey *key, int column, ParseState *pstate, Node *expr);
static void check_expression(Node *expr);
static bool depends_on_position(Node *node, void *context);
static Node *event_vars_mutator(Node *node, void *context);
static bool is_injective(EsKey *key);

EsKey *
EsKeyCompile(Relation target, Relation events, const char *text)
{
	EsKey *key = palloc0(sizeof(EsKey));
	List *exprs;
	ListCell *lc;
	int i = 0;

	describe_columns(key, target);
	if (text == NULL)
	{
		exprs = default_expressions(key);
		key->injective = is_injective(key);
	}
	else
		exprs = parse_expressions(key, target, events, text);

	foreach(lc, exprs)
	{
		Node *expr = (Node *) expression_planner(lfirst(lc));

		if (EsActingNeedsSettings(expr))
			key->pinned = true;
		key->exprs = lappend(key->exprs, expr);
		key->columns[i++].value = ExecInitExpr((Expr *) event_vars_mutator(expr, NULL), NULL);
	}
	return key;
}

bool
EsKeyEval(EsKey *key, ExprContext *econtext, Datum *values)
{
	for (int i = 0; i < key->ncolumns; i++)
	{
		bool isnull;

		values[i] = ExecEvalExprSwitchContext(key->columns[i].value, econtext, &isnull);
		if (isnull)
			return false;
		if (key->columns[i].typlen == -1)
			values[i] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(values[i]));
	}
	return true;
}

void
EsKeyOfRow(EsKey *key, TupleTableSlot *row, Datum *values)
{
	for (int i = 0; i < key->ncolumns; i++)
	{
		bool isnull;

		values[i] = slot_getattr(row, key->columns[i].attnum, &isnull);
		if (key->columns[i].typlen == -1)
			values[i] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(values[i]));
	}
}

uint32
EsKeyHash(EsKey *key, const Datum *values)
{
	uint32 hash = 0;

	for (int i = 0; i < key->ncolumns; i++)
	{
		EsKeyColumn *column = &key->columns[i];
		uint32 h;

		if (OidIsValid(column->hash.fn_oid))
			h = DatumGetUInt32(FunctionCall1Coll(&column->hash, column->collation, values[i]));
		else if (column->equal_image)
			h = datum_image_hash(values[i], column->typbyval, column->typlen);
		else
			h = 0;
		hash = i == 0 ? h : hash_combine(hash, h);
	}
	return murmurhash32(hash);
}

bool
EsKeyEqual(EsKey *key, const Datum *a, const Datum *b)
{
	for (int i = 0; i < key->ncolumns; i++)
	{
		EsKeyColumn *column = &key->columns[i];

		/* What is the same byte for byte needs no function to tell. */
		if (same_image(column, a[i], b[i]))
			continue;
		if (!DatumGetBool(FunctionCall2Coll(&column->eq, column->collation, a[i], b[i])))
			return false;
	}
	return true;
}

bool
EsKeyMatches(EsKey *key, const Datum *values, TupleTableSlot *row)
{
	Datum actual[INDEX_MAX_KEYS];

	for (int i = 0; i < key->ncolumns; i++)
	{
		bool isnull;

		actual[i] = slot_getattr(row, key->columns[i].attnum, &isnull);
		if (isnull)
			return false;
	}
	return EsKeyEqual(key, values, actual);
}

Datum *
EsKeyCopy(EsKey *key, const Datum *values)
{
	Size size = MAXALIGN(sizeof(Datum) * key->ncolumns);
	Datum *copy;
	char *data;

	for (int i = 0; i < key->ncolumns; i++)
		if (!key->columns[i].typbyval)
			size += MAXALIGN(datumGetSize(values[i], false, key->columns[i].typlen));
	copy = palloc(size);
	data = (char *) copy + MAXALIGN(sizeof(Datum) * key->ncolumns);
	for (int i = 0; i < key->ncolumns; i++)
	{
		Size length;

		if (key->columns[i].typbyval)
		{
			copy[i] = values[i];
			continue;
		}
		length = datumGetSize(values[i], false, key->columns[i].typlen);
		memcpy(data, DatumGetPointer(values[i]), length);
		copy[i] = PointerGetDatum(data);
		data += MAXALIGN(length);
	}
	return copy;
}

char *
EsKeyText(EsKey *key, const Datum *values)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < key->ncolumns; i++)
	{
		Oid output;
		bool varlena;

		getTypeOutputInfo(key->columns[i].typid, &output, &varlena);
		appendStringInfo(&buf, "%s%s", i == 0 ? "(" : ", ", OidOutputFunctionCall(output, values[i]));
	}
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

void
EsKeyScanKeys(EsKey *key, const Datum *values, ScanKeyData *scankeys)
{
	for (int i = 0; i < key->ncolumns; i++)
	{
		EsKeyColumn *column = &key->columns[i];

		ScanKeyInit(&scankeys[i], i + 1, BTEqualStrategyNumber, column->eq_proc, values[i]);
		scankeys[i].sk_collation = column->collation;
	}
}

/* Reads the primary key of target: its columns, and how their types compare and hash. */
static void
describe_columns(EsKey *key, Relation target)
{
	Relation index;

	(void) RelationGetIndexList(target);
	key->index = target->rd_pkindex;
	index = OidIsValid(key->index) ? index_open(key->index, AccessShareLock) : NULL;
	if (index == NULL || !index->rd_index->indimmediate)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("state table \"%s\" has no primary key", RelationGetRelationName(target)),
				 errdetail("A projection finds the row of an event by the table's primary key, which may not be deferrable."),
				 errhint("Use ALTER TABLE ... ADD PRIMARY KEY.")));

	key->ncolumns = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < key->ncolumns; i++)
	{
		AttrNumber attnum = index->rd_index->indkey.values[i];

		describe_column(&key->columns[i], TupleDescAttr(RelationGetDescr(target), attnum - 1),
						index, i);
		if (!OidIsValid(key->columns[i].hash.fn_oid) && !key->columns[i].equal_image)
			key->unhashable = true;
	}
	index_close(index, AccessShareLock);
}

/* Reads the primary key's column i, which is this one of the table. */
static void
describe_column(EsKeyColumn *column, Form_pg_attribute att, Relation index, int i)
{
	Oid opfamily = index->rd_opfamily[i];
	Oid opcintype = index->rd_opcintype[i];
	TypeCacheEntry *type;
	Oid image_proc;

	if (att->attgenerated != '\0')
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("primary key column \"%s\" is a generated column", NameStr(att->attname)),
				 errdetail("The key of an event's row must be known before the row is."),
				 errhint("Use an ordinary column that the apply function fills.")));
	column->attnum = att->attnum;
	column->collation = index->rd_indcollation[i];
	column->typid = att->atttypid;
	column->typmod = att->atttypmod;
	column->typlen = att->attlen;
	column->typbyval = att->attbyval;
	column->eq_proc = get_opcode(get_opfamily_member(opfamily, opcintype, opcintype,
													 BTEqualStrategyNumber));
	fmgr_info(column->eq_proc, &column->eq);
	/* Asked for its equality too, the cache returns only a hash function that agrees with it. */
	type = lookup_type_cache(getBaseType(column->typid), TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);
	if (OidIsValid(type->hash_proc))
		fmgr_info(type->hash_proc, &column->hash);
	image_proc = get_opfamily_proc(opfamily, opcintype, opcintype, BTEQUALIMAGE_PROC);
	column->equal_image = OidIsValid(image_proc) &&
		DatumGetBool(OidFunctionCall1Coll(image_proc, column->collation,
										  ObjectIdGetDatum(opcintype)));
}

/* Says whether two values have the same bytes, for the usual kinds of types. */
static inline bool
same_image(EsKeyColumn *column, Datum a, Datum b)
{
	Size size;

	if (column->typbyval)
		return a == b;
	if (column->typlen != -1)
		return false;
	size = VARSIZE_ANY(DatumGetPointer(a));
	return size == VARSIZE_ANY(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b), size) == 0;
}

/* Returns the aggregate's id, cast to the type of the only key column. */
static List *
default_expressions(EsKey *key)
{
	EsKeyColumn *column = &key->columns[0];
	Var *id = makeVar(1, ES_EVENT_AGGREGATE_ID, TEXTOID, -1, C_COLLATION_OID, 0);
	Node *cast;

	if (key->ncolumns != 1)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("the primary key of the state table has %d columns", key->ncolumns),
				 errdetail("Without a key a projection has a row per aggregate, found by aggregate_id."),
				 errhint("Give key an SQL expression for each column, such as key => 'data->>''currency'', data->>''year'''.")));
	cast = cast_to_column(column, (Node *) id, TEXTOID, COERCION_ASSIGNMENT);
	if (cast == NULL)
		cast = cast_to_column(column, (Node *) id, TEXTOID, COERCION_EXPLICIT);
	if (cast == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("aggregate_id cannot be cast to the key's type %s",
						format_type_be(column->typid)),
				 errhint("Give key an SQL expression that yields the primary key.")));
	return list_make1(cast);
}

/*
 * Gives an expression the column's type and modifier; null: there is no such
 * cast.  What doesn't fit a length is refused, not cut off, because the row of
 * another aggregate could be meant then.
 */
static Node *
cast_to_column(EsKeyColumn *column, Node *expr, Oid type, CoercionContext context)
{
	Node *cast = coerce_to_target_type(NULL, expr, type, column->typid, -1, context,
									   COERCE_IMPLICIT_CAST, -1);

	if (cast == NULL)
		return NULL;
	return coerce_to_target_type(NULL, cast, column->typid, column->typid, column->typmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
}

/*
 * Parses the key's text into expressions over es.events (varno 1).  Whatever
 * PostgreSQL finds wrong with it is reported as a faulty projection.
 */
static List *
parse_expressions(EsKey *key, Relation target, Relation events, const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	List *exprs = NIL;

	PG_TRY();
	{
		ParseState *pstate = make_parsestate(NULL);
		List *targets = raw_targets(text);
		ParseNamespaceItem *nsitem;
		ListCell *lc;

		nsitem = addRangeTableEntryForRelation(pstate, events, AccessShareLock,
											   makeAlias("event", NIL), false, true);
		addNSItemToQuery(pstate, nsitem, true, true, true);
		targets = transformTargetList(pstate, targets, EXPR_KIND_INDEX_EXPRESSION);
		if (list_length(targets) != key->ncolumns)
			ereport(ERROR,
					(errcode(ES_ERRCODE_INVALID_PROJECTION),
					 errmsg("number of key expressions (%d) differs from that of primary key columns of \"%s\" (%d)",
							list_length(targets), RelationGetRelationName(target), key->ncolumns),
					 errhint("Give one expression for each column of the primary key, in its order.")));
		foreach(lc, targets)
		{
			Node *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

			exprs = lappend(exprs, coerce_expression(key, foreach_current_index(lc), pstate, expr));
		}
		free_parsestate(pstate);
	}
	PG_CATCH();
	{
		ErrorData *error;
		int category;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
			category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES))
			PG_RE_THROW();
		FlushErrorState();
		if (error->sqlerrcode != ES_ERRCODE_INVALID_PROJECTION)
		{
			error->sqlerrcode = ES_ERRCODE_INVALID_PROJECTION;
			error->cursorpos = 0;
			error->message = psprintf("invalid key \"%s\": %s", text, error->message);
			if (error->hint == NULL)
				error->hint = pstrdup("A key is a list of SQL expressions over the columns of es.events, "
									  "such as: data->>'currency', (occurred_at)::date");
		}
		ReThrowError(error);
	}
	PG_END_TRY();
	return exprs;
}

/* Parses the text, which must be the target list of a SELECT and no more. */
static List *
raw_targets(const char *text)
{
	List *statements = raw_parser(psprintf("SELECT %s", text), RAW_PARSE_DEFAULT);
	SelectStmt *select = NULL;

	if (list_length(statements) == 1 && IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (select == NULL || select->distinctClause || select->intoClause || select->fromClause ||
		select->whereClause || select->groupClause || select->havingClause ||
		select->windowClause || select->valuesLists || select->sortClause ||
		select->limitOffset || select->limitCount || select->lockingClause ||
		select->withClause || select->op != SETOP_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("only a list of expressions is allowed")));
	return select->targetList;
}

/* Gives a parsed expression the type of its key column, and checks what it may use. */
static Expr *
coerce_expression(EsKey *key, int column, ParseState *pstate, Node *expr)
{
	Oid typid = exprType(expr);
	Node *coerced = cast_to_column(&key->columns[column], expr, typid, COERCION_ASSIGNMENT);

	if (coerced == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("key expression %d is of type %s, but the primary key's column is of type %s",
						column + 1, format_type_be(typid),
						format_type_be(key->columns[column].typid)),
				 errhint("Cast the expression.")));
	assign_expr_collations(pstate, coerced);
	check_expression(coerced);
	return (Expr *) coerced;
}

/* Refuses an expression that would not give the same key again, or not give it in time. */
static void
check_expression(Node *expr)
{
	if (contain_volatile_functions(expr))
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("the key uses a volatile function"),
				 errdetail("A replay would find another row for the same event."),
				 errhint("Use only the event's columns and functions that are IMMUTABLE or STABLE.")));
	if (depends_on_position(expr, NULL))
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("the key uses the event's position, its whole row or a system column"),
				 errdetail("An event is given its position after the row of its key has been locked."),
				 errhint("Use the other columns, such as the aggregate's id and version, or event_id.")));
}

/* Says whether the position is used, or the whole row or a system column, which has it too. */
static bool
depends_on_position(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varattno <= ES_EVENT_POSITION;
	return expression_tree_walker(node, depends_on_position, context);
}

/* Turns references to the event's columns into references to the outer tuple. */
static Node *
event_vars_mutator(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var *var = copyObject((Var *) node);

		var->varno = OUTER_VAR;
		return (Node *) var;
	}
	return expression_tree_mutator(node, event_vars_mutator, context);
}

/*
 * Says whether different aggregate ids always have different keys: so it is
 * for text, but not where '7' and '07', or 'A' and 'a', are the same key, nor
 * where a length can cut off spaces.
 */
static bool
is_injective(EsKey *key)
{
	EsKeyColumn *column = &key->columns[0];

	return (column->typid == TEXTOID || column->typid == VARCHAROID) && column->typmod < 0 &&
		get_collation_isdeterministic(column->collation);
}
