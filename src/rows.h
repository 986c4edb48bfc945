/*
 * rows.h
 *	  Reading rows of the extension's own tables by an index, without a query.
 */
#ifndef ES_ROWS_H
#define ES_ROWS_H

#include "postgres.h"

#include "access/genam.h"
#include "catalog.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#define ES_ROWS_MAX_KEYS 2

typedef struct EsRows
{
	Relation table;
	Relation index;
	Snapshot snapshot;
	SysScanDesc scan;
	int nkeys;
	ScanKeyData keys[ES_ROWS_MAX_KEYS];
} EsRows;

/*
 * Say, from .nkeys = 0 on, what the columns of the table (counted from 1) must be:
 * a text or a number equal to a value, or as a function of the index's operator
 * class says.
 */
extern void EsRowsKeyText(EsRows *rows, AttrNumber column, const char *value);
extern void EsRowsKeyInt32(EsRows *rows, AttrNumber column, int32 value);
extern void EsRowsKey(EsRows *rows, AttrNumber column, StrategyNumber strategy,
					  RegProcedure function, Datum value);

/*
 * Starts to read the rows, in the order of the index, as the snapshot shows them;
 * to change them, that is the latest one whatever the isolation level.
 */
extern void EsRowsOpen(EsRows *rows, EsObject table, EsObject index, LOCKMODE lockmode,
					   Snapshot snapshot);

/* Returns the next row; not valid: there are no more. */
extern HeapTuple EsRowsNext(EsRows *rows);

/* Ends the reading.  The lock on the table stays to the end of the transaction. */
extern void EsRowsClose(EsRows *rows);

#endif /* ES_ROWS_H */
