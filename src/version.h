/*
 * version.h
 *	  Whether the library and the SQL objects of the extension belong together.
 */
#ifndef ES_VERSION_H
#define ES_VERSION_H

#include "postgres.h"

#include "fmgr.h"

/* What the library is and of which version, as it stands in its file. */
extern char EsLibraryStamp[64];

/* Raises an error unless the database has the SQL objects that this library is for. */
extern void EsCheckVersion(void);

/* Says whether it would not. */
extern bool EsVersionFits(void);

/* Says whether the script that installs or upgrades the extension is running. */
extern bool EsInOwnScript(void);

/*
 * Declares a C function of the install script.  This is PG_FUNCTION_INFO_V1
 * with a look at the version when PostgreSQL asks how the function is called,
 * which it does before the first call and after each change of the function.
 */
#define ES_FUNCTION_INFO_V1(name) \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	extern PGDLLEXPORT const Pg_finfo_record *CppConcat(pg_finfo_, name)(void); \
	const Pg_finfo_record *CppConcat(pg_finfo_, name)(void) \
	{ \
		static const Pg_finfo_record es_finfo = {1}; \
		EsCheckVersion(); \
		return &es_finfo; \
	} \
	extern int no_such_variable

#endif /* ES_VERSION_H */
