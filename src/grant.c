/*
 * grant.c
 *	  es.grant_reader(), es.grant_writer() and their counterparts.
 *
 * A reader or writer is a role with some privileges on objects of the
 * extension, so pg_dump, DROP OWNED and ALTER ROLE ... RENAME treat them as
 * any others.  Only the aggregate types that a writer is limited to are no
 * privilege; they are in es.writer (see writer.c).
 *
 * Readers may call all functions that ask for further rights themselves: SELECT
 * on es.events, owning a state table or a subscription.  Some functions are
 * both readers' and writers'; who is no longer the one is given anew what the
 * other needs.
 *
 * The caller must own the log.  All is done by GRANT and REVOKE, as the caller.
 * ShareRowExclusiveLock on es.writer has these functions wait for each other.
 */
#include "postgres.h"

#include "argument.h"
#include "catalog.h"
#include "catalog/pg_type_d.h"
#include "compat.h"
#include "event.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "version.h"

/* A role that is granted something, or not any more. */
typedef struct Grantee
{
	Oid role;
	char *name;
	const char *identifier; /* the name, quoted */
} Grantee;

/* Names of functions, as the elements of an array of text. */
#define READER_FUNCTIONS \
	"'aggregates', 'current_version', 'high_water_mark', 'is_replaying', 'load'," \
	"'read_aggregate', 'read_all', 'read_correlation', 'uuid_v7', 'version', 'wait_for'," /* projections, for the owners of state tables */ \
	"'alter_projection', 'create_environment', 'create_projection', 'drop_projection'," \
	"'refuse_direct_write', 'replay', 'replay_into', 'replay_keys', 'replays'," \
	"'run_projections', 'set_batch_handler', 'set_handler', 'verify_projection'," /* subscriptions, for their owners, and what was put aside */ \
	"'ack', 'create_subscription', 'discard_parked', 'drop_subscription', 'extend_lease'," \
	"'fetch', 'nack', 'playback', 'retry_parked', 'seek'"

#define WRITER_FUNCTIONS \
	"'append', 'append_batch', 'append_events', 'current_version', 'high_water_mark'," \
	"'is_replaying', 'uuid_v7', 'version', 'wait_for'"

#define LOG_COLUMNS \
	"\"position\", version, recorded_at, occurred_at, event_id, schema_version, aggregate_type," \
	" aggregate_id, event_type, source, correlation_id, causation_id, data, metadata"

ES_FUNCTION_INFO_V1(es_grant_reader);
ES_FUNCTION_INFO_V1(es_grant_writer);
ES_FUNCTION_INFO_V1(es_revoke_reader);
ES_FUNCTION_INFO_V1(es_revoke_writer);

static Grantee begin(FunctionCallInfo fcinfo, const char *function);
static ArrayType *types_argument(FunctionCallInfo fcinfo, int arg);
static void add_types(const Grantee *grantee, ArrayType *types);
static void remove_types(const Grantee *grantee, ArrayType *types);
static bool has_entry(const Grantee *grantee);
static bool has_privilege(const Grantee *grantee, const char *privilege);
static void grant_functions(const char *functions, const Grantee *grantee);
static void revoke_functions(const char *functions, const Grantee *grantee);
static char *signatures(const char *functions);
static char *reading_relations(void);
static char *value_of(const char *query);
static void run(const char *query, const Grantee *grantee, ArrayType *types);
static void execute(const char *command);

/* es.grant_reader(): lets a role read the log. */
Datum
es_grant_reader(PG_FUNCTION_ARGS)
{
	Grantee grantee = begin(fcinfo, "es.grant_reader()");

	execute(psprintf("GRANT SELECT ON TABLE %s TO %s", reading_relations(), grantee.identifier));
	grant_functions(READER_FUNCTIONS, &grantee);
	execute(psprintf("GRANT USAGE ON SCHEMA es TO %s", grantee.identifier));
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.grant_writer(): lets a role append events, of every aggregate type or of these too. */
Datum
es_grant_writer(PG_FUNCTION_ARGS)
{
	ArrayType *types = types_argument(fcinfo, 1);
	Grantee grantee = begin(fcinfo, "es.grant_writer()");

	if (types == NULL)
	{
		remove_types(&grantee, NULL);
		execute(psprintf("REVOKE INSERT ON TABLE es.events FROM %s", grantee.identifier));
		execute(psprintf("GRANT INSERT ON TABLE es.events TO %s", grantee.identifier));
	}
	else if (!has_privilege(&grantee, "INSERT"))
	{
		add_types(&grantee, types);
		execute(psprintf("GRANT INSERT (" LOG_COLUMNS ") ON TABLE es.events TO %s", grantee.identifier));
	}
	grant_functions(WRITER_FUNCTIONS, &grantee);
	execute(psprintf("GRANT USAGE ON SCHEMA es TO %s", grantee.identifier));
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.revoke_reader(): takes back what es.grant_reader() gives. */
Datum
es_revoke_reader(PG_FUNCTION_ARGS)
{
	Grantee grantee = begin(fcinfo, "es.revoke_reader()");

	execute(psprintf("REVOKE SELECT ON TABLE %s FROM %s", reading_relations(), grantee.identifier));
	revoke_functions(READER_FUNCTIONS, &grantee);
	if (has_privilege(&grantee, "INSERT") || has_entry(&grantee))
		grant_functions(WRITER_FUNCTIONS, &grantee);
	else
		execute(psprintf("REVOKE USAGE ON SCHEMA es FROM %s", grantee.identifier));
	SPI_finish();
	PG_RETURN_VOID();
}

/* es.revoke_writer(): takes back what es.grant_writer() gives, or only these types. */
Datum
es_revoke_writer(PG_FUNCTION_ARGS)
{
	ArrayType *types = types_argument(fcinfo, 1);
	Grantee grantee = begin(fcinfo, "es.revoke_writer()");

	if (types != NULL && has_privilege(&grantee, "INSERT"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role \"%s\" may append events of every aggregate type", grantee.name),
				 errhint("Call es.revoke_writer() without types, and es.grant_writer() with those that the role is to keep.")));
	remove_types(&grantee, types);
	if (!has_entry(&grantee))
	{
		execute(psprintf("REVOKE INSERT ON TABLE es.events FROM %s", grantee.identifier));
		revoke_functions(WRITER_FUNCTIONS, &grantee);
		if (has_privilege(&grantee, "SELECT"))
			grant_functions(READER_FUNCTIONS, &grantee);
		else
			execute(psprintf("REVOKE USAGE ON SCHEMA es FROM %s", grantee.identifier));
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * Checks the caller and returns the role in the first argument; connects SPI.
 * Entries of roles that are no more are removed.
 */
static Grantee
begin(FunctionCallInfo fcinfo, const char *function)
{
	Grantee grantee;

	EsRefuseReadOnly(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role must not be null")));
	if (!EsRelationOwnerCheck(EsCatalogOid(ES_OBJECT_EVENTS), GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, "events");
	grantee.role = PG_GETARG_OID(0);
	grantee.name = GetUserNameFromId(grantee.role, false);
	grantee.identifier = quote_identifier(grantee.name);

	SPI_connect();
	LockRelationOid(EsCatalogOid(ES_OBJECT_WRITER), ShareRowExclusiveLock);
	run("DELETE FROM es.writer WHERE role::pg_catalog.text OPERATOR(pg_catalog.=) ''", NULL, NULL);
	return grantee;
}

/* Returns an argument that lists aggregate types, or null. */
static ArrayType *
types_argument(FunctionCallInfo fcinfo, int arg)
{
	ArrayType *array;
	Datum *elements;
	bool *nulls;
	int count;

	if (PG_ARGISNULL(arg))
		return NULL;
	array = PG_GETARG_ARRAYTYPE_P(arg);
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (ARR_NDIM(array) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("aggregate_types must be a list that is not empty"),
				 errhint("Leave it out for every type.")));
	for (int i = 0; i < count; i++)
	{
		int length;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("aggregate_types must not contain null")));
		length = VARSIZE_ANY_EXHDR(DatumGetPointer(elements[i]));
		if (length == 0 || length > ES_MAX_NAME_LENGTH)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("an aggregate type has 1 to %d bytes, not %d", ES_MAX_NAME_LENGTH,
							length)));
	}
	return array;
}

/* Adds types to those that the role may append. */
static void
add_types(const Grantee *grantee, ArrayType *types)
{
	run("WITH old AS (DELETE FROM es.writer WHERE role::pg_catalog.text OPERATOR(pg_catalog.=) $1"
		"             RETURNING aggregate_types)"
		" INSERT INTO es.writer (role, aggregate_types)"
		" SELECT $1::es.role, pg_catalog.array_agg(DISTINCT t.name COLLATE \"C\")"
		"   FROM (SELECT pg_catalog.unnest($2) UNION ALL"
		"         SELECT pg_catalog.unnest(aggregate_types) FROM old) AS t (name)",
		grantee, types);
}

/* Removes types from those that the role may append, or (null) all. */
static void
remove_types(const Grantee *grantee, ArrayType *types)
{
	run("WITH old AS (DELETE FROM es.writer WHERE role::pg_catalog.text OPERATOR(pg_catalog.=) $1"
		"             RETURNING aggregate_types)"
		" INSERT INTO es.writer (role, aggregate_types)"
		" SELECT $1::es.role, rest.types"
		"   FROM (SELECT pg_catalog.array_agg(DISTINCT t.name COLLATE \"C\")"
		"           FROM (SELECT pg_catalog.unnest(aggregate_types) FROM old) AS t (name)"
		"          WHERE NOT t.name OPERATOR(pg_catalog.=) ANY ($2)) AS rest (types)"
		"  WHERE rest.types IS NOT NULL",
		grantee, types);
}

/* Says whether the role is limited to some types. */
static bool
has_entry(const Grantee *grantee)
{
	return value_of(psprintf("SELECT pg_catalog.min(role::pg_catalog.text) FROM es.writer"
							 " WHERE role::pg_catalog.text OPERATOR(pg_catalog.=) %s",
							 quote_literal_cstr(grantee->name))) != NULL;
}

/* Says whether a privilege on es.events was granted to the role itself. */
static bool
has_privilege(const Grantee *grantee, const char *privilege)
{
	return value_of(psprintf("SELECT pg_catalog.min(a.privilege_type)"
							 "  FROM pg_catalog.pg_class AS c"
							 " CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a"
							 " WHERE c.oid OPERATOR(pg_catalog.=) %u"
							 "   AND a.grantee OPERATOR(pg_catalog.=) %u"
							 "   AND a.privilege_type OPERATOR(pg_catalog.=) '%s'",
							 EsCatalogOid(ES_OBJECT_EVENTS), grantee->role, privilege)) != NULL;
}

static void
grant_functions(const char *functions, const Grantee *grantee)
{
	execute(psprintf("GRANT EXECUTE ON FUNCTION %s TO %s", signatures(functions), grantee->identifier));
}

static void
revoke_functions(const char *functions, const Grantee *grantee)
{
	execute(psprintf("REVOKE EXECUTE ON FUNCTION %s FROM %s", signatures(functions), grantee->identifier));
}

/* Returns those functions of the extension that have these names. */
static char *
signatures(const char *functions)
{
	return value_of(
		psprintf("SELECT pg_catalog.string_agg(p.oid::pg_catalog.regprocedure::pg_catalog.text, ', ')"
				 "  FROM pg_catalog.pg_depend AS d"
				 "  JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) d.objid"
				 " WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass"
				 "   AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass"
				 "   AND d.refobjid OPERATOR(pg_catalog.=) %u"
				 "   AND d.deptype OPERATOR(pg_catalog.=) 'e'"
				 "   AND p.proname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[%s])",
				 EsCatalogExtension(), functions));
}

/* Returns what readers read: the log and the views. */
static char *
reading_relations(void)
{
	return value_of(
		psprintf("SELECT pg_catalog.concat_ws(', ', 'es.events',"
				 "       pg_catalog.string_agg(c.oid::pg_catalog.regclass::pg_catalog.text, ', '))"
				 "  FROM pg_catalog.pg_depend AS d"
				 "  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) d.objid"
				 "   AND c.relkind OPERATOR(pg_catalog.=) 'v'"
				 " WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
				 "   AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass"
				 "   AND d.refobjid OPERATOR(pg_catalog.=) %u"
				 "   AND d.deptype OPERATOR(pg_catalog.=) 'e'",
				 EsCatalogExtension()));
}

/* Returns the only value of a query's only row as text, NULL if it is null. */
static char *
value_of(const char *query)
{
	if (SPI_execute(query, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not execute \"%s\"", query);
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* Changes es.writer; in the statement $1 is the role's name, $2 the types. */
static void
run(const char *query, const Grantee *grantee, ArrayType *types)
{
	Oid argtypes[] = {TEXTOID, TEXTARRAYOID};
	Datum args[2] = {0};
	const char nulls[] = {' ', types == NULL ? 'n' : ' ', '\0'};
	int nargs = 0;

	if (grantee != NULL)
	{
		args[0] = CStringGetTextDatum(grantee->name);
		args[1] = PointerGetDatum(types);
		nargs = lengthof(args);
	}
	if (SPI_execute_with_args(query, nargs, argtypes, args, nulls, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", query);
}

/* Runs a GRANT or REVOKE. */
static void
execute(const char *command)
{
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command);
}
