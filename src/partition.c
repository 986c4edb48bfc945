/*
 * partition.c
 *	  What becomes of a partitioned state table when partitions come and go.
 *
 * A new partition is protected as the state table is.  One that is detached
 * becomes an ordinary table that anybody may write who has the right.  Rows
 * that a partition brings with it are taken as they are, and those that go with
 * a partition are gone, until a replay makes the rows what the log says.
 *
 * Commands are recognised by their parse trees, and only those that add or
 * detach a partition do anything here: a restore creates the triggers of
 * partitions itself, after it has attached them.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "commands/event_trigger.h"
#include "errors.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "projection.h"
#include "registry.h"
#include "utils/lsyscache.h"
#include "version.h"

ES_FUNCTION_INFO_V1(es_follow_partitions);

static void follow_alter_table(AlterTableStmt *statement);
static void partition_added(RangeVar *parent);
static void partition_attached(RangeVar *attached);
static void partition_detached(RangeVar *parent, RangeVar *detached);
static EsProjection *find_projection(Oid target);

/* es.follow_partitions(): event trigger after a command that may change partitions. */
Datum
es_follow_partitions(PG_FUNCTION_ARGS)
{
	Node *statement;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es.follow_partitions() must be called as an event trigger")));
	if (EsInOwnScript())
		PG_RETURN_NULL();
	statement = ((EventTriggerData *) fcinfo->context)->parsetree;

	EsProjectionsEnter();
	if (IsA(statement, AlterTableStmt))
		follow_alter_table((AlterTableStmt *) statement);
	else if (IsA(statement, CreateStmt) && ((CreateStmt *) statement)->partbound != NULL)
		partition_added(linitial(((CreateStmt *) statement)->inhRelations));
	else if (IsA(statement, CreateForeignTableStmt) &&
			 ((CreateForeignTableStmt *) statement)->base.partbound != NULL)
		partition_added(linitial(((CreateForeignTableStmt *) statement)->base.inhRelations));
	EsProjectionsLeave();
	PG_RETURN_NULL();
}

static void
follow_alter_table(AlterTableStmt *statement)
{
	ListCell *lc;

	foreach(lc, statement->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		switch (command->subtype)
		{
			case AT_AttachPartition:
				/* An index can be attached, too, by ALTER INDEX or by ALTER TABLE. */
				partition_attached(castNode(PartitionCmd, command->def)->name);
				partition_added(statement->relation);
				break;
			case AT_DetachPartition:
			case AT_DetachPartitionFinalize:
				partition_detached(statement->relation,
								   castNode(PartitionCmd, command->def)->name);
				break;
			default:
				break;
		}
	}
}

/* Protects what has been added below a state table. */
static void
partition_added(RangeVar *parent)
{
	Oid relid = RangeVarGetRelid(parent, NoLock, true);
	EsProjection *projection;

	if (!OidIsValid(relid))
		return;
	projection = find_projection(EsRegistryStateTable(relid));
	if (projection != NULL)
		EsRegistryProtectPartitions(projection->target, projection->protect);
}

/* Refuses to let a state table be written through another table. */
static void
partition_attached(RangeVar *attached)
{
	Oid relid = RangeVarGetRelid(attached, NoLock, true);
	EsProjection *projection = OidIsValid(relid) ? find_projection(relid) : NULL;

	if (projection != NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_PROJECTION),
				 errmsg("state table \"%s\" cannot become a partition", get_rel_name(relid)),
				 errdetail("Projection \"%s\" keeps its rows, which could then be written through the parent.",
						   projection->name),
				 errhint("Drop the projection first, with es.drop_projection().")));
}

/* Makes a former partition of a state table an ordinary table. */
static void
partition_detached(RangeVar *parent, RangeVar *detached)
{
	Oid relid = RangeVarGetRelid(parent, NoLock, true);
	Oid former = RangeVarGetRelid(detached, NoLock, true);

	if (OidIsValid(relid) && OidIsValid(former) && !get_rel_relispartition(former) &&
		find_projection(EsRegistryStateTable(relid)) != NULL)
		EsRegistryUnprotect(former, false);
}

/* Returns the projection that keeps a table, or null. */
static EsProjection *
find_projection(Oid target)
{
	ListCell *lc;

	foreach(lc, EsProjections())
	{
		EsProjection *projection = lfirst(lc);

		if (projection->target == target)
			return projection;
	}
	return NULL;
}
