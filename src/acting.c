/*
 * acting.c
 *	  Acting as another role, with the settings that its code was made under.
 *
 * Code that a projection runs belongs to the projection's owner, but it runs
 * in the sessions of all writers.  Its result may depend neither on who writes
 * nor on how that session is set, or else a replay would give other rows than
 * the writers did.  So we pin the role, and the settings that change what
 * names, casts and literals mean.
 *
 * A session's temporary objects come first in every search_path that does not
 * mention them.  A writer could give the owner's code his own type or table
 * that way, so the pinned search_path mentions them, last.
 *
 * What that code itself sets is undone when it ends.  Or else it could leave its
 * owner's search_path behind, for the next command of whoever has appended.
 *
 * Setting a GUC costs more than folding an event, so only those that differ
 * are set, and callers pass no settings for code that can't depend on them.
 * Even looking GUCs up by name shows, so we remember what had to be set for the
 * last settings, and in which state of the session.
 */
#include "postgres.h"

#include "access/transam.h"
#include "acting.h"
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "pgtime.h"
#include "tsearch/ts_cache.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"

static const char *const pinned_settings[] = {
	"search_path", "TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output",
	"default_text_search_config", "standard_conforming_strings", "transform_null_equals", "array_nulls"};

/* What the pinned settings are in the session, and so their names as well. */
typedef struct SessionState
{
	const char *search_path;
	Oid temp_namespace;
	pg_tz *timezone;
	int date_style;
	int date_order;
	int interval_style;
	int float_digits;
	int bytea_format;
	const char *search_config;
	bool conforming_strings;
	bool null_equals;
	bool array_nulls;
} SessionState;

/* A setting of an array, to be set. */
typedef struct Change
{
	const char *name;
	const char *value;
} Change;

/* What is to be set, a list of Change, for these settings in this state of the session. */
static ArrayType *known_settings = NULL;
static SessionState known_state;
static List *known_changes;

#define TEMP_LAST ", pg_temp"

static SessionState session_state(void);
static bool is_known(ArrayType *settings, const SessionState *state);
static void find_changes(ArrayType *settings, const SessionState *state);
static bool is_in_force(const char *name, const char *value, const char *current);
static bool is_user_function(Oid function, void *context);
static bool calls_user_function(Node *node, void *context);

void
EsActingBegin(EsActing *acting, Oid role, ArrayType *settings)
{
	SessionState state;
	ListCell *lc;

	GetUserIdAndSecContext(&acting->userid, &acting->sec_context);
	acting->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(role,
						   acting->sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	if (settings == NULL)
		return;

	state = session_state();
	if (!is_known(settings, &state))
		find_changes(settings, &state);
	foreach(lc, known_changes)
	{
		Change *change = lfirst(lc);

		(void) set_config_option(change->name, change->value, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	}
}

void
EsActingEnd(EsActing *acting)
{
	AtEOXact_GUC(false, acting->guc_level);
	SetUserIdAndSecContext(acting->userid, acting->sec_context);
}

ArrayType *
EsActingSettings(void)
{
	Datum items[lengthof(pinned_settings)];

	for (int i = 0; i < (int) lengthof(pinned_settings); i++)
	{
		const char *name = pinned_settings[i];
		const char *value = GetConfigOption(name, false, false);
		bool add_temp = strcmp(name, "search_path") == 0 && strstr(value, "pg_temp") == NULL;

		items[i] = CStringGetTextDatum(psprintf("%s=%s%s", name, value,
												!add_temp ? "" : value[0] == '\0' ? "pg_temp"
																				  : TEMP_LAST));
	}
	return construct_array(items, lengthof(pinned_settings), TEXTOID, -1, false, TYPALIGN_INT);
}

bool
EsActingNeedsSettings(Node *expr)
{
	return contain_mutable_functions(expr) || calls_user_function(expr, NULL);
}

/*
 * The details of violated constraints show rows.  PostgreSQL sees to it that the
 * current user may read them, which is the code's owner; but somebody else is told.
 * Other details are what the owner's code says.  As violations are raised without
 * low-level locks, the catalogs can be asked even before the transaction is aborted.
 */
bool
EsActingHidesDetail(const ErrorData *error, Oid relid)
{
	int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	Oid user = GetOuterUserId();

	if (error->detail == NULL ||
		(category != ERRCODE_TO_CATEGORY(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION) &&
		 category != ERRCODE_TO_CATEGORY(ERRCODE_WITH_CHECK_OPTION_VIOLATION)))
		return false;
	if (error->schema_name != NULL && error->table_name != NULL)
		relid = get_relname_relid(error->table_name,
								  get_namespace_oid(error->schema_name, true));
	return !OidIsValid(relid) ||
		pg_class_aclcheck(relid, user, ACL_SELECT) != ACLCHECK_OK ||
		check_enable_rls(relid, user, true) == RLS_ENABLED;
}

static SessionState
session_state(void)
{
	SessionState state = {
		.search_path = namespace_search_path,
		.temp_namespace = LookupNamespaceNoError("pg_temp"),
		.timezone = session_timezone,
		.date_style = DateStyle,
		.date_order = DateOrder,
		.interval_style = IntervalStyle,
		.float_digits = extra_float_digits,
		.bytea_format = bytea_output,
		.search_config = TSCurrentConfig,
		.conforming_strings = standard_conforming_strings,
		.null_equals = Transform_null_equals,
		.array_nulls = Array_nulls};

	return state;
}

/* Says whether known_changes is about these settings and this state. */
static bool
is_known(ArrayType *settings, const SessionState *state)
{
	return known_settings != NULL && state->temp_namespace == known_state.temp_namespace &&
		state->timezone == known_state.timezone && state->date_style == known_state.date_style &&
		state->date_order == known_state.date_order &&
		state->interval_style == known_state.interval_style &&
		state->float_digits == known_state.float_digits &&
		state->bytea_format == known_state.bytea_format &&
		state->conforming_strings == known_state.conforming_strings &&
		state->null_equals == known_state.null_equals &&
		state->array_nulls == known_state.array_nulls &&
		VARSIZE(settings) == VARSIZE(known_settings) &&
		memcmp(settings, known_settings, VARSIZE(settings)) == 0 &&
		strcmp(state->search_path, known_state.search_path) == 0 &&
		strcmp(state->search_config, known_state.search_config) == 0;
}

/* Finds out which settings the session does not have; marked as known last. */
static void
find_changes(ArrayType *settings, const SessionState *state)
{
	static MemoryContext context = NULL;
	MemoryContext old;
	Datum *items;
	int nitems;

	known_settings = NULL;
	known_changes = NIL;
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "es settings", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(context);
	old = MemoryContextSwitchTo(context);
	deconstruct_array(settings, TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &nitems);
	for (int i = 0; i < nitems; i++)
	{
		Change *change = palloc(sizeof(Change));
		char *name = TextDatumGetCString(items[i]);
		char *value = strchr(name, '=');
		const char *current;

		if (value == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("malformed setting \"%s\" in es.projection", name)));
		*value++ = '\0';
		change->name = name;
		change->value = value;
		current = GetConfigOption(name, true, false);
		if (current != NULL && !is_in_force(name, value, current))
			known_changes = lappend(known_changes, change);
	}
	known_state = *state;
	known_state.search_path = pstrdup(state->search_path);
	known_state.search_config = pstrdup(state->search_config);
	known_settings = DatumGetArrayTypePCopy(PointerGetDatum(settings));
	MemoryContextSwitchTo(old);
}

/*
 * Says whether a setting need not be set: it has the value already, or would
 * only put a temporary schema last that the session does not have.
 */
static bool
is_in_force(const char *name, const char *value, const char *current)
{
	size_t length = strlen(current);

	if (strcmp(value, current) == 0)
		return true;
	return strncmp(value, current, length) == 0 && strcmp(value + length, TEMP_LAST) == 0 &&
		strcmp(name, "search_path") == 0 && !OidIsValid(LookupNamespaceNoError("pg_temp"));
}

/* Says whether a function is not PostgreSQL's own, so that its body may use any setting. */
static bool
is_user_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

static bool
calls_user_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, is_user_function, context))
		return true;
	return expression_tree_walker(node, calls_user_function, context);
}
