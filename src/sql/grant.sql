-- Who may do what.

-- The aggregate types that writers are limited to, see writer.c.

CREATE TABLE es.writer (
	role            es.role NOT NULL,
	aggregate_types text[] NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('es.writer', '');

COMMENT ON TABLE es.writer IS
'Aggregate types that roles may append, if not all; changed by es.grant_writer() and es.revoke_writer()';

CREATE FUNCTION es.writer_changed()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'es_writer_changed';

COMMENT ON FUNCTION es.writer_changed() IS
'Trigger of es.writer: tells all sessions that what roles may append has changed';

CREATE TRIGGER writer_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON es.writer
	FOR EACH STATEMENT EXECUTE FUNCTION es.writer_changed();

ALTER TABLE es.writer ENABLE ALWAYS TRIGGER writer_changed;

CREATE FUNCTION es.grant_reader(role regrole)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_grant_reader';

COMMENT ON FUNCTION es.grant_reader(regrole) IS
'Lets a role read the log and the views, and call all functions but those that append or administer; what they need beyond that, such as owning a table, they ask for themselves';

CREATE FUNCTION es.grant_writer(role regrole, aggregate_types text[] DEFAULT NULL)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_grant_writer';

COMMENT ON FUNCTION es.grant_writer(regrole, text[]) IS
'Lets a role append events of these aggregate types, beside those that it may append already; null: of every type';

CREATE FUNCTION es.revoke_reader(role regrole)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_revoke_reader';

COMMENT ON FUNCTION es.revoke_reader(regrole) IS
'Takes back what es.grant_reader() gives; what the role needs as a writer stays';

CREATE FUNCTION es.revoke_writer(role regrole, aggregate_types text[] DEFAULT NULL)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_revoke_writer';

COMMENT ON FUNCTION es.revoke_writer(regrole, text[]) IS
'Takes back what es.grant_writer() gives, or only these of the types that it was given; what the role needs as a reader stays';

-- This is the last module: what the extension has made is for nobody but its
-- owner until it is granted.

REVOKE ALL ON SCHEMA es FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA es FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA es FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA es FROM PUBLIC;
REVOKE ALL ON TYPE es.role FROM PUBLIC;
