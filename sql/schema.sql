-- The schema must be the extension's own.

\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS es;
RESET client_min_messages;
CREATE ROLE regress_es_nobody;
CREATE SCHEMA es AUTHORIZATION regress_es_nobody;
CREATE EXTENSION pg_eventsourcing;
ALTER SCHEMA es OWNER TO CURRENT_USER;
CREATE FUNCTION es.append(text, text, varchar) RETURNS bigint LANGUAGE sql RETURN 1;
CREATE EXTENSION pg_eventsourcing;
DROP FUNCTION es.append;
CREATE TYPE es.events AS (id int);
CREATE EXTENSION pg_eventsourcing;
DROP TYPE es.events;
CREATE FUNCTION pg_temp.eq(regclass, oid) RETURNS boolean LANGUAGE sql RETURN true;
CREATE OPERATOR es.= (LEFTARG = regclass, RIGHTARG = oid, FUNCTION = pg_temp.eq);
CREATE EXTENSION pg_eventsourcing;
DROP OPERATOR es.= (regclass, oid);
GRANT CREATE ON SCHEMA es TO regress_es_nobody;
CREATE EXTENSION pg_eventsourcing;
REVOKE CREATE ON SCHEMA es FROM regress_es_nobody;
GRANT ALL ON SCHEMA es TO PUBLIC;
CREATE EXTENSION pg_eventsourcing;
REVOKE CREATE ON SCHEMA es FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
CREATE EXTENSION pg_eventsourcing;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;
SELECT has_schema_privilege('regress_es_nobody', 'es', 'USAGE'), has_table_privilege('regress_es_nobody', 'es.events', 'SELECT');
-- One that a dump has made.
DROP EXTENSION pg_eventsourcing;
CREATE EXTENSION pg_eventsourcing SCHEMA es;
DROP EXTENSION pg_eventsourcing;
DROP SCHEMA es;
DROP ROLE regress_es_nobody;
