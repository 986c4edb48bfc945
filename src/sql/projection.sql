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
            WHEN NOT pg_catalog.pg_is_in_recovery() OR
                 (SELECT m.is_called FROM es.published_mark_seq AS m)
            THEN greatest((SELECT m - greatest(c.checkpoint, m >> 48 << 48)
                             FROM es.high_water_mark() AS m), 0)
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

-- After pg_upgrade, what a projection uses must be known before a command touches
-- it; and a restore locks the registry before it creates a trigger.

CREATE EVENT TRIGGER es_before_ddl ON ddl_command_start
	WHEN TAG IN ('ALTER DOMAIN', 'ALTER FUNCTION', 'ALTER ROUTINE', 'ALTER SCHEMA', 'ALTER SEQUENCE',
	             'ALTER TABLE', 'ALTER TYPE', 'ALTER VIEW', 'CREATE TRIGGER', 'DROP DOMAIN', 'DROP EXTENSION', 'DROP FUNCTION',
	             'DROP OWNED', 'DROP ROUTINE', 'DROP SCHEMA', 'DROP SEQUENCE', 'DROP TABLE', 'DROP TYPE', 'DROP VIEW')
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
