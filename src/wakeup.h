/*
 * wakeup.h
 *	  What writers, waiting sessions and the worker of a database tell each other.
 *
 * All functions may be called without the library preloaded: then there is no
 * worker.
 */
#ifndef ES_WAKEUP_H
#define ES_WAKEUP_H

#include "postgres.h"

/* What a session can wait for. */
typedef enum EsWakeupEvent
{
	ES_WAKEUP_MARK, /* the high-water mark has moved */
	ES_WAKEUP_RUN,  /* async projections have been run */
	ES_WAKEUP_NEVENTS
} EsWakeupEvent;

/* Asks for shared memory.  Called while the library is preloaded. */
extern void EsWakeupInit(void);

/* --- a writer --- */

/* Tells the worker that a transaction that may have appended has ended. */
extern void EsWakeupWriterEnded(void);

/* --- a waiting session --- */

/* Returns the last mark that the worker has found for the log with this sequence, 0 if none. */
extern int64 EsWakeupMark(Oid sequence);

/*
 * Sleeps until the event may have happened or the time is over, no longer than
 * poll if there is no worker that would tell: the caller looks again after each
 * call, for the first one of a loop may return at once.  Milliseconds.
 */
extern void EsWakeupSleep(EsWakeupEvent event, long timeout, long poll);

/* Ends a loop of EsWakeupSleep(); the end of a transaction does the same. */
extern void EsWakeupSleepEnd(void);

/* --- the worker --- */

/* Makes this process the database's worker until it ends; false: it must not be. */
extern bool EsWakeupAttach(void);

/* Says that from now on writers need to wake this process, or needn't. */
extern void EsWakeupListen(bool listening);

/* Stores a mark for others.  A lower one than before is stored for another log only. */
extern void EsWakeupSetMark(Oid sequence, int64 mark);

/* Wakes the sessions that wait for an event. */
extern void EsWakeupTell(EsWakeupEvent event);

/* --- who starts and stops workers --- */

/* Notes that this process is to be told when workers should be looked after. */
extern void EsWakeupAttachLauncher(void);

/* Returns the databases that have a worker now, in palloc'd memory. */
extern Oid *EsWakeupDatabases(int *count);

/* Says whether the database has a worker. */
extern bool EsWakeupHasWorker(Oid database);

/* Says whether no worker may be started in the database for the time being. */
extern bool EsWakeupIsHeld(Oid database);

/* Asks the database's worker to end. */
extern void EsWakeupStop(Oid database);

/*
 * Lets no worker into the database until the transaction has ended, though not
 * for longer than some seconds, and ends the one that is there.
 */
extern void EsWakeupHold(Oid database);

/* Returns a number that changes whenever a database is not held any more. */
extern uint32 EsWakeupReleases(void);

#endif /* ES_WAKEUP_H */
