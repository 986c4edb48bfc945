/*
 * logscan.c
 *	  Reading a range of the log in position order.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "catalog.h"
#include "compat.h"
#include "logscan.h"
#include "utils/fmgroids.h"

EsLogScan
EsLogScanBegin(Relation events, Snapshot snapshot, int64 after, int64 up_to)
{
	EsLogScan scan;
	ScanKeyData keys[2];

	scan.index = index_open(EsCatalogOid(ES_OBJECT_EVENTS_PKEY), AccessShareLock);
	scan.scan = EsIndexBeginScan(events, scan.index, snapshot, lengthof(keys));
	ScanKeyInit(&keys[0], 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(up_to));
	index_rescan(scan.scan, keys, lengthof(keys), NULL, 0);
	return scan;
}

bool
EsLogScanNext(EsLogScan *scan, TupleTableSlot *event, int64 *position)
{
	bool isnull;

	if (!index_getnext_slot(scan->scan, ForwardScanDirection, event))
		return false;
	*position = DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION, &isnull));
	return true;
}

void
EsLogScanEnd(EsLogScan *scan)
{
	index_endscan(scan->scan);
	index_close(scan->index, AccessShareLock);
}
