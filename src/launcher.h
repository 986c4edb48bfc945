/*
 * launcher.h
 *	  Starting and stopping the workers of the databases.
 */
#ifndef ES_LAUNCHER_H
#define ES_LAUNCHER_H

#include "postgres.h"

/* Has the launcher started with the server.  Called while the library is preloaded. */
extern void EsLauncherInit(void);

/* The launcher's process. */
extern PGDLLEXPORT void EsLauncherMain(Datum arg);

#endif /* ES_LAUNCHER_H */
