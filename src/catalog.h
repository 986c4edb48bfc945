/*
 * catalog.h
 *	  OIDs and columns of the extension's own tables.
 */
#ifndef ES_CATALOG_H
#define ES_CATALOG_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/rel.h"

/* Columns of es.events, in their order. */
typedef enum EsEventColumn
{
	ES_EVENT_POSITION = 1,
	ES_EVENT_VERSION,
	ES_EVENT_RECORDED_AT,
	ES_EVENT_OCCURRED_AT,
	ES_EVENT_EVENT_ID,
	ES_EVENT_SCHEMA_VERSION,
	ES_EVENT_AGGREGATE_TYPE,
	ES_EVENT_AGGREGATE_ID,
	ES_EVENT_EVENT_TYPE,
	ES_EVENT_SOURCE,
	ES_EVENT_CORRELATION_ID,
	ES_EVENT_CAUSATION_ID,
	ES_EVENT_DATA,
	ES_EVENT_METADATA
} EsEventColumn;

#define ES_EVENT_NCOLUMNS ES_EVENT_METADATA

/* Objects of the extension whose OIDs the code needs. */
typedef enum EsObject
{
	ES_OBJECT_EVENTS,                /* es.events */
	ES_OBJECT_EVENTS_PKEY,           /* its index on (position) */
	ES_OBJECT_EVENTS_AGGREGATE,      /* its index on (aggregate_type, aggregate_id, version) */
	ES_OBJECT_EVENTS_EVENT_ID,       /* its index on (event_id) */
	ES_OBJECT_POSITION_SEQ,          /* es.events_position_seq */
	ES_OBJECT_PUBLISHED_SEQ,         /* es.published_mark_seq */
	ES_OBJECT_PROJECTION,            /* es.projection, the registry */
	ES_OBJECT_PROJECTION_PKEY,       /* its index on (name) */
	ES_OBJECT_HANDLER,               /* es.projection_handler, the statements */
	ES_OBJECT_HANDLER_KEY,           /* its index on (projection, event_type) */
	ES_OBJECT_CHECKPOINT,            /* es.projection_checkpoint */
	ES_OBJECT_CHECKPOINT_PKEY,       /* its index on (projection) */
	ES_OBJECT_PARKED,                /* es.projection_parked, events put aside */
	ES_OBJECT_PARKED_PKEY,           /* its index on (projection, position) */
	ES_OBJECT_SUBSCRIPTION,          /* es.subscription */
	ES_OBJECT_SUBSCRIPTION_PKEY,     /* its index on (name) */
	ES_OBJECT_STREAM,                /* es.subscription_stream */
	ES_OBJECT_STREAM_PKEY,           /* its index on (stream) */
	ES_OBJECT_STREAM_SUBSCRIPTION,   /* its index on (subscription, stream) */
	ES_OBJECT_STREAM_PARKED,         /* es.subscription_parked, events put aside */
	ES_OBJECT_STREAM_PARKED_PKEY,    /* its primary key's index */
	ES_OBJECT_STREAM_PARKED_WAITING, /* its index on those that are to be delivered */
	ES_OBJECT_WRITER,                /* es.writer, what writers are limited to */
	ES_NOBJECTS
} EsObject;

/* Returns the object's OID; an error unless the library's version of it is installed. */
extern Oid EsCatalogOid(EsObject object);

/*
 * Read and make a row of one of the tables, which must be locked.  It has these
 * columns, and may have more: the table may be another version's by now (then it
 * is an error), or have columns that somebody has added to it.
 */
extern void EsCatalogRead(Relation table, HeapTuple row, int ncolumns, Datum *values, bool *nulls);
extern HeapTuple EsCatalogRow(Relation table, int ncolumns, const Datum *values, const bool *nulls);

/* Returns the extension's OID, for its owner and its membership. */
extern Oid EsCatalogExtension(void);

/* Returns the role that owns the extension's tables. */
extern Oid EsCatalogOwner(void);

#endif /* ES_CATALOG_H */
