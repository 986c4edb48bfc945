/*
 * query.c
 *	  Queries on the extension's own tables, with their owner's rights.
 *
 * The roles that use the extension have no rights on these tables, so that
 * nothing changes them but the extension's functions, which check what the
 * caller may do.  For the time of a query the current user is the owner of the
 * tables.  An error needs no clean-up: the end of the (sub)transaction resets
 * the user.
 */
#include "postgres.h"

#include "access/xact.h"
#include "acting.h"
#include "catalog.h"
#include "executor/spi.h"
#include "nodes/params.h"
#include "nodes/parsenodes.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

static void execute(EsQuery *query, const EsValue *args, DestReceiver *dest, bool read_only);
static SPIPlanPtr prepare(EsQuery *query);

uint64
EsQueryRun(EsQuery *query, const EsValue *args)
{
	execute(query, args, NULL, false);
	return SPI_processed;
}

void
EsQueryCheckSnapshot(EsQuery *query, const EsValue *args)
{
	if (!IsolationUsesXactSnapshot())
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	execute(query, args, NULL, true);
	PopActiveSnapshot();
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent changes of the subscription")));
}

void
EsQuerySend(EsQuery *query, const EsValue *args, DestReceiver *dest)
{
	execute(query, args, dest, false);
}

EsValue
EsQueryColumn(uint64 row, int column)
{
	EsValue result;

	result.value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column,
								 &result.isnull);
	return result;
}

bool
EsQueryBool(uint64 row, int column)
{
	EsValue value = EsQueryColumn(row, column);

	return !value.isnull && DatumGetBool(value.value);
}

int32
EsQueryInt32(uint64 row, int column)
{
	EsValue value = EsQueryColumn(row, column);

	return value.isnull ? 0 : DatumGetInt32(value.value);
}

int64
EsQueryInt64(uint64 row, int column)
{
	EsValue value = EsQueryColumn(row, column);

	return value.isnull ? 0 : DatumGetInt64(value.value);
}

char *
EsQueryText(uint64 row, int column)
{
	EsValue value = EsQueryColumn(row, column);

	return value.isnull ? NULL : TextDatumGetCString(value.value);
}

EsValue
EsValueText(const char *text)
{
	EsValue result = {.isnull = text == NULL};

	if (text != NULL)
		result.value = CStringGetTextDatum(text);
	return result;
}

EsValue
EsValueInt64(int64 value)
{
	return (EsValue){.value = Int64GetDatum(value)};
}

EsValue
EsValueInt32(int32 value)
{
	return (EsValue){.value = Int32GetDatum(value)};
}

EsValue
EsValueBool(bool value)
{
	return (EsValue){.value = BoolGetDatum(value)};
}

EsValue
EsValueArray(ArrayType *array)
{
	return (EsValue){.value = PointerGetDatum(array), .isnull = array == NULL};
}

EsValue
EsValueNull(void)
{
	return (EsValue){.isnull = true};
}

/*
 * Runs the query, which is prepared first unless it is already; read_only: with
 * the active snapshot.
 */
static void
execute(EsQuery *query, const EsValue *args, DestReceiver *dest, bool read_only)
{
	SPIExecuteOptions options = {.dest = dest,
								 .must_return_tuples = dest != NULL,
								 .read_only = read_only};
	EsActing acting;

	options.params = makeParamList(query->nargs);
	for (int i = 0; i < query->nargs; i++)
	{
		ParamExternData *param = &options.params->params[i];

		param->ptype = query->types[i];
		param->pflags = PARAM_FLAG_CONST;
		param->value = args[i].value;
		param->isnull = args[i].isnull;
	}
	EsActingBegin(&acting, EsCatalogOwner(), NULL);
	if (query->plan == NULL)
		query->plan = prepare(query);
	if (SPI_execute_plan_extended(query->plan, &options) < 0)
		elog(ERROR, "could not run \"%s\"", query->text);
	EsActingEnd(&acting);
}

/* Prepares the query, to be kept as long as the session: one plan for all arguments. */
static SPIPlanPtr
prepare(EsQuery *query)
{
	SPIPlanPtr plan =
		SPI_prepare_cursor(query->text, query->nargs, query->types, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\"", query->text);
	return plan;
}
