/*
 * keylock.c
 *	  Serialising those who feed one row from several aggregates.
 *
 * A key's lock is one of KEY_LOCKS heavyweight locks, chosen by the key's
 * hash, whichever the projection.  So a transaction holds a bounded number of
 * them however many rows it feeds; two writers of different keys meet by
 * chance once in KEY_LOCKS times.
 */
#include "postgres.h"

#include "aggregate.h"
#include "keylock.h"
#include "miscadmin.h"
#include "storage/lock.h"

#define KEY_LOCKS 2048

bool
EsKeyLocksNeeded(EsProjection *projection, EsFold *fold)
{
	return fold->apply != NULL &&
		(!fold->key->injective || list_length(projection->aggregate_types) != 1);
}

Bitmapset *
EsKeyLocksAdd(Bitmapset *locks, uint32 hash)
{
	return bms_add_member(locks, hash % KEY_LOCKS);
}

void
EsKeyLocksTake(Bitmapset *locks)
{
	int number = -1;

	while ((number = bms_next_member(locks, number)) >= 0)
	{
		LOCKTAG tag;

		SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, number, ES_LOCK_ROW_KEY);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
}
