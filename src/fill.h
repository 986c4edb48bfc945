/*
 * fill.h
 *	  Writing the rows that the log gives into a table of the same shape.
 */
#ifndef ES_FILL_H
#define ES_FILL_H

#include "postgres.h"

#include "foldlog.h"

/*
 * Folds the log and inserts the rows into the table, as the current user, by
 * an ordinary INSERT.  Returns how many were inserted; *up_to_position is that
 * of the last event read.  The caller has opened the table with
 * RowExclusiveLock.  Raises SE007 if the state table has a column that the
 * table lacks, or has of another type.
 */
extern int64 EsFill(const EsFoldSpec *spec, Relation table, int64 *up_to_position);

#endif /* ES_FILL_H */
