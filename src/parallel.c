/*
 * parallel.c
 *	  Folding the log with the help of parallel workers.
 *
 * The keys are divided by their hash into as many slices as there are workers.
 * A worker folds a slice as one process would fold all keys, and sends the rows
 * that come out to the leader, which writes them.  So no two processes need
 * the same state, and an aggregate's events are folded in the order in which a
 * single process folds them.  The log is read for all of them together (see
 * feed.c).
 *
 * The workers are those of parallel queries.  They share the leader's
 * transaction, so that they see a table, function or projection that it has
 * just created; its active snapshot, so that they read the same events; its
 * locks, role and settings.  They end with it, and it with them: an error of
 * one is raised in the leader, and whatever ends the leader's subtransaction
 * ends them.
 *
 * In return a parallel operation may not write, in a worker, nor do in any
 * process what the others would have to know about: start a command or a
 * subtransaction, take an id or a newer snapshot.  A function that does is not
 * PARALLEL SAFE, and then no workers are used.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "feed.h"
#include "guc.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "optimizer/clauses.h"
#include "optimizer/paths.h"
#include "parallel.h"
#include "pgstat.h"
#include "position.h"
#include "progress.h"
#include "rewrite/rewriteHandler.h"
#include "storage/bufmgr.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/shm_mq.h"
#include "storage/spin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "version.h"

#define LIBRARY     "pg_eventsourcing"
#define WORKER_MAIN "EsParallelWorkerMain"

/* Keys of the shared memory's table of contents. */
#define KEY_SHARED UINT64CONST(1)
#define KEY_NAME   UINT64CONST(2)
#define KEY_QUEUES UINT64CONST(3)
#define KEY_FEED   UINT64CONST(4)

#define QUEUE_SIZE       (256 * 1024)
#define MESSAGE_SIZE     (32 * 1024) /* a message that has reached it is sent */
#define MESSAGE_ROWS     512         /* in one message at most */
#define TAKEN_ROWS       8192        /* that are taken together at most */
#define TAKEN_SIZE       (4 * 1024 * 1024)
#define MIN_SLICE_MEMORY 64  /* kilobytes */
#define REPORT_INTERVAL  500 /* milliseconds */

/* What the leader and the workers know in common. */
typedef struct Shared
{
	int64 bound; /* fold the events up to here */
	ConditionVariable started;
	pg_atomic_uint32 nslices;     /* 0: the leader has not started the work */
	pg_atomic_uint32 next_slice;  /* that no worker has taken */
	pg_atomic_uint64 events_read; /* for the report of progress */
	slock_t mutex;                /* of the following */
	int slices_done;
	EsFolded folded;
} Shared;

/* A worker's way to send rows: each as its length and its tuple, both aligned. */
typedef struct Sender
{
	EsProjection *projection;
	EsKey *key; /* of the part at work */
	TupleTableSlot *row;
	shm_mq_handle *queue;
	StringInfoData message;
	int nrows; /* in message */
} Sender;

/* The leader's way to receive them. */
typedef struct Receiver
{
	ParallelContext *workers;
	shm_mq_handle **queues; /* null: the worker is done */
	Shared *shared;
	EsFeed *feed;
	int64 reported; /* events read */
	int64 expected;
	int64 estimate; /* events in the log */
	EsKey *key;
	TupleTableSlot *row;
	EsRowTaker take;
	void *arg;
	MemoryContext context; /* of the rows received and not yet taken */
	HeapTupleData *tuples;
	EsStateEntry *rows;
	int nrows;
	Size size;
} Receiver;

static BlockNumber log_blocks(void);
static bool is_safe(EsFold *fold);
static bool may_be_written(Relation table);
static ParallelContext *start_workers(const EsFoldSpec *spec, int nworkers);
static void share(ParallelContext *workers, const EsFoldSpec *spec, int nworkers);
static shm_mq *queue_of(shm_toc *toc, int worker);
static void receive_all(Receiver *receiver);
static bool receive_some(Receiver *receiver, int worker);
static void receive_message(Receiver *receiver, const char *message, Size length);
static void take_rows(Receiver *receiver);
static void report(Receiver *receiver);
static int wait_for_start(Shared *shared);
static void fold_slices(Shared *shared, EsFeed *feed, EsProjection *projection, Relation target,
						shm_mq_handle *queue);
static void send_part(const EsFoldedPart *part, void *arg);
static void send_state(EsStateEntry *entry, void *arg);
static void send_message(Sender *sender);

int
EsParallelWorkers(EsProjection *projection, Relation target, int wanted)
{
	int workers = wanted == ES_WORKERS_BY_SETTING ? EsReplayWorkers : wanted;
	ListCell *lc;

	workers = Min(workers, max_parallel_workers);
	workers = Min(workers, EsReplayMemory / MIN_SLICE_MEMORY);
	if (workers <= 0 || IsInParallelMode() ||
		(wanted == ES_WORKERS_BY_SETTING && log_blocks() < min_parallel_table_scan_size))
		return 0;
	if (!is_safe(EsProjectionFold(projection, target)))
		return 0;
	foreach(lc, find_all_inheritors(RelationGetRelid(target), ShareUpdateExclusiveLock, NULL))
	{
		Relation table = table_open(lfirst_oid(lc), NoLock);
		bool safe = may_be_written(table);

		table_close(table, NoLock);
		if (!safe)
			return 0;
	}
	return workers;
}

bool
EsParallelFold(const EsFoldSpec *spec, int nworkers, EsRowTaker take, void *arg, EsFolded *folded)
{
	EsKey *key = EsProjectionFold(spec->projection, spec->target)->key;
	ParallelContext *workers;

	EnterParallelMode();
	workers = start_workers(spec, nworkers);
	if (workers != NULL)
	{
		Shared *shared = shm_toc_lookup(workers->toc, KEY_SHARED, false);
		Receiver receiver = {.workers = workers,
							 .shared = shared,
							 .feed = shm_toc_lookup(workers->toc, KEY_FEED, false),
							 .key = key,
							 .take = take,
							 .arg = arg};

		receiver.row = MakeSingleTupleTableSlot(RelationGetDescr(spec->target), &TTSOpsHeapTuple);
		EsFeedStart(receiver.feed, workers->nworkers_launched);
		pg_atomic_write_u32(&shared->nslices, workers->nworkers_launched);
		ConditionVariableBroadcast(&shared->started);
		receive_all(&receiver);
		ExecDropSingleTupleTableSlot(receiver.row);
		WaitForParallelWorkersToFinish(workers);
		if (shared->slices_done != workers->nworkers_launched)
			elog(ERROR, "parallel workers folded only %d slices", shared->slices_done);
		*folded = shared->folded;
		DestroyParallelContext(workers);
	}
	ExitParallelMode();
	return workers != NULL;
}

/* A worker: folds slices of the keys as long as there are any. */
void
EsParallelWorkerMain(dsm_segment *segment, shm_toc *toc)
{
	Shared *shared;
	const char *name;
	shm_mq *queue;
	shm_mq_handle *handle;
	EsProjection *projection;
	Relation target;
	EsReplayState state;

	/* A library that is newer than the leader's has other ideas of what is shared. */
	EsCheckVersion();
	shared = shm_toc_lookup(toc, KEY_SHARED, false);
	name = shm_toc_lookup(toc, KEY_NAME, false);
	queue = queue_of(toc, ParallelWorkerNumber);
	shm_mq_set_sender(queue, MyProc);
	handle = shm_mq_attach(queue, segment, NULL);
	pgstat_report_activity(STATE_RUNNING, psprintf("replay of projection \"%s\"", name));

	EsProgressShare(&shared->events_read);
	EsProjectionsEnter();
	projection = EsProjectionOpenOwned(name, AccessShareLock, &target);
	state = EsReplayBegin(name, RelationGetRelid(target));
	PG_TRY();
	{
		fold_slices(shared, shm_toc_lookup(toc, KEY_FEED, false), projection, target, handle);
	}
	PG_FINALLY();
	{
		EsReplayEnd(state);
	}
	PG_END_TRY();
	table_close(target, NoLock);
	EsProjectionsLeave();
	shm_mq_detach(handle);
}

static BlockNumber
log_blocks(void)
{
	Relation events = table_open(EsCatalogOid(ES_OBJECT_EVENTS), AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(events);

	table_close(events, AccessShareLock);
	return blocks;
}

/* Says whether a worker may evaluate the fold. */
static bool
is_safe(EsFold *fold)
{
	Query *query = makeNode(Query); /* for a function that looks at queries */

	query->commandType = CMD_SELECT;
	query->targetList = lappend(list_copy(fold->key->exprs), EsApplyExpr(fold->apply));
	if (max_parallel_hazard(query) != PROPARALLEL_SAFE)
		return false;
	for (int i = 0; i < fold->key->ncolumns; i++)
	{
		EsKeyColumn *column = &fold->key->columns[i];

		if (func_parallel(column->eq.fn_oid) != PROPARALLEL_SAFE ||
			(OidIsValid(column->hash.fn_oid) &&
			 func_parallel(column->hash.fn_oid) != PROPARALLEL_SAFE))
			return false;
	}
	return true;
}

/* Says whether the leader may write the table while there are workers. */
static bool
may_be_written(Relation table)
{
	TupleDesc desc = RelationGetDescr(table);
	Query *query = makeNode(Query);

	if (RelationUsesLocalBuffers(table))
		return false;
	query->commandType = CMD_SELECT;
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attgenerated != '\0')
			query->targetList = lappend(query->targetList, build_column_default(table, i + 1));
	for (int i = 0; desc->constr != NULL && i < desc->constr->num_check; i++)
		query->targetList = lappend(query->targetList,
									stringToNode(desc->constr->check[i].ccbin));
	return max_parallel_hazard(query) != PROPARALLEL_UNSAFE;
}

/* Starts workers; null: there are none. */
static ParallelContext *
start_workers(const EsFoldSpec *spec, int nworkers)
{
	ParallelContext *workers = CreateParallelContext(LIBRARY, WORKER_MAIN, nworkers);

	shm_toc_estimate_chunk(&workers->estimator, sizeof(Shared));
	shm_toc_estimate_chunk(&workers->estimator, strlen(spec->projection->name) + 1);
	shm_toc_estimate_chunk(&workers->estimator, mul_size(QUEUE_SIZE, nworkers));
	shm_toc_estimate_chunk(&workers->estimator, EsFeedSize(nworkers));
	shm_toc_estimate_keys(&workers->estimator, 4);
	InitializeParallelDSM(workers);
	share(workers, spec, nworkers);
	if (workers->seg != NULL)
		LaunchParallelWorkers(workers);
	if (workers->nworkers_launched > 0)
		return workers;
	DestroyParallelContext(workers);
	return NULL;
}

/* Fills the memory that is shared with the workers. */
static void
share(ParallelContext *workers, const EsFoldSpec *spec, int nworkers)
{
	Shared *shared = shm_toc_allocate(workers->toc, sizeof(Shared));
	char *name = shm_toc_allocate(workers->toc, strlen(spec->projection->name) + 1);
	char *queues = shm_toc_allocate(workers->toc, mul_size(QUEUE_SIZE, nworkers));
	EsFeed *feed = shm_toc_allocate(workers->toc, EsFeedSize(nworkers));

	memset(shared, 0, sizeof(Shared));
	shared->bound = spec->up_to_position;
	ConditionVariableInit(&shared->started);
	pg_atomic_init_u32(&shared->nslices, 0);
	pg_atomic_init_u32(&shared->next_slice, 0);
	pg_atomic_init_u64(&shared->events_read, 0);
	SpinLockInit(&shared->mutex);
	strcpy(name, spec->projection->name);
	for (int i = 0; i < nworkers; i++)
		shm_mq_set_receiver(shm_mq_create(queues + (Size) i * QUEUE_SIZE, QUEUE_SIZE), MyProc);
	EsFeedInit(feed, log_blocks(), nworkers);
	shm_toc_insert(workers->toc, KEY_FEED, feed);
	shm_toc_insert(workers->toc, KEY_SHARED, shared);
	shm_toc_insert(workers->toc, KEY_NAME, name);
	shm_toc_insert(workers->toc, KEY_QUEUES, queues);
}

static shm_mq *
queue_of(shm_toc *toc, int worker)
{
	char *queues = shm_toc_lookup(toc, KEY_QUEUES, false);

	return (shm_mq *) (queues + (Size) worker * QUEUE_SIZE);
}

/* Receives what the workers send, until all are done, and has it taken. */
static void
receive_all(Receiver *receiver)
{
	ParallelContext *workers = receiver->workers;
	int open = workers->nworkers_launched;

	receiver->context = AllocSetContextCreate(CurrentMemoryContext, "es rows received",
											  ALLOCSET_DEFAULT_SIZES);
	receiver->tuples = palloc(sizeof(HeapTupleData) * TAKEN_ROWS);
	receiver->rows = palloc0(sizeof(EsStateEntry) * TAKEN_ROWS);
	receiver->queues = palloc(sizeof(shm_mq_handle *) * open);
	for (int i = 0; i < open; i++)
		receiver->queues[i] = shm_mq_attach(queue_of(workers->toc, i), workers->seg,
											workers->worker[i].bgwhandle);
	receiver->estimate = receiver->expected = EsLogEstimate();
	EsProgressExpect(receiver->expected);
	while (open > 0)
	{
		bool received = false;

		for (int i = 0; i < workers->nworkers_launched; i++)
		{
			if (receiver->queues[i] == NULL)
				continue;
			received |= receive_some(receiver, i);
			open -= receiver->queues[i] == NULL;
		}
		report(receiver);
		if (received || open == 0)
			continue;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 REPORT_INTERVAL, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	take_rows(receiver);
	MemoryContextDelete(receiver->context);
}

/* Receives a message of the worker; false: there is none yet. */
static bool
receive_some(Receiver *receiver, int worker)
{
	Size length;
	void *message;

	CHECK_FOR_INTERRUPTS();
	switch (shm_mq_receive(receiver->queues[worker], &length, &message, true))
	{
		case SHM_MQ_SUCCESS:
			receive_message(receiver, message, length);
			return true;
		case SHM_MQ_DETACHED:
			shm_mq_detach(receiver->queues[worker]);
			receiver->queues[worker] = NULL;
			EsFeedLeave(receiver->feed, worker);
			return false;
		default:
			return false;
	}
}

/* Keeps the rows of a message, to be taken with others. */
static void
receive_message(Receiver *receiver, const char *message, Size length)
{
	MemoryContext old;
	char *copy;

	if (receiver->nrows + MESSAGE_ROWS > TAKEN_ROWS || receiver->size >= TAKEN_SIZE)
		take_rows(receiver);
	old = MemoryContextSwitchTo(receiver->context);
	copy = MemoryContextAllocHuge(receiver->context, length);
	memcpy(copy, message, length);
	for (Size at = 0; at < length;)
	{
		HeapTuple tuple = &receiver->tuples[receiver->nrows];
		EsStateEntry *entry = &receiver->rows[receiver->nrows++];

		tuple->t_len = *(uint64 *) (copy + at);
		tuple->t_data = (HeapTupleHeader) (copy + at + sizeof(uint64));
		tuple->t_tableOid = InvalidOid;
		ItemPointerSetInvalid(&tuple->t_self);
		at += sizeof(uint64) + MAXALIGN(tuple->t_len);
		entry->state = tuple;
		entry->key = palloc(sizeof(Datum) * receiver->key->ncolumns);
		ExecStoreHeapTuple(tuple, receiver->row, false);
		EsKeyOfRow(receiver->key, receiver->row, entry->key);
	}
	ExecClearTuple(receiver->row);
	receiver->size += length;
	MemoryContextSwitchTo(old);
}

/* Has the rows taken that have been received. */
static void
take_rows(Receiver *receiver)
{
	if (receiver->nrows > 0)
		receiver->take(receiver->key, receiver->rows, receiver->nrows, receiver->arg);
	receiver->nrows = 0;
	receiver->size = 0;
	MemoryContextReset(receiver->context);
}

/* Reports what the workers have read. */
static void
report(Receiver *receiver)
{
	int64 read = pg_atomic_read_u64(&receiver->shared->events_read);

	/* If it is more than there should be, then the log is being read once more. */
	while (read > receiver->expected)
	{
		int64 more = Max(receiver->estimate, 1000);

		receiver->expected += more;
		EsProgressExpect(receiver->expected - receiver->reported);
	}
	if (read > receiver->reported)
		EsProgressAdd(read - receiver->reported);
	receiver->reported = read;
}

/* Waits until the leader has started the work, and returns how many slices there are. */
static int
wait_for_start(Shared *shared)
{
	while (pg_atomic_read_u32(&shared->nslices) == 0)
		ConditionVariableSleep(&shared->started, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
	return pg_atomic_read_u32(&shared->nslices);
}

/* Folds slices that nobody has taken, and sends their rows. */
static void
fold_slices(Shared *shared, EsFeed *feed, EsProjection *projection, Relation target,
			shm_mq_handle *queue)
{
	Sender sender = {.projection = projection, .queue = queue};
	EsFoldSpec spec = {.projection = projection,
					   .target = target,
					   .up_to_position = shared->bound,
					   .slices = wait_for_start(shared),
					   .reader = ParallelWorkerNumber};

	spec.feed = spec.slices > 1 ? feed : NULL;
	sender.row = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsHeapTuple);
	initStringInfo(&sender.message);
	while ((spec.slice = pg_atomic_fetch_add_u32(&shared->next_slice, 1)) < spec.slices)
	{
		EsFolded folded = EsFoldLog(&spec, send_part, &sender);

		SpinLockAcquire(&shared->mutex);
		shared->folded.events += folded.events;
		shared->folded.up_to_position =
			Max(shared->folded.up_to_position, folded.up_to_position);
		shared->slices_done++;
		SpinLockRelease(&shared->mutex);
	}
	EsFeedLeave(feed, spec.reader);
	ExecDropSingleTupleTableSlot(sender.row);
}

/* Sends the rows of a part, as the projection's owner. */
static void
send_part(const EsFoldedPart *part, void *arg)
{
	Sender *sender = arg;
	MemoryContext context = CurrentMemoryContext;
	EsActing acting;

	sender->key = part->key;
	EsProjectionAct(sender->projection, &acting);
	PG_TRY();
	{
		EsStatesVisit(part->states, send_state, sender);
		send_message(sender);
	}
	PG_CATCH();
	{
		EsProjectionFailed(sender->projection, NULL, context);
	}
	PG_END_TRY();
	EsActingEnd(&acting);
}

/* Adds a state that is final to the message. */
static void
send_state(EsStateEntry *entry, void *arg)
{
	Sender *sender = arg;
	StringInfo message = &sender->message;
	uint64 length;
	int end;

	CHECK_FOR_INTERRUPTS();
	if (entry->state == NULL)
		return;
	ExecStoreHeapTuple(entry->state, sender->row, false);
	EsStateCheckKey(sender->key, entry->key, sender->row);
	length = entry->state->t_len;
	appendBinaryStringInfo(message, (char *) &length, sizeof(length));
	appendBinaryStringInfo(message, (char *) entry->state->t_data, length);
	end = MAXALIGN(message->len);
	while (message->len < end)
		appendStringInfoChar(message, '\0');
	if (++sender->nrows == MESSAGE_ROWS || message->len >= MESSAGE_SIZE)
		send_message(sender);
}

static void
send_message(Sender *sender)
{
	if (sender->nrows > 0 &&
		shm_mq_send(sender->queue, sender->message.len, sender->message.data, false, true) !=
			SHM_MQ_SUCCESS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not send rows to the parallel leader")));
	ExecClearTuple(sender->row);
	resetStringInfo(&sender->message);
	sender->nrows = 0;
}
