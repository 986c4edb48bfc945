/*
 * wakeup.c
 *	  What writers, waiting sessions and the worker of a database tell each other.
 *
 * Shared memory holds a slot for each database that has a worker.  It is there
 * only if the library is preloaded; without it nobody has anything to tell.
 *
 * Writers wake the worker.  The worker says that it listens and then looks at
 * the log; a writer ends its transaction and then looks whether the worker
 * listens.  Between the two steps of each there is a barrier, so either the
 * worker sees the writer's event or the writer sees that it must wake the
 * worker.  The first writer that does so takes the note away, and the others
 * don't bother: the cost is a look at a flag that is rarely written.
 *
 * The worker wakes waiting sessions.  They sleep on a condition variable,
 * and find the mark that the worker has computed, so that not each of them has to
 * scan the lock table.  An older mark is right for ever, but only for its own
 * log, so the sequence that gives its positions is stored with it.  While
 * the worker doesn't listen (it is busy, or not there), sessions look by
 * themselves from time to time.
 *
 * Locks: a spinlock for who holds which slot, and one per slot for its mark.
 * The latch of a worker that has ended may already be another process's.  That
 * one is woken for nothing, which processes expect.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"
#include "wakeup.h"

#define LISTENER_TIMEOUT 1000  /* milliseconds that a session relies on the worker */
#define HOLD_TIME        10000 /* milliseconds that a database is held at most */
#define STOP_TIME        5000  /* milliseconds to wait for a worker's end */
#define STOP_INTERVAL    10    /* milliseconds between two looks whether it has ended */

/* A database that has a worker. */
typedef struct Slot
{
	pg_atomic_uint32 database; /* 0: the slot is free */
	pid_t pid;
	Latch *latch;
	pg_atomic_uint32 listening; /* the worker wants to be woken */
	slock_t mutex;              /* of the following two */
	Oid sequence;               /* that mark is about */
	int64 mark;
	ConditionVariable events[ES_WAKEUP_NEVENTS];
} Slot;

/* A database in which no worker may start. */
typedef struct Hold
{
	Oid database; /* 0: free */
	TimestampTz until;
} Hold;

typedef struct Shared
{
	slock_t mutex; /* of the following, and of the slots' database, pid and latch */
	Latch *launcher;
	uint32 releases;
	int nslots;
	Hold *holds; /* as many as there are slots */
	Slot slots[FLEXIBLE_ARRAY_MEMBER];
} Shared;

static Shared *shared = NULL;
static Slot *own_slot = NULL;          /* the worker's */
static Oid held_database = InvalidOid; /* by this transaction */
static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

static void request_memory(void);
static void make_memory(void);
static Size memory_size(void);
static Slot *slot_of(Oid database);
static void release_slot(int code, Datum arg);
static void release_launcher(int code, Datum arg);
static void set_hold(void);
static void release_hold(void);
static void release_at_end(XactEvent event, void *arg);
static bool is_held(Oid database, TimestampTz now);
static void wake_launcher(void);
static pid_t stop(Oid database);

void
EsWakeupInit(void)
{
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = make_memory;
}

void
EsWakeupWriterEnded(void)
{
	Slot *slot = slot_of(MyDatabaseId);
	Latch *latch;

	if (slot == NULL)
		return;
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->listening) == 0 ||
		pg_atomic_exchange_u32(&slot->listening, 0) == 0)
		return;
	latch = slot->latch;
	if (latch != NULL)
		SetLatch(latch);
}

int64
EsWakeupMark(Oid sequence)
{
	Slot *slot = slot_of(MyDatabaseId);
	int64 mark = 0;

	if (slot == NULL)
		return 0;
	SpinLockAcquire(&slot->mutex);
	if (slot->sequence == sequence)
		mark = slot->mark;
	SpinLockRelease(&slot->mutex);
	return mark;
}

void
EsWakeupSleep(EsWakeupEvent event, long timeout, long poll)
{
	Slot *slot = slot_of(MyDatabaseId);

	if (slot == NULL)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(timeout, poll), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		return;
	}
	if (pg_atomic_read_u32(&slot->listening) != 0)
		poll = LISTENER_TIMEOUT;
	(void) ConditionVariableTimedSleep(&slot->events[event], Min(timeout, poll), PG_WAIT_EXTENSION);
}

void
EsWakeupSleepEnd(void)
{
	ConditionVariableCancelSleep();
}

bool
EsWakeupAttach(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Slot *slot = NULL;

	if (shared == NULL)
		return false;
	SpinLockAcquire(&shared->mutex);
	if (slot_of(MyDatabaseId) == NULL && !is_held(MyDatabaseId, now))
		slot = slot_of(InvalidOid);
	if (slot != NULL)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->sequence = InvalidOid;
		slot->mark = 0;
		pg_atomic_write_u32(&slot->listening, 0);
		pg_write_barrier();
		pg_atomic_write_u32(&slot->database, MyDatabaseId);
	}
	SpinLockRelease(&shared->mutex);
	if (slot == NULL)
		return false;
	own_slot = slot;
	before_shmem_exit(release_slot, (Datum) 0);
	return true;
}

void
EsWakeupListen(bool listening)
{
	pg_atomic_write_u32(&own_slot->listening, listening ? 1 : 0);
	pg_memory_barrier();
}

void
EsWakeupSetMark(Oid sequence, int64 mark)
{
	SpinLockAcquire(&own_slot->mutex);
	if (own_slot->sequence != sequence || own_slot->mark < mark)
		own_slot->mark = mark;
	own_slot->sequence = sequence;
	SpinLockRelease(&own_slot->mutex);
}

void
EsWakeupTell(EsWakeupEvent event)
{
	ConditionVariableBroadcast(&own_slot->events[event]);
}

void
EsWakeupAttachLauncher(void)
{
	SpinLockAcquire(&shared->mutex);
	shared->launcher = MyLatch;
	SpinLockRelease(&shared->mutex);
	before_shmem_exit(release_launcher, (Datum) 0);
}

Oid *
EsWakeupDatabases(int *count)
{
	Oid *databases = palloc(sizeof(Oid) * shared->nslots);

	*count = 0;
	for (int i = 0; i < shared->nslots; i++)
	{
		Oid database = pg_atomic_read_u32(&shared->slots[i].database);

		if (OidIsValid(database))
			databases[(*count)++] = database;
	}
	return databases;
}

bool
EsWakeupHasWorker(Oid database)
{
	return slot_of(database) != NULL;
}

bool
EsWakeupIsHeld(Oid database)
{
	TimestampTz now = GetCurrentTimestamp();
	bool held;

	SpinLockAcquire(&shared->mutex);
	held = is_held(database, now);
	SpinLockRelease(&shared->mutex);
	return held;
}

void
EsWakeupStop(Oid database)
{
	(void) stop(database);
}

/*
 * A worker that is starting either has its slot when the database is held,
 * and is ended here, or finds out in EsWakeupAttach().
 */
void
EsWakeupHold(Oid database)
{
	static bool registered = false;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), STOP_TIME);
	pid_t pid;

	if (shared == NULL)
		return;
	if (!registered)
		RegisterXactCallback(release_at_end, NULL);
	registered = true;
	release_hold();
	held_database = database;
	set_hold();

	pid = stop(database);
	while (pid != 0 && BackendPidGetProc(pid) != NULL && GetCurrentTimestamp() < end)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, STOP_INTERVAL,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

uint32
EsWakeupReleases(void)
{
	return shared->releases;
}

static void
request_memory(void)
{
	if (next_request_hook != NULL)
		next_request_hook();
	RequestAddinShmemSpace(memory_size());
}

/* Makes the shared memory, again after a crash, or finds it. */
static void
make_memory(void)
{
	bool found;

	if (next_startup_hook != NULL)
		next_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("pg_eventsourcing", memory_size(), &found);
	if (!found)
	{
		memset(shared, 0, memory_size());
		SpinLockInit(&shared->mutex);
		shared->nslots = max_worker_processes;
		shared->holds = (Hold *) &shared->slots[shared->nslots];
		for (int i = 0; i < shared->nslots; i++)
		{
			Slot *slot = &shared->slots[i];

			pg_atomic_init_u32(&slot->database, InvalidOid);
			pg_atomic_init_u32(&slot->listening, 0);
			SpinLockInit(&slot->mutex);
			for (int event = 0; event < ES_WAKEUP_NEVENTS; event++)
				ConditionVariableInit(&slot->events[event]);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* There can't be more workers than background workers. */
static Size
memory_size(void)
{
	return add_size(offsetof(Shared, slots),
					mul_size(sizeof(Slot) + sizeof(Hold), max_worker_processes));
}

/* Returns the slot that is the database's; null: there is none. */
static Slot *
slot_of(Oid database)
{
	static Slot *last = NULL;

	if (shared == NULL)
		return NULL;
	if (last != NULL && pg_atomic_read_u32(&last->database) == database)
		return last;
	for (int i = 0; i < shared->nslots; i++)
		if (pg_atomic_read_u32(&shared->slots[i].database) == database)
			return last = &shared->slots[i];
	return NULL;
}

/* Gives the worker's slot back when it ends, and wakes who relied on it. */
static void
release_slot(int code, Datum arg)
{
	SpinLockAcquire(&shared->mutex);
	pg_atomic_write_u32(&own_slot->database, InvalidOid);
	own_slot->latch = NULL;
	own_slot->pid = 0;
	SpinLockRelease(&shared->mutex);
	for (int event = 0; event < ES_WAKEUP_NEVENTS; event++)
		ConditionVariableBroadcast(&own_slot->events[event]);
	wake_launcher();
}

static void
release_launcher(int code, Datum arg)
{
	SpinLockAcquire(&shared->mutex);
	shared->launcher = NULL;
	SpinLockRelease(&shared->mutex);
}

/* Notes that the database is held; if too many are, it isn't. */
static void
set_hold(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Hold *hold = NULL;

	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < shared->nslots; i++)
		if (shared->holds[i].database == held_database ||
			(hold == NULL && shared->holds[i].until < now))
			hold = &shared->holds[i];
	if (hold != NULL)
	{
		hold->database = held_database;
		hold->until = TimestampTzPlusMilliseconds(now, HOLD_TIME);
	}
	SpinLockRelease(&shared->mutex);
}

static void
release_hold(void)
{
	if (!OidIsValid(held_database))
		return;
	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < shared->nslots; i++)
		if (shared->holds[i].database == held_database)
			shared->holds[i] = (Hold){0};
	shared->releases++;
	SpinLockRelease(&shared->mutex);
	held_database = InvalidOid;
	wake_launcher();
}

static void
release_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		release_hold();
}

/* The caller has the spinlock. */
static bool
is_held(Oid database, TimestampTz now)
{
	for (int i = 0; i < shared->nslots; i++)
		if (shared->holds[i].database == database && shared->holds[i].until >= now)
			return true;
	return false;
}

static void
wake_launcher(void)
{
	Latch *launcher;

	SpinLockAcquire(&shared->mutex);
	launcher = shared->launcher;
	SpinLockRelease(&shared->mutex);
	if (launcher != NULL)
		SetLatch(launcher);
}

/* Asks the database's worker to end; returns its pid, 0 if there is none. */
static pid_t
stop(Oid database)
{
	Slot *slot;
	pid_t pid = 0;

	SpinLockAcquire(&shared->mutex);
	slot = slot_of(database);
	if (slot != NULL)
		pid = slot->pid;
	SpinLockRelease(&shared->mutex);
	if (pid != 0)
		(void) kill(pid, SIGTERM);
	return pid;
}
