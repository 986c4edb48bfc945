/*
 * logscan.h
 *	  Reading a range of the log in position order.
 */
#ifndef ES_LOGSCAN_H
#define ES_LOGSCAN_H

#include "postgres.h"

#include "access/genam.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

typedef struct EsLogScan
{
	Relation index;
	IndexScanDesc scan;
} EsLogScan;

/*
 * Starts to read the events above a position and up to another one that the
 * snapshot shows.  The caller has opened es.events, and keeps the snapshot.
 */
extern EsLogScan EsLogScanBegin(Relation events, Snapshot snapshot, int64 after, int64 up_to);

/* Reads the next event into the slot; false: there are no more. */
extern bool EsLogScanNext(EsLogScan *scan, TupleTableSlot *event, int64 *position);

extern void EsLogScanEnd(EsLogScan *scan);

#endif /* ES_LOGSCAN_H */
