/*
 * rows.c
 *	  Reading rows of the extension's own tables by an index, without a query.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_collation_d.h"
#include "rows.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

void
EsRowsKeyText(EsRows *rows, AttrNumber column, const char *value)
{
	EsRowsKey(rows, column, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(value));
	rows->keys[rows->nkeys - 1].sk_collation = C_COLLATION_OID;
}

void
EsRowsKeyInt32(EsRows *rows, AttrNumber column, int32 value)
{
	EsRowsKey(rows, column, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(value));
}

void
EsRowsKey(EsRows *rows, AttrNumber column, StrategyNumber strategy, RegProcedure function,
		  Datum value)
{
	Assert(rows->nkeys < ES_ROWS_MAX_KEYS);
	ScanKeyInit(&rows->keys[rows->nkeys++], column, strategy, function, value);
}

void
EsRowsOpen(EsRows *rows, EsObject table, EsObject index, LOCKMODE lockmode, Snapshot snapshot)
{
	rows->table = table_open(EsCatalogOid(table), lockmode);
	rows->index = index_open(EsCatalogOid(index), AccessShareLock);
	rows->snapshot = RegisterSnapshot(snapshot);
	rows->scan = systable_beginscan_ordered(rows->table, rows->index, rows->snapshot, rows->nkeys,
											rows->keys);
}

HeapTuple
EsRowsNext(EsRows *rows)
{
	return systable_getnext_ordered(rows->scan, ForwardScanDirection);
}

void
EsRowsClose(EsRows *rows)
{
	systable_endscan_ordered(rows->scan);
	UnregisterSnapshot(rows->snapshot);
	index_close(rows->index, AccessShareLock);
	table_close(rows->table, NoLock);
}
