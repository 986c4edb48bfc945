/*
 * handler.c
 *	  SQL statements that keep a projection: one for an event, or one for many.
 *
 * A statement for an event refers to it as "event.column", or as "event" for
 * the whole row.  A parser hook turns these references into parameters of the
 * columns' types, so there is no text to be substituted and nothing to inject.
 * A name of the statement's own comes first: a table with the alias "event"
 * hides the event.  The parameters' values are taken from the event's slot
 * when the executor asks for them.
 *
 * A statement for many events reads them from "events", an ephemeral named
 * relation with the columns of es.events.
 *
 * Plans are PostgreSQL's cached plans: DDL invalidates them, and what the
 * statement means is then found out again under the settings of the
 * projection.
 */
#include "postgres.h"

#include "catalog.h"
#include "compat.h"
#include "errors.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "handler.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/params.h"
#include "parser/parse_node.h"
#include "parser/parser.h"
#include "tcop/dest.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/queryenvironment.h"

#define EVENT_NAME  "event"
#define EVENTS_NAME "events"

/* The parameter that is the whole event; the columns come before it. */
#define EVENT_ROW_PARAM (ES_EVENT_NCOLUMNS + 1)

struct EsHandler
{
	SPIPlanPtr plan;
	MemoryContextCallback free_plan;
	ParamListInfo params;  /* null for a batch */
	TupleTableSlot *event; /* that the parameters are taken from */
};

static void check_statement(const char *statement);
static void invalid_statement(MemoryContext context, const char *statement);
static void prepare(EsHandler *handler, const char *statement, bool batch);
static void free_plan(void *arg);
static void setup_parser(ParseState *pstate, void *arg);
static Node *find_event_column(ParseState *pstate, ColumnRef *cref, Node *var);
static Node *event_param(int id, Oid type, int32 typmod, Oid collation, int location);
static ParamExternData *fetch_param(ParamListInfo params, int id, bool speculative,
									ParamExternData *workspace);
static bool hide_events(Node *node, void *context);
static void register_events(Relation events, Tuplestorestate *tuples);

EsHandler *
EsHandlerCompile(const char *statement, Relation events, bool batch)
{
	MemoryContext context = CurrentMemoryContext;
	EsHandler *handler = palloc0(sizeof(EsHandler));

	PG_TRY();
	{
		check_statement(statement);
		if (batch)
			register_events(events, tuplestore_begin_heap(false, false, work_mem));
		prepare(handler, statement, batch);
		if (batch)
			SPI_unregister_relation(EVENTS_NAME);
	}
	PG_CATCH();
	{
		invalid_statement(context, statement);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context); /* SPI leaves its own */

	handler->free_plan.func = free_plan;
	handler->free_plan.arg = handler->plan;
	MemoryContextRegisterResetCallback(context, &handler->free_plan);
	if (!batch)
	{
		handler->params = makeParamList(0);
		handler->params->paramFetch = fetch_param;
		handler->params->paramFetchArg = handler;
		handler->params->numParams = EVENT_ROW_PARAM;
	}
	return handler;
}

List *
EsHandlerQueries(EsHandler *handler)
{
	List *sources = SPI_plan_get_plan_sources(handler->plan);
	List *queries = copyObject(((CachedPlanSource *) linitial(sources))->query_list);

	(void) hide_events((Node *) queries, NULL);
	return queries;
}

void
EsHandlerRun(EsHandler *handler, TupleTableSlot *event)
{
	SPIExecuteOptions options = {0};
	TupleTableSlot *outer = handler->event; /* what the statement does may append */

	handler->event = event;
	options.params = handler->params;
	options.dest = None_Receiver;
	if (SPI_execute_plan_extended(handler->plan, &options) < 0)
		elog(ERROR, "could not run the statement of a projection");
	handler->event = outer;
}

void
EsHandlerRunBatch(EsHandler *handler, Relation events, Tuplestorestate *tuples)
{
	SPIExecuteOptions options = {0};

	register_events(events, tuples);
	options.dest = None_Receiver;
	if (SPI_execute_plan_extended(handler->plan, &options) < 0)
		elog(ERROR, "could not run the statement of a projection");
	SPI_unregister_relation(EVENTS_NAME);
}

/* Refuses text that is not one statement that reads or writes rows. */
static void
check_statement(const char *statement)
{
	List *statements = raw_parser(statement, RAW_PARSE_DEFAULT);
	Node *node;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%d statements instead of one", list_length(statements))));
	node = linitial_node(RawStmt, statements)->stmt;
	if ((IsA(node, SelectStmt) && ((SelectStmt *) node)->intoClause == NULL) ||
		IsA(node, InsertStmt) || IsA(node, UpdateStmt) || IsA(node, DeleteStmt) ||
		IsA(node, MergeStmt))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("not an INSERT, UPDATE, DELETE, MERGE or SELECT")));
}

/* Rethrows the current error as that of a faulty projection, with its position. */
static void
invalid_statement(MemoryContext context, const char *statement)
{
	ErrorData *error;
	int category;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	if (category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) ||
		error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		PG_RE_THROW();
	FlushErrorState();
	error->sqlerrcode = ES_ERRCODE_INVALID_PROJECTION;
	error->message = psprintf("invalid statement: %s", error->message);
	if (error->cursorpos > 0)
	{
		error->internalpos = error->cursorpos;
		error->internalquery = pstrdup(statement);
		error->cursorpos = 0;
	}
	if (error->hint == NULL)
		error->hint = pstrdup("Give one INSERT, UPDATE, DELETE, MERGE or SELECT; "
							  "the event's columns are event.data, event.aggregate_id and so on.");
	ReThrowError(error);
}

/* Prepares the statement and keeps the plan. */
static void
prepare(EsHandler *handler, const char *statement, bool batch)
{
	SPIPrepareOptions options = {0};

	options.parseMode = RAW_PARSE_DEFAULT;
	options.parserSetup = batch ? NULL : setup_parser;
	handler->plan = SPI_prepare_extended(statement, &options);
	if (handler->plan == NULL || SPI_keepplan(handler->plan) != 0)
		elog(ERROR, "could not prepare the statement of a projection");
}

/* Frees a kept plan together with the memory that its handler is in. */
static void
free_plan(void *arg)
{
	SPI_freeplan(arg);
}

static void
setup_parser(ParseState *pstate, void *arg)
{
	pstate->p_post_columnref_hook = find_event_column;
}

/* Resolves "event", "event.*" and "event.column", unless the query has such a name itself. */
static Node *
find_event_column(ParseState *pstate, ColumnRef *cref, Node *var)
{
	Oid events = EsCatalogOid(ES_OBJECT_EVENTS);
	const char *column;
	AttrNumber attnum;
	Oid type;
	int32 typmod;
	Oid collation;

	if (var != NULL || list_length(cref->fields) > 2 || !IsA(linitial(cref->fields), String) ||
		strcmp(strVal(linitial(cref->fields)), EVENT_NAME) != 0)
		return NULL;
	if (list_length(cref->fields) == 1 || IsA(lsecond(cref->fields), A_Star))
		return event_param(EVENT_ROW_PARAM, get_rel_type_id(events), -1, InvalidOid,
						   cref->location);

	column = strVal(lsecond(cref->fields));
	attnum = get_attnum(events, column);
	if (attnum < ES_EVENT_POSITION || attnum > ES_EVENT_NCOLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("an event has no column \"%s\"", column),
				 parser_errposition(pstate, cref->location)));
	get_atttypetypmodcoll(events, attnum, &type, &typmod, &collation);
	return event_param(attnum, type, typmod, collation, cref->location);
}

static Node *
event_param(int id, Oid type, int32 typmod, Oid collation, int location)
{
	Param *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = id;
	param->paramtype = type;
	param->paramtypmod = typmod;
	param->paramcollid = collation;
	param->location = location;
	return (Node *) param;
}

/* Gives the executor a column of the event, or all of it. */
static ParamExternData *
fetch_param(ParamListInfo params, int id, bool speculative, ParamExternData *workspace)
{
	TupleTableSlot *event = ((EsHandler *) params->paramFetchArg)->event;

	workspace->pflags = PARAM_FLAG_CONST;
	if (id == EVENT_ROW_PARAM)
	{
		workspace->ptype = event->tts_tupleDescriptor->tdtypeid;
		workspace->isnull = false;
		workspace->value = ExecFetchSlotHeapTupleDatum(event);
	}
	else
	{
		workspace->ptype = TupleDescAttr(event->tts_tupleDescriptor, id - 1)->atttypid;
		workspace->value = slot_getattr(event, id, &workspace->isnull);
	}
	return workspace;
}

/* Takes the relation "events" out: newer versions refuse to record a dependency on it. */
static bool
hide_events(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_NAMEDTUPLESTORE)
			rte->rtekind = RTE_RESULT;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, hide_events, context, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, hide_events, context);
}

/* Makes the tuples known to SPI as the relation "events". */
static void
register_events(Relation events, Tuplestorestate *tuples)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(EVENTS_NAME);
	relation->md.reliddesc = RelationGetRelid(events);
	relation->md.tupdesc = NULL;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = tuplestore_tuple_count(tuples);
	relation->reldata = tuples;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the events of a projection");
}
