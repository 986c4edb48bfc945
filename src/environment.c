/*
 * environment.c
 *	  es.create_environment(): the state tables as of a moment, in a new schema.
 *
 * The schema and the tables are made by ordinary DDL as the current user, who
 * owns them and so must be allowed to: CREATE on the database, SELECT on the
 * state tables.  They don't take over code of another role, which would run as the
 * current user (foreign_code).  All tables are filled from one snapshot, taken once the last
 * state table is locked (as by a reader), so they fit together.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "acting.h"
#include "argument.h"
#include "catalog/namespace.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_statistic_ext_d.h"
#include "catalog/pg_type_d.h"
#include "commands/comment.h"
#include "compat.h"
#include "errors.h"
#include "executor/spi.h"
#include "fill.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/scansup.h"
#include "past.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "version.h"

/* A state table and the table that is to show it as it was. */
typedef struct Copy
{
	char *name; /* of the projection */
	Oid target; /* its state table */
	Oid table;
} Copy;

/* Parts of a state table that must not come along, see foreign_code(). */
typedef struct Code
{
	bool generated;
	bool defaults;
	bool checks;
	bool indexes;
	bool statistics;
	bool domains; /* of columns */
	bool ranges;
} Code;

ES_FUNCTION_INFO_V1(es_create_environment);

static List *all_projections(void);
static List *named_projections(ArrayType *names);
static void add_projection(List **copies, EsProjection *projection);
static void check_names(List *copies);
static void create_table(Copy *copy, const char *schema);
static Code foreign_code(Relation target);
static bool has_foreign_index(Relation target);
static bool has_foreign_statistics(Relation target);
static bool has_foreign_type(Relation target, bool (*is_foreign)(Oid type));
static bool is_foreign_domain(Oid type);
static bool is_foreign_range(Oid type);
static void replace_types(Relation target, const Code *foreign, const char *table);
static bool attribute_may_do_harm(int cache, HeapTuple row, AttrNumber attribute);
static bool may_do_harm(Node *node);
static bool checks_domain(Node *node, void *context);
static char *key_columns(Relation target);
static int64 fill_table(Copy *copy, const EsMoment *moment);
static void execute(const char *command);

/* es.create_environment(): see the COMMENT. */
Datum
es_create_environment(PG_FUNCTION_ARGS)
{
	char *schema = EsNameArgument(fcinfo, 0, "schema_name", true);
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
	Relation target = table_open(copy->target, NoLock);
	Code foreign = foreign_code(target);
	char *key = foreign.indexes ? key_columns(target) : NULL;
	Oid owner = target->rd_rel->relowner;

	execute(psprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL%s%s%s%s%s%s)", table, like,
					 foreign.generated ? " EXCLUDING GENERATED" : "",
					 foreign.defaults ? " EXCLUDING DEFAULTS" : "",
					 foreign.checks ? " EXCLUDING CONSTRAINTS" : "",
					 foreign.indexes ? " EXCLUDING INDEXES" : "",
					 foreign.statistics ? " EXCLUDING STATISTICS" : "",
					 key != NULL ? psprintf(", PRIMARY KEY (%s)", key) : ""));
	replace_types(target, &foreign, table);
	table_close(target, NoLock);
	if (foreign.generated || foreign.checks || foreign.indexes || foreign.statistics ||
		foreign.domains || foreign.ranges)
		ereport(NOTICE,
				(errmsg("table \"%s\" does not get all that its model has", name),
				 errdetail("Code of role \"%s\" would run as the owner of the copy, so these are left out:%s%s%s%s%s%s.",
						   GetUserNameFromId(owner, false),
						   foreign.generated ? " [generation of columns]" : "",
						   foreign.checks ? " [check constraints]" : "",
						   foreign.indexes ? " [indexes but the primary key]" : "",
						   foreign.statistics ? " [extended statistics]" : "",
						   foreign.domains ? " [domains]" : "",
						   foreign.ranges ? " [statistics of ranges]" : "")));
	if (comment != NULL)
		execute(psprintf("COMMENT ON TABLE %s IS %s", table, quote_literal_cstr(comment)));
	copy->table = get_relname_relid(name, get_namespace_oid(schema, false));
}

/*
 * Finds out which parts of a table are code that must not come along: with the
 * new table it would run as the current user, now and later.  That is not what
 * he has agreed to, unless its owner may do all that he may.  Built-in immutable
 * functions do no harm.
 */
static Code
foreign_code(Relation target)
{
	TupleConstr *constraints = RelationGetDescr(target)->constr;
	Code foreign = {0};

	if (has_privs_of_role(target->rd_rel->relowner, GetUserId()))
		return foreign;
	for (int i = 0; constraints != NULL && i < constraints->num_defval; i++)
	{
		AttrDefault *value = &constraints->defval[i];

		if (!may_do_harm(stringToNode(value->adbin)))
			continue;
		if (TupleDescAttr(RelationGetDescr(target), value->adnum - 1)->attgenerated != '\0')
			foreign.generated = true;
		else
			foreign.defaults = true;
	}
	for (int i = 0; constraints != NULL && i < constraints->num_check; i++)
		if (may_do_harm(stringToNode(constraints->check[i].ccbin)))
			foreign.checks = true;
	foreign.domains = has_foreign_type(target, is_foreign_domain);
	foreign.ranges = has_foreign_type(target, is_foreign_range);
	foreign.indexes = has_foreign_index(target) || foreign.ranges;
	foreign.statistics = has_foreign_statistics(target);
	/* A column that another is generated from can't be given another type. */
	for (int i = 0; foreign.domains && i < RelationGetDescr(target)->natts; i++)
		if (TupleDescAttr(RelationGetDescr(target), i)->attgenerated != '\0')
			foreign.generated = true;
	return foreign;
}

/* Finds an index whose expressions or predicate may do harm. */
static bool
has_foreign_index(Relation target)
{
	bool found = false;
	ListCell *lc;

	foreach(lc, RelationGetIndexList(target))
	{
		HeapTuple index = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (!HeapTupleIsValid(index))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(lc));
		if (attribute_may_do_harm(INDEXRELID, index, Anum_pg_index_indexprs) ||
			attribute_may_do_harm(INDEXRELID, index, Anum_pg_index_indpred))
			found = true;
		ReleaseSysCache(index);
	}
	return found;
}

/* Finds extended statistics on expressions that may do harm. */
static bool
has_foreign_statistics(Relation target)
{
	bool found = false;
	ListCell *lc;

	foreach(lc, RelationGetStatExtList(target))
	{
		HeapTuple statistics = SearchSysCache1(STATEXTOID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (!HeapTupleIsValid(statistics))
			elog(ERROR, "cache lookup failed for statistics object %u", lfirst_oid(lc));
		if (attribute_may_do_harm(STATEXTOID, statistics, Anum_pg_statistic_ext_stxexprs))
			found = true;
		ReleaseSysCache(statistics);
	}
	return found;
}

/* Finds a column whose type is code that must not come along. */
static bool
has_foreign_type(Relation target, bool (*is_foreign)(Oid type))
{
	TupleDesc desc = RelationGetDescr(target);

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && is_foreign(TupleDescAttr(desc, i)->atttypid))
			return true;
	return false;
}

/*
 * Says whether a type is a domain, perhaps over others, whose default or checks
 * may do harm: an INSERT that leaves the column out would run them.
 */
static bool
is_foreign_domain(Oid type)
{
	DomainConstraintRef *checks = palloc(sizeof(DomainConstraintRef));
	ListCell *lc;
	bool harm = false;

	if (get_typtype(type) != TYPTYPE_DOMAIN)
		return false;
	InitDomainConstraintRef(type, checks, CurrentMemoryContext, false);
	foreach(lc, checks->constraints)
	{
		DomainConstraintState *check = lfirst(lc);

		harm = harm || may_do_harm((Node *) check->check_expr);
	}
	return harm || may_do_harm(get_typdefault(type));
}

/* Says whether a range type, or what is made of one, has code that indexes and ANALYZE call. */
static bool
is_foreign_range(Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(getBaseType(type),
											  TYPECACHE_RANGE_INFO | TYPECACHE_MULTIRANGE_INFO);
	TypeCacheEntry *range = entry->rngtype != NULL ? entry->rngtype : entry;

	return range->typtype == TYPTYPE_RANGE &&
		range->rng_subdiff_finfo.fn_oid >= FirstNormalObjectId;
}

/* Says whether a catalog's row holds an expression, or a list of them, that may do harm. */
static bool
attribute_may_do_harm(int cache, HeapTuple row, AttrNumber attribute)
{
	bool isnull;
	Datum expression = SysCacheGetAttr(cache, row, attribute, &isnull);

	return !isnull && may_do_harm(stringToNode(TextDatumGetCString(expression)));
}

/* Says whether expressions call what is not built in, or look at more than their arguments. */
static bool
may_do_harm(Node *node)
{
	return EsActingNeedsSettings(node) || checks_domain(node, NULL);
}

static bool
checks_domain(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, CoerceToDomain) || expression_tree_walker(node, checks_domain, context);
}

/* Gives the new table's columns base types for foreign domains, and ranges no statistics. */
static void
replace_types(Relation target, const Code *foreign, const char *table)
{
	TupleDesc desc = RelationGetDescr(target);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		const char *name = quote_identifier(NameStr(column->attname));
		int32 typmod = column->atttypmod;

		if (column->attisdropped)
			continue;
		if (foreign->domains && is_foreign_domain(column->atttypid))
		{
			Oid collation = column->attcollation;
			Oid base = getBaseTypeAndTypmod(column->atttypid, &typmod);

			execute(psprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s%s%s", table, name,
							 format_type_with_typemod(base, typmod),
							 OidIsValid(collation) ? " COLLATE " : "",
							 OidIsValid(collation) ? generate_collation_name(collation) : ""));
		}
		if (foreign->ranges && is_foreign_range(column->atttypid))
			execute(psprintf("ALTER TABLE %s ALTER COLUMN %s SET STATISTICS 0", table, name));
	}
}

/* Returns the columns of the primary key as SQL, or null. */
static char *
key_columns(Relation target)
{
	StringInfoData columns;
	ListCell *lc;

	initStringInfo(&columns);
	foreach(lc, RelationGetIndexList(target))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		for (int i = 0; index->rd_index->indisprimary && i < index->rd_index->indnkeyatts; i++)
			appendStringInfo(&columns, "%s%s", i == 0 ? "" : ", ",
							 quote_identifier(get_attname(RelationGetRelid(target),
														  index->rd_index->indkey.values[i],
														  false)));
		index_close(index, AccessShareLock);
	}
	return columns.len == 0 ? NULL : columns.data;
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
