/*
 * receiver.h
 *	  Receivers of a query's rows that have nothing to set up or to close.
 */
#ifndef ES_RECEIVER_H
#define ES_RECEIVER_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "tcop/dest.h"

/* Makes the receiver call a function with each row, until that returns false. */
extern void EsReceiverInit(DestReceiver *receiver,
						   bool (*receive)(TupleTableSlot *slot, DestReceiver *self));

#endif /* ES_RECEIVER_H */
