/*
 * writer.h
 *	  Who may append events of which aggregate types.
 */
#ifndef ES_WRITER_H
#define ES_WRITER_H

#include "postgres.h"

/* Refuses the current user (42501) if he may append nothing at all. */
extern void EsWriterCheckAny(void);

/* Refuses the current user (42501) if he may not append events of this type. */
extern void EsWriterCheck(Datum aggregate_type);

/* Says whether the current user may append events of this type. */
extern bool EsWriterMayAppend(Datum aggregate_type);

#endif /* ES_WRITER_H */
