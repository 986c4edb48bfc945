/*
 * receiver.c
 *	  Receivers of a query's rows that have nothing to set up or to close.
 *
 * They say that they are for a tuplestore: SPI takes a query whose rows go
 * nowhere for one that returns none.
 */
#include "postgres.h"

#include "receiver.h"

static void begin(DestReceiver *self, int operation, TupleDesc desc);
static void end(DestReceiver *self);

void
EsReceiverInit(DestReceiver *receiver, bool (*receive)(TupleTableSlot *slot, DestReceiver *self))
{
	receiver->receiveSlot = receive;
	receiver->rStartup = begin;
	receiver->rShutdown = end;
	receiver->rDestroy = end;
	receiver->mydest = DestTuplestore;
}

static void
begin(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
end(DestReceiver *self)
{
}
