/*
 * gap.h
 *	  Ranges of the log in which there is nothing for a stream.
 */
#ifndef ES_GAP_H
#define ES_GAP_H

#include "postgres.h"

#include "stream.h"

/* Remembers that there is nothing for the stream from its checkpoint up to a position. */
extern void EsGapLearn(const EsStream *stream, int64 up_to);

/* Returns up to where that is known; the checkpoint itself if nothing is. */
extern int64 EsGapEnd(const EsStream *stream);

/* Says whether this was not asked for the stream in the last so many milliseconds. */
extern bool EsGapDue(const EsStream *stream, int interval);

#endif /* ES_GAP_H */
