/*
 * utility.h
 *	  What the extension does before and after other commands.
 */
#ifndef ES_UTILITY_H
#define ES_UTILITY_H

/* Joins the execution of utility commands. */
extern void EsUtilityInit(void);

#endif /* ES_UTILITY_H */
