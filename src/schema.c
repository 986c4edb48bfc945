/*
 * schema.c
 *	  What CREATE EXTENSION looks at before it makes anything.
 *
 * PostgreSQL installs an extension into a schema that exists, whoever has made
 * it.  Its owner could drop and replace what is in it.  And what others have put
 * there is found, in the script and by those who call es.something(), where it
 * fits better than the extension's own function or operator.  So the schema must
 * belong to the current user or a superuser, nobody else may create anything in it,
 * and it must be empty.
 *
 * A dump creates the schema and the extension first, and then what users have
 * added to the schema.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension_d.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/syscache.h"
#include "version.h"

ES_FUNCTION_INFO_V1(es_check_schema);

static Oid owner_of(Oid schema);
static void check_privileges(Oid schema, Oid owner);
static void check_empty(Oid schema);

/* es.check_schema(): see above; part of the extension's script only. */
Datum
es_check_schema(PG_FUNCTION_ARGS)
{
	Oid schema = get_namespace_oid("es", false);
	Oid owner = owner_of(schema);

	if (!creating_extension)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("es.check_schema() can only be called by CREATE EXTENSION")));
	if (owner != GetUserId() && !superuser_arg(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"es\" belongs to role \"%s\"", GetUserNameFromId(owner, false)),
				 errdetail("The owner of a schema can replace what is in it."),
				 errhint("Make it your own with ALTER SCHEMA ... OWNER TO, or drop it: CREATE EXTENSION creates it.")));
	check_privileges(schema, owner);
	check_empty(schema);
	PG_RETURN_VOID();
}

static Oid
owner_of(Oid schema)
{
	HeapTuple tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", schema);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Refuses a schema that others may create objects in. */
static void
check_privileges(Oid schema, Oid owner)
{
	HeapTuple tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	bool isnull;
	Datum datum = SysCacheGetAttr(NAMESPACEOID, tuple, Anum_pg_namespace_nspacl, &isnull);
	Acl *acl = isnull ? NULL : DatumGetAclPCopy(datum);

	ReleaseSysCache(tuple);
	for (int i = 0; acl != NULL && i < ACL_NUM(acl); i++)
	{
		AclItem *item = &ACL_DAT(acl)[i];
		const char *grantee;

		if (item->ai_grantee == owner || (ACLITEM_GET_PRIVS(*item) & ACL_CREATE) == 0)
			continue;
		grantee = item->ai_grantee == ACL_ID_PUBLIC
			? "PUBLIC"
			: quote_identifier(GetUserNameFromId(item->ai_grantee, false));
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"es\" is open to others"),
				 errdetail("CREATE on it is granted to %s.", grantee),
				 errhint("REVOKE CREATE ON SCHEMA es FROM %s, or drop the schema: CREATE EXTENSION creates it.", grantee)));
	}
}

/* Refuses a schema that holds anything but what the running script has made. */
static void
check_empty(Oid schema)
{
	Relation depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(schema));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);
		ObjectAddress object;

		if (dependency->classid == ExtensionRelationId ||
			getExtensionOfObject(dependency->classid, dependency->objid) ==
				CurrentExtensionObject)
			continue;
		ObjectAddressSet(object, dependency->classid, dependency->objid);
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("schema \"es\" is not empty"),
				 errdetail("It contains %s.", getObjectDescription(&object, false)),
				 errhint("Drop the schema, or move what is in it: CREATE EXTENSION creates a schema of its own.")));
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
}
