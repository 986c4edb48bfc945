/*
 * writer.c
 *	  Who may append events of which aggregate types.
 *
 * The privilege INSERT says who may append.  On the table es.events it is the
 * right to append anything.  A role that is limited to some aggregate types has
 * INSERT on the columns only, which is enough for INSERT and COPY, and es.writer
 * holds the types.  So a role without an entry in es.writer, for whatever reason,
 * may append less, not more: after a dump without data, or when somebody deletes
 * entries, the limits don't vanish with them.
 *
 * An entry holds for the roles that inherit its role's privileges, and what
 * several roles may append adds up.
 *
 * es.writer refers to roles by a type of its own, see role.c, so that they can be
 * renamed, and missing where a dump is restored.
 *
 * The question is asked for each event, so the answer is kept for each role
 * that has asked, until the privileges of es.events, es.writer, a role or a
 * membership change.  The invalidation callbacks only mark; the next caller
 * looks up again.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "version.h"
#include "writer.h"

/* Columns of es.writer. */
enum
{
	WRITER_ROLE = 1,
	WRITER_AGGREGATE_TYPES
};

/* How many types an error lists. */
#define MAX_LISTED 20

/* What a role may append. */
typedef struct Rights
{
	Oid role; /* hash key */
	bool everything;
	text **types; /* otherwise: these, sorted */
	int ntypes;
} Rights;

static HTAB *known = NULL;
static MemoryContext known_context = NULL;
static bool known_valid = false;
static Rights *newest = NULL; /* the one that was asked for last */
static Oid events_oid;
static Oid writers_oid;

ES_FUNCTION_INFO_V1(es_writer_changed);

static Rights *current_rights(void);
static Rights *find_rights(Oid role);
static void forget_rights(void);
static void load_rights(Rights *rights);
static void add_types(Rights *rights, ArrayType *types);
static void sort_types(Rights *rights);
static int compare_types(const void *a, const void *b);
static bool has_type(const Rights *rights, Datum aggregate_type);
static char *list_types(const Rights *rights);
static void relation_changed(Datum arg, Oid relid);
static void roles_changed(Datum arg, int cacheid, uint32 hashvalue);

void
EsWriterCheckAny(void)
{
	const Rights *rights = current_rights();

	if (!rights->everything && rights->ntypes == 0)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "events");
}

void
EsWriterCheck(Datum aggregate_type)
{
	const Rights *rights = current_rights();

	if (rights->everything || has_type(rights, aggregate_type))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for aggregate type \"%s\"",
					TextDatumGetCString(aggregate_type)),
			 rights->ntypes > 0
				 ? errdetail("Role \"%s\" may append events of these aggregate types: %s.",
							 GetUserNameFromId(GetUserId(), false), list_types(rights))
				 : errdetail("Role \"%s\" may append events of no aggregate type.",
							 GetUserNameFromId(GetUserId(), false)),
			 errhint("The owner of the log grants types with es.grant_writer().")));
}

bool
EsWriterMayAppend(Datum aggregate_type)
{
	const Rights *rights = current_rights();

	return rights->everything || has_type(rights, aggregate_type);
}

/* es.writer_changed(): trigger of es.writer, tells all sessions. */
Datum
es_writer_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) != EsCatalogOid(ES_OBJECT_WRITER))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es.writer_changed() must be called as a trigger of es.writer")));
	CacheInvalidateRelcacheByRelid(RelationGetRelid(trigger->tg_relation));
	PG_RETURN_POINTER(NULL);
}

/* Returns what the current user may append. */
static Rights *
current_rights(void)
{
	Oid role = GetUserId();

	if (!known_valid || newest == NULL || newest->role != role)
		newest = find_rights(role);
	return newest;
}

/*
 * Returns what a role may append, looking it up if it is not known.  What is
 * invalidated while it is looked up serves this caller only, as it is with privileges.
 */
static Rights *
find_rights(Oid role)
{
	Rights *rights;
	Rights loaded = {.role = role};
	bool found;

	if (!known_valid)
		forget_rights();
	rights = hash_search(known, &role, HASH_FIND, NULL);
	if (rights != NULL)
		return rights;
	events_oid = EsCatalogOid(ES_OBJECT_EVENTS);
	writers_oid = EsCatalogOid(ES_OBJECT_WRITER);
	known_valid = true;
	load_rights(&loaded);
	rights = hash_search(known, &role, HASH_ENTER, &found);
	*rights = loaded;
	return rights;
}

/* Begins anew with nothing known. */
static void
forget_rights(void)
{
	HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(Rights)};

	if (known_context == NULL)
	{
		known_context = AllocSetContextCreate(TopMemoryContext, "es writers",
											  ALLOCSET_SMALL_SIZES);
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
	}
	newest = NULL;
	known = NULL;
	MemoryContextReset(known_context);
	control.hcxt = known_context;
	known = hash_create("es writers", 8, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Looks up what a role may append. */
static void
load_rights(Rights *rights)
{
	Relation writers;
	TupleTableSlot *slot;
	TableScanDesc scan;
	Snapshot snapshot;

	if (pg_class_aclcheck(events_oid, rights->role, ACL_INSERT) == ACLCHECK_OK)
	{
		rights->everything = true;
		return;
	}

	writers = table_open(writers_oid, AccessShareLock);
	slot = table_slot_create(writers, NULL);
	/* As new as any, and to be had in parallel mode too. */
	snapshot = RegisterSnapshot(GetCatalogSnapshot(writers_oid));
	scan = table_beginscan(writers, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;
		Oid writer = DatumGetObjectId(slot_getattr(slot, WRITER_ROLE, &isnull));
		Datum types = slot_getattr(slot, WRITER_AGGREGATE_TYPES, &isnull);

		if (SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(writer)) &&
			has_privs_of_role(rights->role, writer) &&
			pg_attribute_aclcheck(events_oid, ES_EVENT_AGGREGATE_TYPE, writer, ACL_INSERT) ==
				ACLCHECK_OK)
			add_types(rights, DatumGetArrayTypeP(types));
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(writers, AccessShareLock);
	sort_types(rights);
}

/* Adds the types of an entry to those of a role. */
static void
add_types(Rights *rights, ArrayType *types)
{
	MemoryContext caller;
	Datum *elements;
	bool *nulls;
	int count;

	deconstruct_array(types, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	caller = MemoryContextSwitchTo(known_context);
	if (rights->types == NULL)
		rights->types = palloc(sizeof(text *) * Max(count, 1));
	else
		rights->types = repalloc(rights->types, sizeof(text *) * (rights->ntypes + count));
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			rights->types[rights->ntypes++] = DatumGetTextPCopy(elements[i]);
	MemoryContextSwitchTo(caller);
}

/* Sorts the types, each once. */
static void
sort_types(Rights *rights)
{
	int kept = 0;

	qsort(rights->types, rights->ntypes, sizeof(text *), compare_types);
	for (int i = 0; i < rights->ntypes; i++)
		if (kept == 0 || compare_types(&rights->types[i], &rights->types[kept - 1]) != 0)
			rights->types[kept++] = rights->types[i];
	rights->ntypes = kept;
}

static int
compare_types(const void *a, const void *b)
{
	const text *ta = *(text *const *) a;
	const text *tb = *(text *const *) b;
	int la = VARSIZE_ANY_EXHDR(ta);
	int lb = VARSIZE_ANY_EXHDR(tb);
	int result = memcmp(VARDATA_ANY(ta), VARDATA_ANY(tb), Min(la, lb));

	return result != 0 ? result : la - lb;
}

static bool
has_type(const Rights *rights, Datum aggregate_type)
{
	text *type = DatumGetTextPP(aggregate_type);

	return rights->ntypes > 0 &&
		bsearch(&type, rights->types, rights->ntypes, sizeof(text *), compare_types) != NULL;
}

/* Returns the types for an error's detail. */
static char *
list_types(const Rights *rights)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < Min(rights->ntypes, MAX_LISTED); i++)
		appendStringInfo(&list, "%s%s", i == 0 ? "" : ", ", text_to_cstring(rights->types[i]));
	if (rights->ntypes > MAX_LISTED)
		appendStringInfo(&list, " and %d more", rights->ntypes - MAX_LISTED);
	return list.data;
}

/* Marks what is known as invalid when es.events or es.writer changes. */
static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == events_oid || relid == writers_oid)
		known_valid = false;
}

/* Marks what is known as invalid when a role or a membership changes. */
static void
roles_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	known_valid = false;
}
