/*
 * key.h
 *	  The key of a state table: its primary key, and the expressions over an
 *	  event that yield it.
 */
#ifndef ES_KEY_H
#define ES_KEY_H

#include "postgres.h"

#include "access/skey.h"
#include "executor/execdesc.h"
#include "nodes/execnodes.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

typedef struct EsKeyColumn
{
	AttrNumber attnum; /* column of the state table */
	Oid typid;
	int32 typmod;
	int16 typlen;
	bool typbyval;
	Oid collation;        /* of the primary key's index */
	RegProcedure eq_proc; /* for a scan of that index */
	FmgrInfo eq;
	FmgrInfo hash;    /* fn_oid invalid: there is none */
	bool equal_image; /* equal values have the same bytes */
	ExprState *value; /* over the event as outer tuple */
} EsKeyColumn;

typedef struct EsKey
{
	Oid index;       /* the state table's primary key */
	bool unhashable; /* different keys can all have one hash */
	bool injective;  /* one aggregate id, one key */
	bool pinned;     /* depends on settings: evaluate under the pinned ones */
	List *exprs;     /* planned, as columns[].value */
	int ncolumns;
	EsKeyColumn columns[INDEX_MAX_KEYS];
} EsKey;

/*
 * Builds the key of target in CurrentMemoryContext.  text is the SQL
 * expression list, null for the aggregate's id.  Raises SE007 for whatever is
 * wrong with it.  The caller holds a lock on target.
 */
extern EsKey *EsKeyCompile(Relation target, Relation events, const char *text);

/* Computes the key of the econtext's outer tuple; false: the event has none. */
extern bool EsKeyEval(EsKey *key, ExprContext *econtext, Datum *values);

/* Takes the key out of a row of the state table. */
extern void EsKeyOfRow(EsKey *key, TupleTableSlot *row, Datum *values);

extern uint32 EsKeyHash(EsKey *key, const Datum *values);
extern bool EsKeyEqual(EsKey *key, const Datum *a, const Datum *b);

/* Says whether the row in slot has this key. */
extern bool EsKeyMatches(EsKey *key, const Datum *values, TupleTableSlot *row);

/* Copies the values into CurrentMemoryContext. */
extern Datum *EsKeyCopy(EsKey *key, const Datum *values);

/* Returns the key as text for a message, such as "(usd, 2026)". */
extern char *EsKeyText(EsKey *key, const Datum *values);

/* Fills scan keys that find the row in the primary key's index. */
extern void EsKeyScanKeys(EsKey *key, const Datum *values, ScanKeyData *scankeys);

#endif /* ES_KEY_H */
