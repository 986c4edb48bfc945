/*
 * worker.c
 *	  The worker of a database: wakes who waits, runs the async projections.
 *
 * The worker looks at the high-water mark whenever a writer's transaction has
 * ended (wakeup.c), and now and then while positions are outstanding, should
 * one have ended without a word.  When the mark has moved it
 *
 * - wakes the sessions that wait for that,
 * - publishes the mark for hot standbys,
 * - sends NOTIFY es_events with the mark,
 * - runs the async projections, in turn, a bounded batch each.
 *
 * Each of these is a transaction of its own, after the writers' have ended, so
 * no writer waits for it.  Publishing and notifying are done at most so many
 * times per second, and once more after the last move.
 *
 * What fails is logged and tried again, ever less often, while the rest goes
 * on.  A projection whose table or checkpoint somebody else has locked is
 * passed over for a while.  A projection that has stopped at an event is left alone
 * until somebody runs it.
 *
 * Locks: in each transaction first of all the extension, which DROP EXTENSION
 * locks first as well, so that the two wait for each other but never in a
 * circle.  No transaction is open while the worker sleeps, so that it holds
 * back neither vacuum nor DDL.
 */
#include "postgres.h"

#include "access/xact.h"
#include "async.h"
#include "catalog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "commands/async.h"
#include "commands/extension.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "position.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "wakeup.h"
#include "worker.h"

#define BATCH            10000 /* events that are applied to a projection in its turn */
#define PAUSE            1     /* milliseconds between two looks at a mark that moves ... */
#define PAUSE_FACTOR     4     /* ... or so many times as long as a look takes */
#define RUN_INTERVAL     5     /* milliseconds between two runs of the projections */
#define PUBLISH_INTERVAL 100
#define NOTIFY_INTERVAL  200
#define BUSY_DELAY       100 /* milliseconds until a locked projection is tried again */
#define MIN_RETRY_DELAY  100 /* the same after an error; doubled each time */
#define MAX_RETRY_DELAY  10000
#define MAX_LOCK_DELAY   2000   /* the same if a lock was the matter */
#define PATIENCE         3      /* failures for a lock that are not logged */
#define LOG_INTERVAL     600000 /* milliseconds until the same error is logged again */
#define MAX_FAST_DELAY   10     /* milliseconds between two looks for outstanding positions ... */
#define SLOW_LOOKS       100    /* ... and after so many of them */
#define SLOW_DELAY       50

/* Something that the worker does again and again. */
typedef struct Task
{
	const char *name;    /* what is done, or the projection that is run */
	TimestampTz next;    /* not before */
	TimestampTz started; /* when it was done last */
	int failures;        /* in a row */
	char *error;         /* that was logged last; null: none */
	TimestampTz logged;
} Task;

typedef void (*Step)(Task *task);

/* What is known of the log. */
static Oid log_sequence = InvalidOid; /* that positions come from; 0: the extension isn't there */
static int64 mark;
static bool outstanding; /* positions above the mark were given out */
static int64 published;  /* marks that others were told; -1: none */
static int64 notified;

static Task look_task = {.name = "the high-water mark"};
static Task publish_task = {.name = "publishing"};
static Task notify_task = {.name = "NOTIFY"};
static Task round_task = {.name = "the list of projections"};

/* The projections whose turn in this round is still to come, by name. */
static MemoryContext round_context;
static List *round_names = NIL;

/* Tasks of the projections that could not be run the last time. */
static List *troubled = NIL;

static void configure(void);
static void handle_signals(void);
static void work(void);
static void tell(void);
static void wait_for_writers(long timeout, int *fruitless);
static bool do_tasks(void);
static TimestampTz next_task(void);
static void take_turn(void);
static void begin_round(Task *task);
static void run(Task *task);
static Task *task_of(const char *name);
static void forget_task(Task *task);
static void free_task(Task *task);
static void look(Task *task);
static void publish(Task *task);
static void notify(Task *task);
static void commit_lazily(void);
static bool attempt(Task *task, Step step);
static void handle_error(Task *task);
static void log_error(Task *task, const char *message);
static void add_context(void *arg);
static bool begin(void);
static void forget_log(void);

void
EsWorkerMain(Datum database)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database), InvalidOid, 0);
	if (!EsWakeupAttach())
		proc_exit(0);
	configure();
	round_context = AllocSetContextCreate(TopMemoryContext, "es round", ALLOCSET_SMALL_SIZES);
	forget_log();
	work();
}

/* Sets what the settings of the database must not decide. */
static void
configure(void)
{
	static const char *const settings[][2] = {
		{"application_name", "pg_eventsourcing worker"},
		{"search_path", ""},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
		{"check_function_bodies", "on"},
		{"es.restore", "off"},
		{"exit_on_error", "off"},
		{"statement_timeout", "0"},
		{"transaction_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"lock_timeout", "1s"}};

	for (int i = 0; i < (int) lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	StartTransactionCommand();
	SetConfigOption("session_authorization", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false),
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("role", "none", PGC_SUSET, PGC_S_OVERRIDE);
	CommitTransactionCommand();
}

/* Ends the worker quietly if it is told to, for nothing is being done, and reloads settings. */
static void
handle_signals(void)
{
	if (ProcDiePending)
		proc_exit(1);
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Works until it is told to end.  It listens to writers before it looks at the
 * log, and stops to do so while it is busy and for a moment after the mark has
 * moved: then there are many writers, and what they did is seen together.
 */
static void
work(void)
{
	int fruitless = 0; /* looks for outstanding positions */

	for (;;)
	{
		int64 before = mark;
		long timeout = EsWorkerNaptime;
		TimestampTz began;
		long spent; /* milliseconds for the look */

		handle_signals();
		EsWakeupListen(true);
		began = GetCurrentTimestamp();
		if (began >= look_task.next)
			(void) attempt(&look_task, look);
		spent = TimestampDifferenceMilliseconds(began, GetCurrentTimestamp());
		if (mark != before)
		{
			EsWakeupListen(false);
			tell();
			fruitless = 0;
		}
		if (do_tasks())
			continue;
		if (mark != before)
			timeout = Max(PAUSE, Min(spent * PAUSE_FACTOR, MAX_FAST_DELAY));
		else if (outstanding)
			timeout = fruitless > SLOW_LOOKS ? SLOW_DELAY
											 : Min(1 << Min(fruitless, 10), MAX_FAST_DELAY);
		fruitless++;
		wait_for_writers(Min(timeout,
							 TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_task())),
						 &fruitless);
	}
}

/* Tells who waits that the mark has moved, and has the projections run soon. */
static void
tell(void)
{
	EsWakeupSetMark(log_sequence, mark);
	EsWakeupTell(ES_WAKEUP_MARK);
	EsWakeupTell(ES_WAKEUP_RUN);
	round_task.next =
		Min(round_task.next, TimestampTzPlusMilliseconds(round_task.started, RUN_INTERVAL));
}

/* Sleeps until the time is over or, if it listens, a writer's transaction has ended. */
static void
wait_for_writers(long timeout, int *fruitless)
{
	long unreported = pgstat_report_stat(false);

	if (unreported > 0)
		timeout = Min(timeout, unreported);
	pgstat_report_activity(STATE_IDLE, NULL);
	if ((WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
				   PG_WAIT_EXTENSION) &
		 WL_LATCH_SET) == 0)
		return;
	ResetLatch(MyLatch);
	*fruitless = 0;
}

/* Does what is due, of the projections one; says whether that may have taken long. */
static bool
do_tasks(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!OidIsValid(log_sequence))
		return false;
	if (published != mark && now >= publish_task.next)
	{
		publish_task.next = TimestampTzPlusMilliseconds(now, PUBLISH_INTERVAL);
		(void) attempt(&publish_task, publish);
	}
	if (notified != mark && now >= notify_task.next)
	{
		notify_task.next = TimestampTzPlusMilliseconds(now, NOTIFY_INTERVAL);
		(void) attempt(&notify_task, notify);
	}
	if (round_names == NIL && now < round_task.next)
		return false;
	take_turn();
	return true;
}

/* Returns when there is something to do even if no writer calls. */
static TimestampTz
next_task(void)
{
	TimestampTz next = DT_NOEND;

	if (!OidIsValid(log_sequence))
		return next;
	if (published != mark)
		next = Min(next, publish_task.next);
	if (notified != mark)
		next = Min(next, notify_task.next);
	return Min(next, round_task.next);
}

/* Runs the projection whose turn it is; the next one is run after a look at the log. */
static void
take_turn(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Task *task;

	EsWakeupListen(false);
	if (round_names == NIL)
	{
		round_task.started = now;
		round_task.next = TimestampTzPlusMilliseconds(now, EsWorkerNaptime);
		if (!attempt(&round_task, begin_round) || round_names == NIL)
			return;
	}
	task = task_of(linitial(round_names));
	round_names = list_delete_first(round_names);
	if (task->next <= now)
	{
		task->next = 0;
		if (attempt(task, run) && task->next == 0)
		{
			forget_task(task);
			EsWakeupTell(ES_WAKEUP_RUN);
			return;
		}
	}
	round_task.next = Min(round_task.next, task->next);
}

/* Lists the projections that are behind. */
static void
begin_round(Task *task)
{
	MemoryContext old;
	ListCell *lc;

	MemoryContextReset(round_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	old = MemoryContextSwitchTo(round_context);
	round_names = EsAsyncBehind(mark);
	MemoryContextSwitchTo(old);
	PopActiveSnapshot();

	foreach(lc, troubled)
	{
		Task *waiting = lfirst(lc);
		bool listed = false;
		ListCell *name;

		foreach(name, round_names)
			listed |= strcmp(lfirst(name), waiting->name) == 0;
		if (!listed)
		{
			troubled = foreach_delete_current(troubled, lc);
			free_task(waiting);
		}
	}
}

/* Applies a batch of events to a projection, or notes that it is locked. */
static void
run(Task *task)
{
	TimestampTz now = GetCurrentTimestamp();
	bool more;

	pgstat_report_activity(STATE_RUNNING, psprintf("projection \"%s\"", task->name));
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!EsAsyncRun(task->name, BATCH, &more))
		task->next = TimestampTzPlusMilliseconds(now, BUSY_DELAY);
	else if (more)
		round_task.next = now;
	PopActiveSnapshot();
}

/* Returns the task of running a projection, a new one if it is not in trouble. */
static Task *
task_of(const char *name)
{
	MemoryContext old;
	Task *task;
	ListCell *lc;

	foreach(lc, troubled)
		if (strcmp(((Task *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	old = MemoryContextSwitchTo(TopMemoryContext);
	task = palloc0(sizeof(Task));
	task->name = pstrdup(name);
	troubled = lappend(troubled, task);
	MemoryContextSwitchTo(old);
	return task;
}

static void
forget_task(Task *task)
{
	troubled = list_delete_ptr(troubled, task);
	free_task(task);
}

static void
free_task(Task *task)
{
	if (task->error != NULL)
		pfree(task->error);
	pfree(unconstify(char *, task->name));
	pfree(task);
}

/* Finds the mark.  One that is lower than an earlier one tells nothing. */
static void
look(Task *task)
{
	int64 last = EsPositionLast();

	if (mark < last)
	{
		int64 now = EsHighWaterMark();

		mark = Max(mark, now);
	}
	outstanding = mark < last;
}

static void
publish(Task *task)
{
	int64 told = mark;

	pgstat_report_activity(STATE_RUNNING, "publishing the high-water mark");
	commit_lazily();
	EsHighWaterMarkPublish(told);
	published = told;
}

static void
notify(Task *task)
{
	int64 told = mark;

	pgstat_report_activity(STATE_RUNNING, "NOTIFY es_events");
	commit_lazily();
	Async_Notify("es_events", psprintf(INT64_FORMAT, told));
	notified = told;
}

/* Has the transaction commit without waiting for the disk: if it is lost, so is nothing. */
static void
commit_lazily(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Does a step in a transaction of its own, unless the extension isn't there.
 * If it fails, the task is put off; false then.
 */
static bool
attempt(Task *task, Step step)
{
	ErrorContextCallback context = {.callback = add_context, .arg = task};
	volatile bool done = false;

	context.previous = error_context_stack;
	error_context_stack = &context;
	PG_TRY();
	{
		if (begin())
		{
			step(task);
			CommitTransactionCommand();
		}
		done = true;
	}
	PG_CATCH();
	{
		handle_error(task);
	}
	PG_END_TRY();
	error_context_stack = context.previous;
	if (done)
		task->failures = 0;
	MemoryContextSwitchTo(TopMemoryContext);
	return done;
}

/* Ends the transaction of an error, logs it, and puts the task off. */
static void
handle_error(Task *task)
{
	long delay = (long) MIN_RETRY_DELAY << Min(task->failures++, 10);
	ErrorData *error;
	bool by_lock;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	by_lock = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK);
	if (!by_lock || task->failures > PATIENCE)
		log_error(task, error->message);
	FreeErrorData(error);
	AbortOutOfAnyTransaction();
	FlushErrorState();
	delay = Min(delay, by_lock ? MAX_LOCK_DELAY : MAX_RETRY_DELAY);
	task->next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay);
	RESUME_INTERRUPTS();
}

/* Logs the current error, unless it was logged a short time ago. */
static void
log_error(Task *task, const char *message)
{
	TimestampTz now = GetCurrentTimestamp();

	if (task->error != NULL && strcmp(task->error, message) == 0 &&
		now < TimestampTzPlusMilliseconds(task->logged, LOG_INTERVAL))
		return;
	EmitErrorReport();
	if (task->error != NULL)
		pfree(task->error);
	task->error = pstrdup(message);
	task->logged = now;
}

/* Says in an error's context what the worker was doing. */
static void
add_context(void *arg)
{
	Task *task = arg;

	if (task == &look_task || task == &publish_task || task == &notify_task || task == &round_task)
		errcontext("worker: %s", task->name);
	else
		errcontext("worker: projection \"%s\"", task->name);
}

/*
 * Starts a transaction in which the extension can't be dropped, and finds out
 * which log there is; false, and no transaction: the extension isn't there.
 */
static bool
begin(void)
{
	static Oid extension = InvalidOid;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (OidIsValid(log_sequence))
	{
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(log_sequence)))
			return true;
	}
	forget_log();
	extension = get_extension_oid("pg_eventsourcing", true);
	if (OidIsValid(extension))
	{
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		if (get_extension_oid("pg_eventsourcing", true) == extension)
		{
			log_sequence = EsCatalogOid(ES_OBJECT_POSITION_SEQ);
			return true;
		}
	}
	CommitTransactionCommand();
	return false;
}

/* Begins anew with another log, or with none. */
static void
forget_log(void)
{
	log_sequence = InvalidOid;
	mark = 0;
	outstanding = false;
	published = -1;
	notified = 0;
	round_names = NIL;
	round_task.next = 0;
}
