/*
 * version.c
 *	  Whether the library and the SQL objects of the extension belong together.
 *
 * The library is a file, which an update of the packages replaces for all
 * databases at once; the SQL objects are of one database, and change with ALTER
 * EXTENSION.  So for a while a session can have a library that is newer than
 * the functions that call it and than the tables that it reads, or older: one
 * that was loaded before the file was replaced.  What such a pair does to each
 * other can't be known, hence nothing is done: the first use fails and says what
 * to do.
 *
 * It is looked at in two places.  A function that PostgreSQL does not know yet
 * in this session, or that has changed since, is looked up in the library before
 * it is called: there, because its arguments might be others than the library
 * takes them for.  And whoever asks for the OIDs of the tables: there, because a
 * session that knows the functions may go on for years.  Both cost nothing: the
 * answer is kept until a function of the database has changed, which each upgrade
 * does (it replaces es.version()).
 *
 * No check is made while the extension's own script runs, which begins with the
 * new version's number and the old objects, and by pg_upgrade.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "version.h"

#define STAMP "pg_eventsourcing library "

/* Not constant, so that the compiler leaves it in one piece and at one place in the file. */
char EsLibraryStamp[64] = STAMP ES_VERSION;

/* How often functions have changed, and how often they had at the last good look. */
static uint32 changes = 1;
static uint32 checked = 0;

PG_FUNCTION_INFO_V1(es_version);

static char *other_version(void);
static void function_changed(Datum arg, int cacheid, uint32 hashvalue);
static char *installed_version(Oid *extension);
static const char *library_version(void);
static bool is_older(const char *version, const char *than);

/* es.version(): the version of the loaded library, whatever is installed. */
Datum
es_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(library_version()));
}

void
EsCheckVersion(void)
{
	char *installed = other_version();

	if (installed != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_eventsourcing is version %s in this database, but the loaded library is version %s",
						installed, library_version()),
				 is_older(installed, library_version())
					 ? errhint("Run ALTER EXTENSION pg_eventsourcing UPDATE.")
					 : errhint("Connect again to load the library that is installed now; if shared_preload_libraries names it, restart the server.")));
}

bool
EsVersionFits(void)
{
	return other_version() == NULL;
}

bool
EsInOwnScript(void)
{
	return creating_extension &&
		CurrentExtensionObject == get_extension_oid("pg_eventsourcing", true);
}

/* Returns the version of the SQL objects if the library is not for them, else null. */
static char *
other_version(void)
{
	static bool registered = false;
	uint32 current = changes;
	char *installed;
	Oid extension;

	if (checked == changes || IsBinaryUpgrade)
		return NULL;
	if (!registered)
	{
		CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
		registered = true;
	}

	installed = installed_version(&extension);
	if (installed == NULL || (creating_extension && CurrentExtensionObject == extension))
		return NULL;
	if (strcmp(installed, library_version()) != 0)
		return installed;
	pfree(installed);
	checked = current;
	return NULL;
}

/* Has the next use look again. */
static void
function_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	changes++;
}

/* Returns the version of the SQL objects, null if the extension is not installed. */
static char *
installed_version(Oid *extension)
{
	Relation relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	char *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("pg_eventsourcing"));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum datum = heap_getattr(tuple, Anum_pg_extension_extversion,
								   RelationGetDescr(relation), &isnull);

		version = TextDatumGetCString(datum);
		*extension = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return version;
}

static const char *
library_version(void)
{
	return EsLibraryStamp + strlen(STAMP);
}

/* Compares versions number by number: 1.9 is older than 1.10. */
static bool
is_older(const char *version, const char *than)
{
	for (;;)
	{
		char *version_end;
		char *than_end;
		long a = strtol(version, &version_end, 10);
		long b = strtol(than, &than_end, 10);

		if (a != b)
			return a < b;
		if (*version_end != '.' || *than_end != '.')
			return *than_end == '.';
		version = version_end + 1;
		than = than_end + 1;
	}
}
