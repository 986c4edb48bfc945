-- The registry of projections.  Its rows are changed by the functions below only.

CREATE TABLE es.projection (
	name            text COLLATE "C" NOT NULL,
	target          regclass NOT NULL,
	apply           text,
	key             text,
	aggregate_types text[],
	event_types     text[],
	mode            text     NOT NULL,
	protect         boolean  NOT NULL,
	settings        text[]   NOT NULL,
	enabled         boolean  NOT NULL,
	checkpoint      bigint,
	CONSTRAINT projection_pkey PRIMARY KEY (name),
	CONSTRAINT projection_target_key UNIQUE (target)
);
SELECT pg_catalog.pg_extension_config_dump('es.projection', '');

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
       CASE WHEN p.enabled THEN 'running' ELSE 'disabled' END AS status,
       p.enabled,
       p.checkpoint,
       CASE WHEN p.enabled THEN 0 ELSE es.high_water_mark() - p.checkpoint END AS lag,
       NULL::text AS last_error,
       NULL::bigint AS last_error_position,
       (SELECT c.relowner::pg_catalog.regrole FROM pg_catalog.pg_class AS c WHERE c.oid = p.target) AS owner,
       p.apply,
       p.key,
       p.aggregate_types,
       p.event_types,
       p.protect,
       p.settings
  FROM es.projection p;

COMMENT ON VIEW es.projections IS
'Projections; a checkpoint is that of a disabled one, its lag is in positions';

CREATE FUNCTION es.create_projection(name text, target regclass, apply text DEFAULT NULL,
	key text DEFAULT NULL, aggregate_types text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
	mode text DEFAULT 'inline', on_error text DEFAULT 'stop', protect boolean DEFAULT true,
	populate boolean DEFAULT true)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_create_projection';

COMMENT ON FUNCTION es.create_projection(text, regclass, text, text, text[], text[], text, text, boolean, boolean) IS
'Makes a table a state table: its rows are folded from the events by the apply function. Existing rows are replaced by the fold of the existing events, unless populate is false. Waits for, and holds off, all writers of es.events until the transaction ends';

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
'Disables a projection, so that appends neither maintain its table nor fail with it; enables it again after it has caught up with the log, which waits for, and holds off, all writers; protects the table or lets direct writes through. Null leaves a property as it is';

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
