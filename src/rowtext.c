/*
 * rowtext.c
 *	  Rows and keys of a state table as users read and write them.
 *
 * Generated columns are left out: they are not folded but computed when a row
 * is written.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "rowtext.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

struct EsRowText
{
	TupleDesc row;       /* of the columns that are not generated */
	AttrNumber *attnums; /* of the state table */
	FmgrInfo *outputs;
	EsKey *key;
	TupleDesc key_row;
	FmgrInfo to_jsonb;
	FmgrInfo record_out;
	FmgrInfo record_in;
	FmgrInfo key_output; /* of a single column */
	FmgrInfo key_input;
	Oid key_param;
	int32 key_typmod;
};

static void prepare_key(EsRowText *rowtext, Relation target);
static bool same_text(FmgrInfo *output, Datum a, Datum b);

EsRowText *
EsRowTextCreate(Relation target, EsKey *key)
{
	EsRowText *rowtext = palloc0(sizeof(EsRowText));
	TupleDesc desc = RelationGetDescr(target);
	int n = 0;

	rowtext->attnums = palloc(sizeof(AttrNumber) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && TupleDescAttr(desc, i)->attgenerated == '\0')
			rowtext->attnums[n++] = i + 1;

	rowtext->row = CreateTemplateTupleDesc(n);
	rowtext->outputs = palloc(sizeof(FmgrInfo) * n);
	for (int i = 0; i < n; i++)
	{
		Oid output;
		bool varlena;

		TupleDescCopyEntry(rowtext->row, i + 1, desc, rowtext->attnums[i]);
		getTypeOutputInfo(TupleDescAttr(rowtext->row, i)->atttypid, &output, &varlena);
		fmgr_info(output, &rowtext->outputs[i]);
	}
	rowtext->row = BlessTupleDesc(rowtext->row);
	fmgr_info(F_TO_JSONB, &rowtext->to_jsonb);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(makeNullConst(RECORDOID, -1, InvalidOid)),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &rowtext->to_jsonb);
	rowtext->key = key;
	prepare_key(rowtext, target);
	return rowtext;
}

char *
EsRowTextColumns(EsRowText *rowtext)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < rowtext->row->natts; i++)
		appendStringInfo(&buf, "%s%s", i == 0 ? "" : ", ",
						 quote_identifier(NameStr(TupleDescAttr(rowtext->row, i)->attname)));
	return buf.data;
}

void
EsRowTextStore(EsRowText *rowtext, TupleTableSlot *columns, TupleTableSlot *row)
{
	slot_getallattrs(columns);
	ExecStoreAllNullTuple(row);
	for (int i = 0; i < rowtext->row->natts; i++)
	{
		row->tts_values[rowtext->attnums[i] - 1] = columns->tts_values[i];
		row->tts_isnull[rowtext->attnums[i] - 1] = columns->tts_isnull[i];
	}
}

Datum
EsRowTextJsonb(EsRowText *rowtext, TupleTableSlot *row)
{
	int n = rowtext->row->natts;
	Datum *values = palloc(sizeof(Datum) * n);
	bool *nulls = palloc(sizeof(bool) * n);

	for (int i = 0; i < n; i++)
		values[i] = slot_getattr(row, rowtext->attnums[i], &nulls[i]);
	return FunctionCall1(&rowtext->to_jsonb,
						 heap_copy_tuple_as_datum(heap_form_tuple(rowtext->row, values, nulls),
												  rowtext->row));
}

Datum
EsRowTextKey(EsRowText *rowtext, const Datum *key)
{
	bool nulls[INDEX_MAX_KEYS] = {false};
	HeapTuple row;
	char *text;

	if (rowtext->key->ncolumns == 1)
		text = OutputFunctionCall(&rowtext->key_output, key[0]);
	else
	{
		row = heap_form_tuple(rowtext->key_row, (Datum *) key, nulls);
		text = OutputFunctionCall(&rowtext->record_out,
								  heap_copy_tuple_as_datum(row, rowtext->key_row));
	}
	return CStringGetTextDatum(text);
}

Datum *
EsRowTextParseKey(EsRowText *rowtext, char *text)
{
	EsKey *key = rowtext->key;
	Datum *values = palloc(sizeof(Datum) * key->ncolumns);
	bool nulls[INDEX_MAX_KEYS] = {false};
	HeapTupleData row;
	Datum record;

	if (key->ncolumns == 1)
	{
		values[0] = InputFunctionCall(&rowtext->key_input, text, rowtext->key_param,
									  rowtext->key_typmod);
		return values;
	}
	record = InputFunctionCall(&rowtext->record_in, text, RECORDOID, rowtext->key_row->tdtypmod);
	row.t_data = DatumGetHeapTupleHeader(record);
	row.t_len = HeapTupleHeaderGetDatumLength(row.t_data);
	ItemPointerSetInvalid(&row.t_self);
	row.t_tableOid = InvalidOid;
	heap_deform_tuple(&row, rowtext->key_row, values, nulls);
	for (int i = 0; i < key->ncolumns; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("column \"%s\" of key %s is null",
							NameStr(TupleDescAttr(rowtext->key_row, i)->attname), text)));
	return values;
}

bool
EsRowTextSame(EsRowText *rowtext, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < rowtext->row->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(rowtext->row, i);
		bool a_null;
		bool b_null;
		Datum x = slot_getattr(a, rowtext->attnums[i], &a_null);
		Datum y = slot_getattr(b, rowtext->attnums[i], &b_null);

		if (a_null != b_null)
			return false;
		if (!a_null && !datum_image_eq(x, y, column->attbyval, column->attlen) &&
			!same_text(&rowtext->outputs[i], x, y))
			return false;
	}
	return true;
}

/* Prepares to write and read keys. */
static void
prepare_key(EsRowText *rowtext, Relation target)
{
	EsKey *key = rowtext->key;
	TupleDesc desc = RelationGetDescr(target);
	Oid function;
	bool varlena;

	if (key->ncolumns == 1)
	{
		getTypeOutputInfo(key->columns[0].typid, &function, &varlena);
		fmgr_info(function, &rowtext->key_output);
		getTypeInputInfo(key->columns[0].typid, &function, &rowtext->key_param);
		fmgr_info(function, &rowtext->key_input);
		rowtext->key_typmod = TupleDescAttr(desc, key->columns[0].attnum - 1)->atttypmod;
		return;
	}
	rowtext->key_row = CreateTemplateTupleDesc(key->ncolumns);
	for (int i = 0; i < key->ncolumns; i++)
		TupleDescCopyEntry(rowtext->key_row, i + 1, desc, key->columns[i].attnum);
	rowtext->key_row = BlessTupleDesc(rowtext->key_row);
	fmgr_info(F_RECORD_OUT, &rowtext->record_out);
	fmgr_info(F_RECORD_IN, &rowtext->record_in);
}

static bool
same_text(FmgrInfo *output, Datum a, Datum b)
{
	char *x = OutputFunctionCall(output, a);
	char *y = OutputFunctionCall(output, b);

	return strcmp(x, y) == 0;
}
