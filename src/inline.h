/*
 * inline.h
 *	  Projections that are maintained in the writer's transaction.
 */
#ifndef ES_INLINE_H
#define ES_INLINE_H

extern void EsInlineInit(void);

#endif /* ES_INLINE_H */
