/*
 * role.c
 *	  es.role, the type in which the extension's tables refer to roles.
 *
 * It is the role's OID, written as the role's present name.  So ALTER ROLE ...
 * RENAME changes nothing, a role that takes the old name gets nothing, and a dump
 * holds names.  Unlike regrole it reads the name of a role that is not there, as no
 * role (0, written as an empty name): or else a whole table would fail to load
 * where one role of many is missing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

/* Without a look at the version: a database can be dumped before it is upgraded. */
PG_FUNCTION_INFO_V1(es_role_in);
PG_FUNCTION_INFO_V1(es_role_out);

/* es.role_in(): the role of this name, 0 if there is none. */
Datum
es_role_in(PG_FUNCTION_ARGS)
{
	char *name = PG_GETARG_CSTRING(0);

	PG_RETURN_OID(get_role_oid(name, true));
}

/* es.role_out(): the role's name, empty if there is no such role. */
Datum
es_role_out(PG_FUNCTION_ARGS)
{
	char *name = GetUserNameFromId(PG_GETARG_OID(0), true);

	PG_RETURN_CSTRING(name == NULL ? pstrdup("") : name);
}
