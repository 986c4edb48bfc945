/*
 * compat.h
 *	  Differences between the PostgreSQL versions that we build against.
 *
 * The only place for #if PG_VERSION_NUM.  Each macro has the meaning that the
 * newest version gives it.
 */
#ifndef ES_COMPAT_H
#define ES_COMPAT_H

#include "access/htup_details.h"
#include "executor/executor.h"
#include "parser/parse_relation.h"
#include "storage/lock.h"
#include "utils/acl.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 150000
#error "pg_eventsourcing needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#define EsExecInsertIndexTuples(rri, slot, estate, update, nodup, conflict, arbiters) \
	ExecInsertIndexTuples(rri, slot, estate, update, nodup, conflict, arbiters, false)
#define EsProcAclCheck(oid, role)       object_aclcheck(ProcedureRelationId, oid, role, ACL_EXECUTE)
#define EsRelationOwnerCheck(oid, role) object_ownercheck(RelationRelationId, oid, role)
#define EsDatabaseOwnerCheck(oid, role) object_ownercheck(DatabaseRelationId, oid, role)
#else
#define EsExecInsertIndexTuples(rri, slot, estate, update, nodup, conflict, arbiters) \
	ExecInsertIndexTuples(rri, slot, estate, update, nodup, conflict, arbiters)
#define EsProcAclCheck(oid, role)       pg_proc_aclcheck(oid, role, ACL_EXECUTE)
#define EsRelationOwnerCheck(oid, role) pg_class_ownercheck(oid, role)
#define EsDatabaseOwnerCheck(oid, role) pg_database_ownercheck(oid, role)
#endif

/* The entry of a backend in the activity statistics, counted from 1. */
#if PG_VERSION_NUM >= 160000
#define EsLocalBackendEntry(i) pgstat_get_local_beentry_by_index(i)
#else
#define EsLocalBackendEntry(i) pgstat_fetch_stat_local_beentry(i)
#endif

/* The columns that an UPDATE of the range table's only relation sets. */
#if PG_VERSION_NUM >= 160000
#define EsUpdatedColumns(estate) \
	(((RTEPermissionInfo *) linitial((estate)->es_rteperminfos))->updatedCols)
#else
#define EsUpdatedColumns(estate) \
	(((RangeTblEntry *) linitial((estate)->es_range_table))->updatedCols)
#endif

#if PG_VERSION_NUM >= 180000
#define EsExecInitGenerated(rri, estate, operation) ExecInitGenerated(rri, estate, operation)
#else
#define EsExecInitGenerated(rri, estate, operation) ExecInitStoredGenerated(rri, estate, operation)
#endif

/* What the relation cache knows of the storage that this transaction has made. */
#if PG_VERSION_NUM >= 160000
#define EsNewStorageSubid               rd_newRelfilelocatorSubid
#define EsFirstStorageSubid             rd_firstRelfilelocatorSubid
#define EsRelationAssumeNewStorage(rel) RelationAssumeNewRelfilelocator(rel)
#else
#define EsNewStorageSubid               rd_newRelfilenodeSubid
#define EsFirstStorageSubid             rd_firstRelfilenodeSubid
#define EsRelationAssumeNewStorage(rel) RelationAssumeNewRelfilenode(rel)
#endif

#if PG_VERSION_NUM >= 170000
#define EsReindexIndex(index, persistence, params) \
	reindex_index(NULL, index, false, persistence, params)
#else
#define EsReindexIndex(index, persistence, params) \
	reindex_index(index, false, persistence, params)
#endif

/* Later versions close the files of a relation when they hear that it has changed. */
#if PG_VERSION_NUM >= 170000
#define EsRelationCloseStorage(relid) ((void) (relid))
#else
#define EsRelationCloseStorage(relid) RelationCloseSmgrByOid(relid)
#endif

/* Has the permissions that a query needs on a relation looked up of another one. */
#if PG_VERSION_NUM >= 160000
#define EsRedirectPermissions(query, from, to) \
	do \
	{ \
		ListCell *es_cell; \
		foreach(es_cell, (query)->rteperminfos) \
		{ \
			RTEPermissionInfo *es_info = lfirst(es_cell); \
			if (es_info->relid == (from)) \
				es_info->relid = (to); \
		} \
	} while (0)
#else
#define EsRedirectPermissions(query, from, to) ((void) 0)
#endif

/* Stores the expression of a generated column; constraints have not always been enforced. */
#if PG_VERSION_NUM >= 180000
#define EsStoreAttrDefault(rel, column, expr) StoreAttrDefault(rel, column, expr, true)
#define EsSetEnforced(node, check) \
	((node)->is_enforced = (check)->ccenforced, (node)->initially_valid = (check)->ccenforced)
#else
#define EsStoreAttrDefault(rel, column, expr) StoreAttrDefault(rel, column, expr, true, false)
#define EsSetEnforced(node, check)            ((void) 0)
#endif

/* The index of a primary key that is not deferrable. */
#if PG_VERSION_NUM >= 180000
#define EsPrimaryKeyIndex(rel) RelationGetPrimaryKeyIndex(rel, false)
#else
#define EsPrimaryKeyIndex(rel) RelationGetPrimaryKeyIndex(rel)
#endif

/* Used where EXCHANGE() is defined: a statistic that older versions lack. */
#if PG_VERSION_NUM >= 180000
#define EsExchangeAllFrozen() EXCHANGE(relallfrozen)
#else
#define EsExchangeAllFrozen() ((void) 0)
#endif

/* Starts loading memory into the processor's cache, where the compiler can say so. */
#if defined(__GNUC__) || defined(__clang__)
#define EsPrefetch(address) __builtin_prefetch(address)
#else
#define EsPrefetch(address) ((void) 0)
#endif

/* Goes before a declaration, as in PostgreSQL 18. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/*
 * Gives an EState the range table of one relation that is inserted into, for
 * the executor functions that look there for names and permissions.
 */
#if PG_VERSION_NUM >= 180000
#define EsInitRangeTable(estate, rte) \
	do \
	{ \
		List *es_perminfos = NIL; \
		addRTEPermissionInfo(&es_perminfos, rte); \
		ExecInitRangeTable(estate, list_make1(rte), es_perminfos, bms_make_singleton(1)); \
	} while (0)
#elif PG_VERSION_NUM >= 160000
#define EsInitRangeTable(estate, rte) \
	do \
	{ \
		List *es_perminfos = NIL; \
		addRTEPermissionInfo(&es_perminfos, rte); \
		ExecInitRangeTable(estate, list_make1(rte), es_perminfos); \
	} while (0)
#else
#define EsInitRangeTable(estate, rte) ExecInitRangeTable(estate, list_make1(rte))
#endif

#if PG_VERSION_NUM >= 180000
#define EsIndexBeginScan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define EsIndexBeginScan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

#if PG_VERSION_NUM >= 160000
#define EsStringToQualifiedNameList(text)    stringToQualifiedNameList(text, NULL)
#define EsEvalPlanQualInit(epqstate, estate) EvalPlanQualInit(epqstate, estate, NULL, NIL, -1, NIL)
#else
#define EsStringToQualifiedNameList(text)    stringToQualifiedNameList(text)
#define EsEvalPlanQualInit(epqstate, estate) EvalPlanQualInit(epqstate, estate, NULL, NIL, -1)
#endif

#if PG_VERSION_NUM >= 170000
#define EsLockHeldByMe(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define EsLockHeldByMe(tag, mode) LockHeldByMe(tag, mode)
#endif

/* Declared by fmgr.h in later versions. */
#if PG_VERSION_NUM < 160000
extern PGDLLEXPORT void _PG_init(void);
#endif

#endif /* ES_COMPAT_H */
