/*
 * node.c
 *	  es.set_node_id(): the number of this database among several.
 *
 * Where the log is spread over several databases, each aggregate living in one
 * of them, the number keeps their positions apart: see position.h.  It is set
 * by restarting the sequence, before there is an event.
 *
 * ShareRowExclusiveLock on es.events holds off all who append until commit.  So
 * nobody is in flight with a bound of the old range, but for the own
 * transaction, which is refused then.  The number is never lowered, so that a
 * high-water mark that somebody has seen, or published, stays right.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "argument.h"
#include "catalog.h"
#include "compat.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "position.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "version.h"

static bool has_events(Relation events);
static void restart_positions(int64 first);

ES_FUNCTION_INFO_V1(es_set_node_id);

/* es.set_node_id(): has positions begin in the range of a node. */
Datum
es_set_node_id(PG_FUNCTION_ARGS)
{
	Oid relid = EsCatalogOid(ES_OBJECT_EVENTS);
	Relation events;
	int32 node;
	int64 present;

	EsRefuseReadOnly("es.set_node_id()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("node must not be null")));
	node = PG_GETARG_INT32(0);
	if (node < 0 || node > ES_MAX_NODE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("node must be from 0 to %d, not %d", ES_MAX_NODE, node)));
	if (!EsRelationOwnerCheck(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, "events");

	events = table_open(relid, ShareRowExclusiveLock);
	present = ES_NODE_OF(EsPositionLast());
	if (node != present && (EsPositionInFlight() || has_events(events)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the node id can only be set before the first event"),
				 errdetail("This is node %lld.", (long long) present)));
	if (node < present)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the node id cannot be lowered"),
				 errdetail("This is node %lld.", (long long) present),
				 errhint("Drop the extension and create it again.")));
	if (node > present)
		restart_positions(ES_NODE_ORIGIN(node) + 1);
	table_close(events, NoLock);
	PG_RETURN_VOID();
}

/* Says whether there is an event, whatever the transaction's snapshot shows. */
static bool
has_events(Relation events)
{
	TupleTableSlot *slot = table_slot_create(events, NULL);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(events, snapshot, 0, NULL);
	bool found = table_scan_getnextslot(scan, ForwardScanDirection, slot);

	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/* Has the sequence go on at a position. */
static void
restart_positions(int64 first)
{
	char *command = psprintf("ALTER SEQUENCE es.events_position_seq RESTART WITH %lld",
							 (long long) first);

	SPI_connect();
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command);
	SPI_finish();
}
