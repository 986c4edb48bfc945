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
 * Setting a GUC costs more than folding an event, so only those that differ
 * are set, and callers pass no settings for code that can't depend on them.
 */
#include "postgres.h"

#include "access/transam.h"
#include "acting.h"
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/guc.h"

static const char *const pinned_settings[] = {
	"search_path", "TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits"};

#define TEMP_LAST ", pg_temp"

static bool is_in_force(const char *name, const char *value, const char *current);
static bool is_user_function(Oid function, void *context);
static bool calls_user_function(Node *node, void *context);

void
EsActingBegin(EsActing *acting, Oid role, ArrayType *settings)
{
	Datum *items;
	int nitems;

	GetUserIdAndSecContext(&acting->userid, &acting->sec_context);
	acting->guc_level = 0;
	SetUserIdAndSecContext(role,
						   acting->sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	if (settings == NULL)
		return;

	deconstruct_array(settings, TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &nitems);
	for (int i = 0; i < nitems; i++)
	{
		char *name = TextDatumGetCString(items[i]);
		char *value = strchr(name, '=');
		const char *current;

		if (value == NULL)
			elog(ERROR, "malformed setting \"%s\"", name);
		*value++ = '\0';
		current = GetConfigOption(name, true, false);
		if (current != NULL && !is_in_force(name, value, current))
		{
			if (acting->guc_level == 0)
				acting->guc_level = NewGUCNestLevel();
			(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		}
		pfree(name);
	}
	pfree(items);
}

void
EsActingEnd(EsActing *acting)
{
	if (acting->guc_level != 0)
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
