/*
 * append.h
 *	  What those who react to appended events may know and add.
 *
 * EsSerializeHook and EsRestoring() are declared beside the rules of the log.
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

#include "sequence.h"

#endif /* ES_APPEND_H */
