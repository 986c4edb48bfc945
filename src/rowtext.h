/*
 * rowtext.h
 *	  Rows and keys of a state table as users read and write them.
 */
#ifndef ES_ROWTEXT_H
#define ES_ROWTEXT_H

#include "postgres.h"

#include "key.h"

/* The columns of a state table that come from events: all but the generated ones. */
typedef struct EsRowText EsRowText;

extern EsRowText *EsRowTextCreate(Relation target, EsKey *key);

/* Returns the columns as an SQL list. */
extern char *EsRowTextColumns(EsRowText *rowtext);

/* Stores a row of these columns as a row of the state table, whose slot is virtual. */
extern void EsRowTextStore(EsRowText *rowtext, TupleTableSlot *columns, TupleTableSlot *row);

/*
 * Returns a row of the state table as jsonb, and its key as text: a single
 * column's text, or the row of several, such as "(usd,2026)".
 */
extern Datum EsRowTextJsonb(EsRowText *rowtext, TupleTableSlot *row);
extern Datum EsRowTextKey(EsRowText *rowtext, const Datum *key);

/* Returns the key that a text stands for; 22004 if one of its columns is null. */
extern Datum *EsRowTextParseKey(EsRowText *rowtext, char *text);

/*
 * Says whether two rows of the state table are the same to who reads them: the
 * columns' bytes are, or else their text is.
 */
extern bool EsRowTextSame(EsRowText *rowtext, TupleTableSlot *a, TupleTableSlot *b);

#endif /* ES_ROWTEXT_H */
