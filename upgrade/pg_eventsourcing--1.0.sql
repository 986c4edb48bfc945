\echo Use "CREATE EXTENSION pg_eventsourcing" to load this file. \quit

-- The event log.  Columns of fixed width come first, so that a row is compact.

CREATE SEQUENCE es.events_position_seq AS bigint CACHE 1;

CREATE TABLE es.events (
	position       bigint      NOT NULL,
	version        bigint      NOT NULL,
	recorded_at    timestamptz NOT NULL,
	occurred_at    timestamptz NOT NULL,
	event_id       uuid        NOT NULL,
	schema_version integer     NOT NULL DEFAULT 1,
	aggregate_type text COLLATE "C" NOT NULL,
	aggregate_id   text COLLATE "C" NOT NULL,
	event_type     text COLLATE "C" NOT NULL,
	source         text COLLATE "C",
	correlation_id text COLLATE "C",
	causation_id   text COLLATE "C",
	data           jsonb       NOT NULL DEFAULT '{}',
	metadata       jsonb,
	CONSTRAINT events_pkey PRIMARY KEY (position),
	CONSTRAINT events_aggregate_key UNIQUE (aggregate_type, aggregate_id, version),
	CONSTRAINT events_event_id_key UNIQUE (event_id)
) USING heap;


-- By type, source or request, in position order.  B-trees, because a reader
-- wants the next so many events in position order: a B-tree returns them in
-- that order and stops at the limit, which BRIN and bloom can't.  Within one key
-- positions only grow, so that pages fill from the left and are split where
-- the insertion goes on.  Each costs an append about a tenth of its speed (make
-- bench); the partial ones cost nothing while nobody gives the column.

CREATE INDEX events_event_type_idx ON es.events (event_type, position);
CREATE INDEX events_aggregate_type_idx ON es.events (aggregate_type, position);
CREATE INDEX events_source_idx ON es.events (source, position) WHERE source IS NOT NULL;
CREATE INDEX events_correlation_idx ON es.events (correlation_id, position) WHERE correlation_id IS NOT NULL;

-- A dump holds the log, and the sequence goes on where it was.

SELECT pg_catalog.pg_extension_config_dump('es.events', '');
SELECT pg_catalog.pg_extension_config_dump('es.events_position_seq', '');

COMMENT ON TABLE es.events IS 'the event log: append-only, one row per event';
COMMENT ON COLUMN es.events.position IS 'order over the whole log; set by the extension';
COMMENT ON COLUMN es.events.version IS '1, 2, 3 ... within the aggregate; set by the extension';
COMMENT ON COLUMN es.events.recorded_at IS 'when the event was appended; set by the extension';
COMMENT ON COLUMN es.events.occurred_at IS 'when it happened, as the producer says; default: recorded_at';
COMMENT ON COLUMN es.events.event_id IS 'identifies the event for retries; default: a new UUID version 7';
COMMENT ON COLUMN es.events.schema_version IS 'version of the form of data';
COMMENT ON COLUMN es.events.aggregate_type IS 'kind of the thing whose history this is';
COMMENT ON COLUMN es.events.aggregate_id IS 'the thing whose history this is';
COMMENT ON COLUMN es.events.event_type IS 'what happened';
COMMENT ON COLUMN es.events.source IS 'who produced the event';
COMMENT ON COLUMN es.events.correlation_id IS 'the request that the event belongs to';
COMMENT ON COLUMN es.events.causation_id IS 'the event or command that caused it';
COMMENT ON COLUMN es.events.data IS 'what happened, in particular';
COMMENT ON COLUMN es.events.metadata IS 'anything else about the event';

-- The log is append-only, for everybody and always.

CREATE FUNCTION es.refuse_change() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'es_refuse_change';

COMMENT ON FUNCTION es.refuse_change() IS 'refuses UPDATE, DELETE and TRUNCATE of es.events';

CREATE TRIGGER refuse_change
	BEFORE UPDATE OR DELETE OR TRUNCATE ON es.events
	FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();

ALTER TABLE es.events ENABLE ALWAYS TRIGGER refuse_change;

-- Writing: the trigger that holds the rules, and the functions beside INSERT and COPY.

CREATE FUNCTION es.sequence_event() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'es_sequence_event';

COMMENT ON FUNCTION es.sequence_event() IS 'checks a new event and gives it version, position and time';

-- An ordinary trigger, not ENABLE ALWAYS: a logical replication subscriber
-- must keep the versions and positions of the publisher.
CREATE TRIGGER sequence_event
	BEFORE INSERT ON es.events
	FOR EACH ROW EXECUTE FUNCTION es.sequence_event();

CREATE FUNCTION es.append(
	aggregate_type text,
	aggregate_id text,
	event_type text,
	data jsonb DEFAULT '{}',
	metadata jsonb DEFAULT NULL,
	expected_version bigint DEFAULT NULL,
	event_id uuid DEFAULT NULL,
	correlation_id text DEFAULT NULL,
	causation_id text DEFAULT NULL,
	source text DEFAULT NULL,
	occurred_at timestamptz DEFAULT NULL,
	schema_version integer DEFAULT 1
) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';

COMMENT ON FUNCTION es.append(text, text, text, jsonb, jsonb, bigint, uuid, text, text, text, timestamptz, integer)
	IS 'appends one event and returns its version';

CREATE FUNCTION es.append_events(
	aggregate_type text,
	aggregate_id text,
	events jsonb,
	expected_version bigint DEFAULT NULL,
	correlation_id text DEFAULT NULL,
	causation_id text DEFAULT NULL,
	source text DEFAULT NULL
) RETURNS TABLE ("position" bigint, version bigint, event_id uuid)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_events';

COMMENT ON FUNCTION es.append_events(text, text, jsonb, bigint, text, text, text)
	IS 'appends an array of events to one aggregate';

CREATE FUNCTION es.append_batch(
	events jsonb
) RETURNS TABLE ("position" bigint, aggregate_type text, aggregate_id text, version bigint, event_id uuid)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_batch';

COMMENT ON FUNCTION es.append_batch(jsonb)
	IS 'appends an array of events to any number of aggregates';

-- Reading.  All of these run with the caller's rights: SELECT on es.events.

CREATE FUNCTION es.high_water_mark() RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_high_water_mark';

COMMENT ON FUNCTION es.high_water_mark()
	IS 'position at or below which nothing can appear any more; read with a later snapshot';

CREATE FUNCTION es.current_version(aggregate_type text, aggregate_id text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce((SELECT e.version
				 FROM es.events AS e
				 WHERE e.aggregate_type = current_version.aggregate_type
				   AND e.aggregate_id = current_version.aggregate_id
				 ORDER BY e.version DESC
				 LIMIT 1), 0);

COMMENT ON FUNCTION es.current_version(text, text)
	IS 'version of an aggregate, 0 if it does not exist';

-- Two branches, of which one runs: so each has an order that the index on
-- (aggregate_type, aggregate_id, version) returns.
CREATE FUNCTION es.read_aggregate(
	aggregate_type text,
	aggregate_id text,
	from_version bigint DEFAULT 1,
	max_count integer DEFAULT NULL,
	backwards boolean DEFAULT false
) RETURNS SETOF es.events
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	(SELECT e.*
	 FROM es.events AS e
	 WHERE read_aggregate.backwards IS NOT TRUE
	   AND e.aggregate_type = read_aggregate.aggregate_type
	   AND e.aggregate_id = read_aggregate.aggregate_id
	   AND e.version >= coalesce(read_aggregate.from_version, 1)
	 ORDER BY e.version
	 LIMIT read_aggregate.max_count)
	UNION ALL
	(SELECT e.*
	 FROM es.events AS e
	 WHERE read_aggregate.backwards
	   AND e.aggregate_type = read_aggregate.aggregate_type
	   AND e.aggregate_id = read_aggregate.aggregate_id
	   AND e.version >= coalesce(read_aggregate.from_version, 1)
	 ORDER BY e.version DESC
	 LIMIT read_aggregate.max_count);
END;

COMMENT ON FUNCTION es.read_aggregate(text, text, bigint, integer, boolean)
	IS 'events of one aggregate from a version on, oldest or (backwards) newest first';

CREATE FUNCTION es.read_correlation(correlation_id text) RETURNS SETOF es.events
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT e.*
	FROM es.events AS e
	WHERE e.correlation_id = read_correlation.correlation_id
	ORDER BY e.position;
END;

COMMENT ON FUNCTION es.read_correlation(text) IS 'events of one request, in order';

CREATE FUNCTION es.read_all(
	after_position bigint DEFAULT 0,
	max_count integer DEFAULT 1000,
	aggregate_types text[] DEFAULT NULL,
	event_types text[] DEFAULT NULL,
	sources text[] DEFAULT NULL
) RETURNS SETOF es.events
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_read_all';

COMMENT ON FUNCTION es.read_all(bigint, integer, text[], text[], text[])
	IS 'events after a position up to the high-water mark, in order: polling with it misses none';

-- Steps from one aggregate to the next through the index on (aggregate_type,
-- aggregate_id, version), so that it costs a few page accesses per aggregate
-- however many events there are; the steps are made as rows are asked for and come
-- in the index's order.  Names are never empty, so '' comes before all of them.
-- With after_id but no aggregate_type, after_id holds for each type.
CREATE FUNCTION es.aggregates(
	aggregate_type text DEFAULT NULL,
	after_id text DEFAULT NULL,
	max_count integer DEFAULT NULL
) RETURNS TABLE (aggregate_type text, aggregate_id text, version bigint, last_recorded_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	WITH RECURSIVE step (aggregate_type, aggregate_id) AS (
		SELECT first.aggregate_type, first.aggregate_id
		FROM (SELECT e.aggregate_type, e.aggregate_id
			  FROM es.events AS e
			  WHERE (e.aggregate_type, e.aggregate_id) >
					(coalesce(aggregates.aggregate_type, ''),
					 CASE WHEN aggregates.aggregate_type IS NULL THEN ''
						  ELSE coalesce(aggregates.after_id, '') END)
			  ORDER BY e.aggregate_type, e.aggregate_id
			  LIMIT 1) AS first
		WHERE aggregates.aggregate_type IS NULL
		   OR first.aggregate_type = aggregates.aggregate_type
		UNION ALL
		SELECT next.aggregate_type, next.aggregate_id
		FROM step AS s
		CROSS JOIN LATERAL (SELECT e.aggregate_type, e.aggregate_id
							FROM es.events AS e
							WHERE (e.aggregate_type, e.aggregate_id) > (s.aggregate_type, s.aggregate_id)
							ORDER BY e.aggregate_type, e.aggregate_id
							LIMIT 1) AS next
		WHERE aggregates.aggregate_type IS NULL
		   OR next.aggregate_type = aggregates.aggregate_type
	)
	SELECT s.aggregate_type, s.aggregate_id, newest.version, newest.recorded_at
	FROM step AS s
	CROSS JOIN LATERAL (SELECT e.version, e.recorded_at
						FROM es.events AS e
						WHERE e.aggregate_type = s.aggregate_type
						  AND e.aggregate_id = s.aggregate_id
						ORDER BY e.version DESC
						LIMIT 1) AS newest
	WHERE aggregates.aggregate_type IS NOT NULL
	   OR aggregates.after_id IS NULL
	   OR s.aggregate_id > aggregates.after_id
	LIMIT aggregates.max_count;
END;

COMMENT ON FUNCTION es.aggregates(text, text, integer)
	IS 'aggregates in order of type and id, with their version; after_id without aggregate_type holds for each type';

-- Administration.

CREATE FUNCTION es.version() RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_version';

COMMENT ON FUNCTION es.version() IS 'version of the loaded library';

CREATE FUNCTION es.uuid_v7() RETURNS uuid
LANGUAGE C VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_uuid_v7';

COMMENT ON FUNCTION es.uuid_v7() IS 'a new UUID version 7; those of one session increase';

-- The registry of projections.  Its rows are changed by the functions below only.

CREATE TABLE es.projection (
	name            text COLLATE "C" NOT NULL,
	target          regclass NOT NULL,
	apply           text,
	key             text,
	aggregate_types text[],
	event_types     text[],
	mode            text     NOT NULL,
	on_error        text     NOT NULL,
	protect         boolean  NOT NULL,
	settings        text[]   NOT NULL,
	enabled         boolean  NOT NULL,
	CONSTRAINT projection_pkey PRIMARY KEY (name),
	CONSTRAINT projection_target_key UNIQUE (target)
);
SELECT pg_catalog.pg_extension_config_dump('es.projection', '');

-- How far the projections are that are async or disabled: their rows reflect the
-- events up to the checkpoint.  A table of its own because the checkpoint moves
-- all the time; the room in its pages lets it move within them.

CREATE TABLE es.projection_checkpoint (
	projection     text COLLATE "C" NOT NULL,
	checkpoint     bigint  NOT NULL,
	stopped        boolean NOT NULL,
	error          text,
	error_position bigint,
	CONSTRAINT projection_checkpoint_pkey PRIMARY KEY (projection)
) WITH (fillfactor = 20);
SELECT pg_catalog.pg_extension_config_dump('es.projection_checkpoint', '');

COMMENT ON TABLE es.projection_checkpoint IS
'How far async and disabled projections are; read it through the view es.projections';

-- Events that async projections have put aside because they failed on them.

CREATE TABLE es.projection_parked (
	projection text COLLATE "C" NOT NULL,
	position   bigint NOT NULL,
	reason     text   NOT NULL,
	parked_at  timestamptz NOT NULL,
	CONSTRAINT projection_parked_pkey PRIMARY KEY (projection, position)
);
SELECT pg_catalog.pg_extension_config_dump('es.projection_parked', '');

COMMENT ON TABLE es.projection_parked IS
'Events put aside by async projections; read it through the view es.parked_events';

-- Statements of projections that have no apply function.  A null event_type
-- stands for every type that has no statement of its own.

CREATE TABLE es.projection_handler (
	projection text COLLATE "C" NOT NULL,
	event_type text COLLATE "C",
	batch      boolean NOT NULL,
	statement  text NOT NULL,
	CONSTRAINT projection_handler_key UNIQUE NULLS NOT DISTINCT (projection, event_type)
);
SELECT pg_catalog.pg_extension_config_dump('es.projection_handler', '');

COMMENT ON TABLE es.projection_handler IS
'Statements of projections; read them through the view es.projection_handlers';

CREATE VIEW es.projection_handlers AS
SELECT h.projection,
       h.event_type,
       CASE WHEN h.batch THEN 'batch' ELSE 'statement' END AS kind,
       h.statement
  FROM es.projection_handler AS h;

COMMENT ON VIEW es.projection_handlers IS
'Statements that keep the statement and batch projections, by event type; null: every other type';

COMMENT ON TABLE es.projection IS
'Registry of projections; read it through the view es.projections';

CREATE VIEW es.projections AS
SELECT p.name,
       CASE WHEN p.apply IS NOT NULL THEN 'fold'
            WHEN EXISTS (SELECT FROM es.projection_handler AS h
                          WHERE h.projection = p.name AND h.batch) THEN 'batch'
            ELSE 'statement'
       END AS kind,
       p.target,
       p.mode,
       p.on_error,
       CASE WHEN NOT p.enabled THEN 'disabled'
            WHEN c.stopped THEN 'stopped'
            ELSE 'running'
       END AS status,
       p.enabled,
       c.checkpoint,
       CASE WHEN c.checkpoint IS NULL THEN 0
            WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN greatest((SELECT es.high_water_mark()) - c.checkpoint, 0)
       END AS lag,
       c.error AS last_error,
       c.error_position AS last_error_position,
       (SELECT count(*) FROM es.projection_parked AS e WHERE e.projection = p.name) AS parked,
       (SELECT t.relowner::pg_catalog.regrole FROM pg_catalog.pg_class AS t WHERE t.oid = p.target) AS owner,
       p.apply,
       p.key,
       p.aggregate_types,
       p.event_types,
       p.protect,
       p.settings
  FROM es.projection AS p
  LEFT JOIN es.projection_checkpoint AS c ON c.projection = p.name;

COMMENT ON VIEW es.projections IS
'Projections. Those that are async or disabled have a checkpoint: their rows reflect the events up to it; lag is in positions';

CREATE FUNCTION es.create_projection(name text, target regclass, apply text DEFAULT NULL,
	key text DEFAULT NULL, aggregate_types text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
	mode text DEFAULT 'inline', on_error text DEFAULT 'stop', protect boolean DEFAULT true,
	populate boolean DEFAULT true)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_create_projection';

COMMENT ON FUNCTION es.create_projection(text, regclass, text, text, text[], text[], text, text, boolean, boolean) IS
'Makes a table a state table: its rows are folded from the events by the apply function. Existing rows are replaced by the fold of the existing events, unless populate is false. Mode inline: writers maintain it in their transactions; async: es.run_projections() does, and on an error it stops or parks the event (on_error). Waits for, and holds off, all writers of es.events until the transaction ends, unless the mode is async';

CREATE FUNCTION es.set_handler(projection text, event_type text, statement text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_set_handler';

COMMENT ON FUNCTION es.set_handler(text, text, text) IS
'Sets the statement that a projection runs for each event of a type (null: every other type); a null statement removes it. In it, event.column is the event''s column and event the whole row';

CREATE FUNCTION es.set_batch_handler(projection text, statement text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_set_batch_handler';

COMMENT ON FUNCTION es.set_batch_handler(text, text) IS
'Sets the statement that a projection runs once for many events, which it reads from the relation events; null removes it';

CREATE FUNCTION es.alter_projection(name text, mode text DEFAULT NULL, on_error text DEFAULT NULL,
	enabled boolean DEFAULT NULL, protect boolean DEFAULT NULL)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_alter_projection';

COMMENT ON FUNCTION es.alter_projection(text, text, text, boolean, boolean) IS
'Changes the mode (inline, async) and what an async projection does on an error (stop, park); disables a projection, so that appends neither maintain its table nor fail with it, or enables it again. One that becomes inline or enabled first catches up with the log, and in the end waits for, and holds off, all writers. Protects the table or lets direct writes through. Null leaves a property as it is';

CREATE FUNCTION es.drop_projection(name text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_drop_projection';

COMMENT ON FUNCTION es.drop_projection(text) IS
'Removes a projection; the state table stays as it is and becomes an ordinary table';

CREATE FUNCTION es.refuse_direct_write()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'es_refuse_direct_write';

COMMENT ON FUNCTION es.refuse_direct_write() IS
'Trigger of protected state tables: refuses every statement that would change them';

CREATE FUNCTION es.apply_inline()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'es_apply_inline';

COMMENT ON FUNCTION es.apply_inline() IS
'Trigger of es.events: applies the events of a statement to the inline projections';

CREATE TRIGGER events_apply_inline
	AFTER INSERT ON es.events
	REFERENCING NEW TABLE AS events
	FOR EACH STATEMENT EXECUTE FUNCTION es.apply_inline();

CREATE FUNCTION es.forget_dropped()
RETURNS event_trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'es_forget_dropped';

COMMENT ON FUNCTION es.forget_dropped() IS
'Event trigger: removes the projections whose state table or apply function has been dropped';

CREATE EVENT TRIGGER es_forget_dropped ON sql_drop
	EXECUTE FUNCTION es.forget_dropped();
ALTER EVENT TRIGGER es_forget_dropped ENABLE ALWAYS;

CREATE FUNCTION es.follow_ddl()
RETURNS event_trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'es_follow_ddl';

COMMENT ON FUNCTION es.follow_ddl() IS
'Event trigger: keeps projections with their apply functions when those are renamed or restored';

CREATE EVENT TRIGGER es_follow_ddl ON ddl_command_end
	WHEN TAG IN ('ALTER DOMAIN', 'ALTER FUNCTION', 'ALTER ROUTINE', 'ALTER SCHEMA', 'ALTER SEQUENCE',
	             'ALTER TABLE', 'ALTER TYPE', 'ALTER VIEW', 'CREATE TRIGGER')
	EXECUTE FUNCTION es.follow_ddl();

CREATE FUNCTION es.follow_partitions()
RETURNS event_trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'es_follow_partitions';

COMMENT ON FUNCTION es.follow_partitions() IS
'Event trigger: protects new partitions of state tables from direct writes, and no longer those that are detached';

CREATE EVENT TRIGGER es_follow_partitions ON ddl_command_end
	WHEN TAG IN ('ALTER TABLE', 'CREATE FOREIGN TABLE', 'CREATE TABLE')
	EXECUTE FUNCTION es.follow_partitions();
ALTER EVENT TRIGGER es_follow_partitions ENABLE ALWAYS;

CREATE FUNCTION es.registry_changed()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'es_registry_changed';

COMMENT ON FUNCTION es.registry_changed() IS
'Trigger of es.projection: tells all sessions that a row was changed by SQL, as a restore does';

CREATE TRIGGER projection_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON es.projection
	FOR EACH STATEMENT EXECUTE FUNCTION es.registry_changed();

CREATE TRIGGER projection_handler_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON es.projection_handler
	FOR EACH STATEMENT EXECUTE FUNCTION es.registry_changed();

-- Projections that run behind the writers.

CREATE FUNCTION es.run_projections(name text DEFAULT NULL, max_events bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_run_projections';

COMMENT ON FUNCTION es.run_projections(text, bigint) IS
'Brings an async projection up to date with the settled events, or all of the current user''s (null), the furthest behind first; at most max_events. Returns how many were applied. One that an error has stopped goes on if it is named. Waits for another session that does the same';

CREATE FUNCTION es.wait_for(projection text, at_position bigint, timeout interval DEFAULT '5s')
RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_wait_for';

COMMENT ON FUNCTION es.wait_for(text, bigint, interval) IS
'Waits until a projection''s rows reflect the log up to a position: true, or false when the time is over (null: no limit). Read the rows in a later statement';

CREATE FUNCTION es.retry_parked(subscription text, at_position bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_retry_parked';

COMMENT ON FUNCTION es.retry_parked(text, bigint) IS
'Applies an event that a projection has put aside, or all of them in order (null), to its rows as they are now; returns how many there were';

CREATE FUNCTION es.discard_parked(subscription text, at_position bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_discard_parked';

COMMENT ON FUNCTION es.discard_parked(text, bigint) IS
'Forgets an event that a projection has put aside, or all of them (null); returns how many there were';

CREATE VIEW es.parked_events AS
SELECT p.projection,
       p.position,
       e.event_type,
       e.aggregate_type,
       e.aggregate_id,
       e.version,
       e.event_id,
       p.reason,
       p.parked_at
  FROM es.projection_parked AS p
  JOIN es.events AS e ON e.position = p.position;

COMMENT ON VIEW es.parked_events IS
'Events that async projections have put aside because they failed on them, with the reason';

-- Building state tables anew.

CREATE FUNCTION es.replay(projection text, apply text DEFAULT NULL,
	parallel_workers integer DEFAULT NULL, in_place boolean DEFAULT false)
RETURNS TABLE (projection text, events bigint, rows bigint, up_to_position bigint, elapsed interval)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay';

COMMENT ON FUNCTION es.replay(text, text, integer, boolean) IS
'Replaces the rows of a projection''s state table by the fold of all events, with a new apply function if one is given: function and rows change in the same instant. Readers and writers go on while the log is folded, and wait when the new rows are put in place, until the transaction ends';

CREATE FUNCTION es.is_replaying()
RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'es_is_replaying';

COMMENT ON FUNCTION es.is_replaying() IS
'Says whether this session is replaying, in what a replay calls';

CREATE FUNCTION es.replays(OUT pid integer, OUT target oid, OUT phase text, OUT events_done bigint,
	OUT events_total bigint, OUT started_at timestamptz)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'es_replays';

COMMENT ON FUNCTION es.replays() IS
'Replays that are going on in this database; read them through the view es.replay_progress';

CREATE VIEW es.replay_progress AS
SELECT coalesce(p.name, r.target::pg_catalog.regclass::text) AS projection,
       r.pid,
       r.phase,
       r.events_done,
       greatest(r.events_total, r.events_done) AS events_total,
       s.events_per_second,
       CASE WHEN s.events_per_second > 0
            THEN pg_catalog.make_interval(secs => greatest(r.events_total - r.events_done, 0) / s.events_per_second)
       END AS remaining,
       r.started_at
  FROM es.replays() AS r
  LEFT JOIN es.projection AS p ON p.target::oid = r.target
  CROSS JOIN LATERAL (SELECT pg_catalog.round(r.events_done /
                             greatest(extract(epoch FROM pg_catalog.clock_timestamp() - r.started_at), 0.001))
                             AS events_per_second) AS s;

COMMENT ON VIEW es.replay_progress IS
'Replays that are going on in this database: what each is doing, how many events it has read and about how many there are, and the time left; the total grows when the log must be read again';

CREATE FUNCTION es.replay_into(projection text, target regclass, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL, apply text DEFAULT NULL, exclude_event_ids uuid[] DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay_into';

COMMENT ON FUNCTION es.replay_into(text, regclass, bigint, timestamptz, text, uuid[]) IS
'Fills another, empty table of the same shape with what the events give: those at or below a position, those recorded at or before a time, those but for given ones; with another apply function if one is given. Returns how many rows were inserted. Writers of the log and of the state table go on';

CREATE FUNCTION es.create_environment(schema_name text, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL, projections text[] DEFAULT NULL)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_create_environment';

COMMENT ON FUNCTION es.create_environment(text, bigint, timestamptz, text[]) IS
'Creates a schema with a table like each state table (of the projections named only), filled with what the events up to one moment give: a position, a time, or now. The tables are the caller''s, with the indexes, constraints and comments of the state tables, and no projection keeps them';

CREATE FUNCTION es.verify_projection(projection text, apply text DEFAULT NULL)
RETURNS TABLE (key text, actual jsonb, expected jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_verify_projection';

COMMENT ON FUNCTION es.verify_projection(text, text) IS
'Compares a projection''s state table with the fold of the events, and returns the rows that differ: as they are, and as they should be, without generated columns; null is no row. With another apply function: what it would change. Writers go on';

CREATE FUNCTION es.replay_keys(projection text, keys text[])
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay_keys';

COMMENT ON FUNCTION es.replay_keys(text, text[]) IS
'Makes the rows of some keys of a state table what the log gives, in place, and returns how many have changed. A key is the text of its column, or of the row of its columns, as es.verify_projection() shows it. Writers of these rows wait until the transaction ends, others go on';

-- One aggregate, now or as it was.

CREATE FUNCTION es.load(state anyelement, aggregate_type text, aggregate_id text,
	apply text DEFAULT NULL, as_of_version bigint DEFAULT NULL, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL)
RETURNS anyelement LANGUAGE c STABLE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'es_load';

COMMENT ON FUNCTION es.load(anyelement, text, text, text, bigint, bigint, timestamptz) IS
'Folds the events of one aggregate, all or those up to a version, a position or a time of recording, beginning with state. Null: there is no state. Without apply, the function of the projection whose state table has this row type';
