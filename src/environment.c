/*
 * environment.c
 *	  es.create_environment(): the state tables as of a moment, in a new schema.
 *
 * The schema and the tables are made by ordinary DDL as the current user, who
 * owns them and so must be allowed to: CREATE on the database, SELECT on the
 * state tables.  All tables are filled from one snapshot, taken once the last
 * state table is locked (as by a reader), so they fit together.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "argument.h"
#include "catalog/namespace.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_type_d.h"
#include "commands/comment.h"
#include "compat.h"
#include "errors.h"
#include "executor/spi.h"
#include "fill.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/scansup.h"
#include "past.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "version.h"

/* A state table and the table that is to show it as it was. */
typedef struct Copy
{
	char *name; /* of the projection */
	Oid target; /* its state table */
	Oid table;
} Copy;

ES_FUNCTION_INFO_V1(es_create_environment);

static List *all_projections(void);
static List *named_projections(ArrayType *names);
static void add_projection(List **copies, EsProjection *projection);
static void check_names(List *copies);
static void create_table(Copy *copy, const char *schema);
static int64 fill_table(Copy *copy, const EsMoment *moment);
static void execute(const char *command);

/* es.create_environment(): see the COMMENT. */
Datum
es_create_environment(PG_FUNCTION_ARGS)
{
	char *schema = EsTextArgument(fcinfo, 0, "schema_name", true);
	List *copies;
	ListCell *lc;
	EsMoment moment;
	int64 position = 0;

	EsRefuseReadOnly("es.create_environment()");
	truncate_identifier(schema, strlen(schema), true);
	EsProjectionsEnter();
	if (PG_ARGISNULL(3))
		copies = all_projections();
	else
		copies = named_projections(PG_GETARG_ARRAYTYPE_P(3));
	check_names(copies);

	execute(psprintf("CREATE SCHEMA %s", quote_identifier(schema)));
	foreach(lc, copies)
		create_table(lfirst(lc), schema);
	moment = EsMomentBegin(fcinfo, 1, 2);
	foreach(lc, copies)
	{
		int64 last = fill_table(lfirst(lc), &moment);

		position = Max(position, last);
	}
	EsMomentEnd();
	execute(psprintf("COMMENT ON SCHEMA %s IS 'State tables as of position " INT64_FORMAT
					 ", made by es.create_environment()'",
					 quote_identifier(schema), position));
	EsProjectionsLeave();
	PG_RETURN_VOID();
}

/* Returns a copy to make of each projection's table. */
static List *
all_projections(void)
{
	List *copies = NIL;
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (projection->apply != NULL || EsRelationOwnerCheck(projection->target, GetUserId()))
			add_projection(&copies, projection);
		else
			ereport(NOTICE,
					(errmsg("leaving out projection \"%s\", whose statements only its owner may run",
							projection->name)));
	}
	return copies;
}

/* Returns a copy to make of the table of each projection in an array of names. */
static List *
named_projections(ArrayType *names)
{
	List *copies = NIL;
	Datum *items;
	bool *nulls;
	int nitems;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &items, &nulls, &nitems);
	for (int i = 0; i < nitems; i++)
	{
		EsProjection *projection;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("projections must not contain nulls")));
		projection = EsProjectionFind(TextDatumGetCString(items[i]));
		if (projection->apply == NULL)
			EsProjectionCheckOwner(projection);
		add_projection(&copies, projection);
	}
	return copies;
}

/* Adds a copy of a projection's table, once. */
static void
add_projection(List **copies, EsProjection *projection)
{
	Copy *copy;
	ListCell *lc;

	foreach(lc, *copies)
		if (strcmp(((Copy *) lfirst(lc))->name, projection->name) == 0)
			return;
	copy = palloc0(sizeof(Copy));
	copy->name = pstrdup(projection->name);
	*copies = lappend(*copies, copy);
}

/*
 * Opens each projection, for somebody who may read it, and keeps the lock on
 * its table.  Refuses two tables of one name, which can't be in one schema.
 */
static void
check_names(List *copies)
{
	ListCell *lc;

	foreach(lc, copies)
	{
		Copy *copy = lfirst(lc);
		Relation target;
		ListCell *other;

		(void) EsPastOpen(copy->name, AccessShareLock, &target);
		copy->target = RelationGetRelid(target);
		foreach(other, copies)
		{
			Oid relid = ((Copy *) lfirst(other))->target;

			if (relid == copy->target)
				break;
			if (strcmp(get_rel_name(relid), RelationGetRelationName(target)) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_TABLE),
						 errmsg("two state tables are named \"%s\"",
								RelationGetRelationName(target)),
						 errdetail("They are in the schemas \"%s\" and \"%s\".",
								   get_namespace_name(get_rel_namespace(relid)),
								   get_namespace_name(RelationGetNamespace(target))),
						 errhint("Name the projections, and make an environment for each of the two.")));
		}
		table_close(target, NoLock);
	}
}

/* Creates the table, like the state table. */
static void
create_table(Copy *copy, const char *schema)
{
	char *name = get_rel_name(copy->target);
	char *table = quote_qualified_identifier(schema, name);
	char *like = quote_qualified_identifier(get_namespace_name(get_rel_namespace(copy->target)),
											name);
	char *comment = GetComment(copy->target, RelationRelationId, 0);

	execute(psprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL)", table, like));
	if (comment != NULL)
		execute(psprintf("COMMENT ON TABLE %s IS %s", table, quote_literal_cstr(comment)));
	copy->table = get_relname_relid(name, get_namespace_oid(schema, false));
}

/* Fills the table and returns the position of the last event read. */
static int64
fill_table(Copy *copy, const EsMoment *moment)
{
	Relation target;
	EsProjection *projection = EsPastOpen(copy->name, AccessShareLock, &target);
	Relation table = table_open(copy->table, RowExclusiveLock);
	EsFoldSpec spec = EsPastSpec(projection, target, moment);
	int64 position;

	(void) EsFill(&spec, table, &position);
	table_close(table, NoLock);
	table_close(target, NoLock);
	return position;
}

/* Runs DDL as the current user. */
static void
execute(const char *command)
{
	SPI_connect();
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command);
	SPI_finish();
}
