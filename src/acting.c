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
 * Setting a GUC costs more than folding an event, so only those that differ
 * are set, and callers pass no settings for code that can't depend on them.
 */
#include "postgres.h"

#include "access/transam.h"
#include "acting.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/guc.h"

static const char *const pinned_settings[] = {
	"search_path", "TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits"};

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
		if (current != NULL && strcmp(current, value) != 0)
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
		items[i] = CStringGetTextDatum(psprintf("%s=%s", pinned_settings[i],
												GetConfigOption(pinned_settings[i], false, false)));
	return construct_array(items, lengthof(pinned_settings), TEXTOID, -1, false, TYPALIGN_INT);
}

bool
EsActingNeedsSettings(Node *expr)
{
	return contain_mutable_functions(expr) || calls_user_function(expr, NULL);
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
