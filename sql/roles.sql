-- Who may do what: readers, writers, everybody else.

CREATE EXTENSION pg_eventsourcing;

-- Runs a statement as a role and tells how it fails.
CREATE FUNCTION pg_temp.try(role name, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; detail text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE statement;
	RESET ROLE;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN code || ': ' || message || coalesce(' | ' || nullif(detail, ''), '');
END $$;

CREATE ROLE regress_es_nobody;
CREATE ROLE regress_es_reader;
CREATE ROLE regress_es_writer;
CREATE ROLE regress_es_clerk;
CREATE ROLE regress_es_member;
CREATE ROLE "Regress ""es"" ünïcødé";

-- What the extension is made of.
CREATE VIEW member AS
SELECT d.classid::regclass AS catalog, d.objid
  FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
 WHERE e.extname = 'pg_eventsourcing' AND d.deptype = 'e';
CREATE VIEW accessible AS
SELECT r.rolname AS role, p.proname::text AS object
  FROM pg_roles AS r, member AS m JOIN pg_proc AS p ON m.catalog = 'pg_proc'::regclass AND p.oid = m.objid
 WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE')
UNION ALL
SELECT r.rolname, 'schema es' FROM pg_roles AS r WHERE has_schema_privilege(r.oid, 'es', 'USAGE, CREATE')
UNION ALL
SELECT r.rolname, c.relname || ': ' || privilege
  FROM pg_roles AS r, member AS m JOIN pg_class AS c ON m.catalog = 'pg_class'::regclass AND c.oid = m.objid,
	   unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS privilege
 WHERE c.relkind <> 'S' AND has_table_privilege(r.oid, c.oid, privilege)
UNION ALL
SELECT r.rolname, c.relname || ': ' || privilege || ' of columns'
  FROM pg_roles AS r, member AS m JOIN pg_class AS c ON m.catalog = 'pg_class'::regclass AND c.oid = m.objid,
	   unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS privilege
 WHERE c.relkind <> 'S' AND has_any_column_privilege(r.oid, c.oid, privilege)
   AND NOT has_table_privilege(r.oid, c.oid, privilege)
UNION ALL
SELECT r.rolname, c.relname || ': ' || privilege
  FROM pg_roles AS r, member AS m JOIN pg_class AS c ON m.catalog = 'pg_class'::regclass AND c.oid = m.objid,
	   unnest('{SELECT,USAGE,UPDATE}'::text[]) AS privilege
 WHERE c.relkind = 'S' AND has_sequence_privilege(r.oid, c.oid, privilege)
UNION ALL
SELECT r.rolname, 'type ' || t.typname
  FROM pg_roles AS r, member AS m JOIN pg_type AS t ON m.catalog = 'pg_type'::regclass AND t.oid = m.objid
 WHERE t.typrelid = 0 AND t.typcategory <> 'A' AND has_type_privilege(r.oid, t.oid, 'USAGE');

-- Nobody may do anything, and nothing is security definer.
SELECT object FROM accessible WHERE role = 'regress_es_nobody';
SELECT p.oid::regprocedure FROM member AS m JOIN pg_proc AS p ON m.catalog = 'pg_proc'::regclass AND p.oid = m.objid
 WHERE p.prosecdef;
SELECT statement, pg_temp.try('regress_es_nobody', statement) FROM unnest(ARRAY[
	$$SELECT es.append('account', '1', 'X')$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'X')$$,
	$$SELECT * FROM es.events$$,
	$$SELECT * FROM es.projections$$,
	$$SELECT es.current_version('account', '1')$$,
	$$SELECT es.version()$$,
	$$SELECT es.grant_reader('regress_es_nobody')$$,
	$$SELECT es.set_node_id(1)$$,
	$$SELECT * FROM pg_catalog.nextval('es.events_position_seq')$$]) AS statement;

-- Readers: everything that reads, and whatever asks for further rights itself.
SELECT es.grant_reader('regress_es_reader');
SELECT object FROM accessible WHERE role = 'regress_es_reader' AND object LIKE '%: %' ORDER BY 1;
SELECT p.proname AS not_readers FROM member AS m JOIN pg_proc AS p ON m.catalog = 'pg_proc'::regclass AND p.oid = m.objid
 WHERE NOT has_function_privilege('regress_es_reader', p.oid, 'EXECUTE')
   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) ORDER BY 1;
SELECT es.append('account', '1', 'Opened');
SELECT statement, pg_temp.try('regress_es_reader', statement) FROM unnest(ARRAY[
	$$SELECT * FROM es.read_aggregate('account', '1')$$,
	$$SELECT * FROM es.read_correlation('1')$$,
	$$SELECT * FROM es.aggregates()$$,
	$$SELECT es.current_version('account', '1')$$,
	$$SELECT es.append('account', '1', 'X')$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'X')$$,
	$$UPDATE es.events SET data = '{}'$$,
	$$DELETE FROM es.events$$,
	$$TRUNCATE es.events$$,
	$$CREATE TRIGGER t BEFORE INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()$$,
	$$CREATE TABLE es.mine ()$$,
	$$LOCK TABLE es.events IN SHARE MODE$$,
	$$SELECT nextval('es.events_position_seq')$$,
	$$SELECT * FROM es.projection$$,
	$$SELECT * FROM es.writer$$,
	$$SELECT es.grant_writer('regress_es_reader')$$]) AS statement;
SELECT 'TABLE es.' || quote_ident(c.relname) AS statement, pg_temp.try('regress_es_reader', 'TABLE es.' || quote_ident(c.relname))
  FROM member AS m JOIN pg_class AS c ON m.catalog = 'pg_class'::regclass AND c.oid = m.objid AND c.relkind = 'v'
 ORDER BY 1;
SET ROLE regress_es_reader;
SELECT aggregate_id, version FROM es.read_all();
RESET ROLE;

-- Writers of everything.
SELECT es.grant_writer('regress_es_writer');
SELECT object FROM accessible WHERE role = 'regress_es_writer' ORDER BY object COLLATE "C";
SELECT statement, pg_temp.try('regress_es_writer', statement) FROM unnest(ARRAY[
	$$SELECT es.append('account', '1', 'X', expected_version => 1)$$,
	$$SELECT es.append_events('account', '1', '[{"event_type": "X"}]')$$,
	$$SELECT es.append_batch('[{"event_type": "X", "aggregate_type": "order", "aggregate_id": "1"}]')$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'X')$$,
	$$SELECT es.current_version('account', '1')$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'X') RETURNING version$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, position) VALUES ('account', '1', 'X', 100)$$,
	$$SELECT * FROM es.events$$,
	$$SELECT es.read_all()$$,
	$$UPDATE es.events SET data = '{}'$$,
	$$DELETE FROM es.events$$]) AS statement;

-- Writers of some types, by every way in.
SELECT es.grant_writer('regress_es_clerk', '{invoice,account}');
TABLE es.writer;
SELECT object FROM accessible WHERE role = 'regress_es_clerk' ORDER BY object COLLATE "C";
SELECT statement, pg_temp.try('regress_es_clerk', statement) FROM unnest(ARRAY[
	$$SELECT es.append('account', '1', 'X', '{"n": 1}', event_id => '00000000-0000-0000-0000-000000000001')$$,
	$$SELECT es.append('order', '1', 'X')$$,
	$$SELECT es.append('accounts', '1', 'X')$$,
	$$SELECT es.append('accoun', '1', 'X')$$,
	$$SELECT es.append('Account', '1', 'X')$$,
	$$SELECT es.append_events('account', '1', '[{"event_type": "X"}, {"event_type": "Y"}]', 6)$$,
	$$SELECT es.append_events('order', '1', '[{"event_type": "X"}]')$$,
	$$SELECT es.append_batch('[{"event_type": "X", "aggregate_type": "invoice", "aggregate_id": "1"}, {"event_type": "X", "aggregate_type": "account", "aggregate_id": "1"}]')$$,
	$$SELECT es.append_batch('[{"event_type": "X", "aggregate_type": "invoice", "aggregate_id": "1"}, {"event_type": "X", "aggregate_type": "order", "aggregate_id": "1"}]')$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('invoice', '1', 'X')$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'account', '1', 'X' FROM generate_series(1, 3)$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('invoice', '1', 'X'), ('order', '1', 'X')$$,
	$$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('order', '1', 'X') ON CONFLICT DO NOTHING$$,
	$$MERGE INTO es.events USING (SELECT) AS s ON false WHEN NOT MATCHED THEN INSERT (aggregate_type, aggregate_id, event_type) VALUES ('order', '1', 'X')$$,
	-- a retry, a version; nothing of other aggregates
	$$SELECT es.append('account', '1', 'X', '{"n": 1}', event_id => '00000000-0000-0000-0000-000000000001')$$,
	$$SELECT es.append('account', '1', 'X', '{"n": 2}', event_id => '00000000-0000-0000-0000-000000000001')$$,
	$$SELECT es.append('account', '1', 'X', expected_version => 0)$$,
	$$SELECT es.append('order', '1', 'X', expected_version => 0)$$,
	$$SELECT es.current_version('account', '1')$$,
	$$SELECT es.current_version('order', '1')$$,
	$$SELECT es.current_version('account', NULL)$$,
	$$SELECT es.current_version(NULL, NULL)$$,
	$$SELECT * FROM es.events$$]) AS statement;
SET ROLE regress_es_clerk;
COPY es.events (aggregate_type, aggregate_id, event_type, data) FROM stdin;
account	2	X	{}
\.
COPY es.events (aggregate_type, aggregate_id, event_type, data) FROM stdin;
account	2	X	{}
order	2	X	{}
\.
SELECT es.current_version('account', '2');
-- In a parallel worker too, which has to look up for itself what its role may append.
SELECT count(set_config(name, 'on', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT es.current_version('account', '2') FROM generate_series(1, 2);
SELECT count(set_config(name, 'off', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
RESET ROLE;

-- An event id of others tells nothing about their event.
SELECT es.append('order', 'secret', 'Secret', event_id => '00000000-0000-0000-0000-000000000002');
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('account', '1', 'X', event_id => '00000000-0000-0000-0000-000000000002')$$);
SELECT pg_temp.try('regress_es_writer', $$SELECT es.append('account', '1', 'X', event_id => '00000000-0000-0000-0000-000000000002')$$);

-- Nor of an event that policies hide, to those whom they apply to.
ALTER TABLE es.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON es.events FOR INSERT WITH CHECK (true);
SELECT pg_temp.try('regress_es_writer', $$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, event_id) VALUES ('account', '1', 'X', '00000000-0000-0000-0000-000000000002')$$);
DROP POLICY p ON es.events;
ALTER TABLE es.events DISABLE ROW LEVEL SECURITY;

-- No lock of an aggregate that the caller has no business with.
BEGIN;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append_batch('[{"event_type": "X", "aggregate_type": "order", "aggregate_id": "1"}]')$$);
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
ROLLBACK;

-- More types, fewer types, everything, and back.
CREATE VIEW what AS
SELECT role, aggregate_types, has_table_privilege(role::text, 'es.events', 'INSERT') AS everything FROM es.writer
 WHERE role::text LIKE '%es_clerk';
SELECT es.grant_writer('regress_es_clerk', '{order,account}');
TABLE what;
SELECT es.revoke_writer('regress_es_clerk', '{account,never}');
TABLE what;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('account', '1', 'X')$$), pg_temp.try('regress_es_clerk', $$SELECT es.append('order', '1', 'X')$$);
SELECT es.grant_writer('regress_es_clerk');
TABLE what;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('account', '1', 'X')$$);
SELECT es.grant_writer('regress_es_clerk', '{order}');
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('account', '1', 'X')$$);
SELECT es.revoke_writer('regress_es_clerk', '{order}');
SELECT es.revoke_writer('regress_es_clerk');
SELECT object FROM accessible WHERE role = 'regress_es_clerk';
SELECT es.grant_writer('regress_es_clerk', '{order}');
SELECT es.revoke_writer('regress_es_clerk', '{order}');
SELECT object FROM accessible WHERE role = 'regress_es_clerk';
TABLE what;

-- Reader and writer at once: each can be taken back without the other.
SELECT es.grant_writer('regress_es_clerk', '{order}'), es.grant_reader('regress_es_clerk');
SELECT es.revoke_reader('regress_es_clerk');
SELECT object FROM accessible WHERE role = 'regress_es_clerk' ORDER BY object COLLATE "C";
SELECT es.grant_reader('regress_es_clerk'), es.revoke_writer('regress_es_clerk');
SELECT count(*) FILTER (WHERE role = 'regress_es_clerk') = count(*) FILTER (WHERE role = 'regress_es_reader') AS as_any_reader
  FROM accessible;
SELECT es.revoke_reader('regress_es_clerk'), es.revoke_reader('regress_es_clerk'), es.revoke_writer('regress_es_clerk');
SELECT object FROM accessible WHERE role = 'regress_es_clerk';

-- Membership adds up, as far as it is inherited.
SELECT es.grant_writer('regress_es_clerk', '{order}'), es.grant_writer('"Regress ""es"" ünïcødé"', '{"Ünï cødé","a,b"}');
GRANT regress_es_clerk, "Regress ""es"" ünïcødé" TO regress_es_member;
SELECT type, pg_temp.try('regress_es_member', format('SELECT es.append(%L, ''1'', ''X'')', type)) FROM unnest('{order,"Ünï cødé","a,b",a,account}'::text[]) AS type;
REVOKE regress_es_clerk FROM regress_es_member;
SELECT pg_temp.try('regress_es_member', $$SELECT es.append('order', '1', 'X')$$);
GRANT regress_es_writer TO regress_es_member;
SELECT pg_temp.try('regress_es_member', $$SELECT es.append('order', '1', 'X')$$);
REVOKE regress_es_writer, "Regress ""es"" ünïcødé" FROM regress_es_member;
SELECT pg_temp.try('regress_es_member', $$SELECT es.append('order', '1', 'X')$$);

-- What was known of rights is forgotten with a rollback.
BEGIN;
SELECT es.grant_writer('regress_es_clerk', '{account}');
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('account', '1', 'X')$$);
ROLLBACK;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('account', '1', 'X')$$);
BEGIN;
SAVEPOINT s;
SELECT es.revoke_writer('regress_es_clerk');
SELECT pg_temp.try('regress_es_clerk', $$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('order', '1', 'X')$$);
ROLLBACK TO s;
SELECT pg_temp.try('regress_es_clerk', $$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('order', '1', 'X')$$);
COMMIT;

-- The rights are those of whoever inserts: a function's owner, but not a view's.
CREATE FUNCTION definer(type text) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN es.append(type, '1', 'X');
ALTER FUNCTION definer OWNER TO regress_es_clerk;
CREATE VIEW orders AS SELECT aggregate_type, aggregate_id, event_type FROM es.events;
GRANT INSERT ON orders TO regress_es_nobody;
SELECT type, pg_temp.try('regress_es_nobody', format('SELECT definer(%L)', type)) FROM unnest('{order,account}'::text[]) AS type;
SELECT pg_temp.try('regress_es_nobody', $$INSERT INTO orders VALUES ('order', '1', 'X')$$);

-- A privilege without an entry in es.writer is worth nothing, an entry without the privilege neither.
BEGIN;
DELETE FROM es.writer;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('order', '1', 'X')$$);
SELECT pg_temp.try('regress_es_clerk', $$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('order', '1', 'X')$$);
ROLLBACK;
BEGIN;
REVOKE INSERT ON es.events FROM regress_es_clerk;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('order', '1', 'X')$$);
ROLLBACK;

-- A role that is renamed keeps its rights; one that takes its name gets none.
ALTER ROLE regress_es_clerk RENAME TO regress_es_agent;
CREATE ROLE regress_es_clerk;
SELECT pg_temp.try('regress_es_agent', $$SELECT es.append('order', '1', 'X')$$);
SELECT es.grant_writer('regress_es_clerk', '{parcel}');
SELECT role::text, aggregate_types FROM es.writer ORDER BY 1;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('order', '1', 'X')$$);
-- Two roles swap their names.
ALTER ROLE regress_es_clerk RENAME TO regress_es_other;
ALTER ROLE regress_es_agent RENAME TO regress_es_clerk;
ALTER ROLE regress_es_other RENAME TO regress_es_agent;
SELECT pg_temp.try('regress_es_clerk', $$SELECT es.append('order', '1', 'X')$$), pg_temp.try('regress_es_agent', $$SELECT es.append('order', '1', 'X')$$);
SELECT es.grant_reader('regress_es_agent');
SELECT role::text, aggregate_types FROM es.writer ORDER BY 1;

-- A role that can't be dropped before its rights are taken back; what is left of it is forgotten.
\set VERBOSITY terse
DROP ROLE regress_es_agent;
DROP OWNED BY regress_es_agent;
DROP ROLE regress_es_agent;
CREATE ROLE regress_es_agent;
SELECT role::text FROM es.writer ORDER BY 1;
SELECT es.grant_writer('regress_es_agent', '{letter}');
SELECT role::text, aggregate_types FROM es.writer ORDER BY 1;

-- A writer is not shown a row that he may not read, where a projection fails on it; its owner is.
CREATE TABLE counted (id text PRIMARY KEY, secret text, n integer CHECK (n < 2), UNIQUE (secret));
CREATE FUNCTION counted_apply(state counted, event es.events) RETURNS counted LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.secret, event.data->>'secret'), coalesce(state.n, 0) + 1)::counted;
SELECT es.create_projection('counted', 'counted', 'counted_apply', aggregate_types => '{counted}');
SELECT es.append('counted', '1', 'X', '{"secret": "hidden"}');
CREATE FUNCTION pg_temp.why(role name, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	context text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
	RETURN sqlerrm || ' | ' || split_part(context, E'\n', 1);
END $$;
CREATE VIEW failure AS
SELECT format('SELECT es.append(''counted'', %L, ''X'', ''{"secret": "hidden"}'')', id) AS statement FROM unnest('{1,2}'::text[]) AS id;
SELECT pg_temp.why('regress_es_writer', statement) FROM failure;
GRANT SELECT ON counted TO regress_es_writer;
SELECT pg_temp.why('regress_es_writer', statement) FROM failure;
ALTER TABLE counted ENABLE ROW LEVEL SECURITY;
SELECT pg_temp.why('regress_es_writer', statement) FROM failure;
SELECT pg_temp.why(current_user, statement) FROM failure;
DROP VIEW failure;
DROP TABLE counted CASCADE;

-- Arguments.
SELECT es.grant_reader(NULL);
SELECT es.grant_writer(NULL);
SELECT es.grant_writer('-');
SELECT es.grant_writer('regress_es_missing');
SELECT es.grant_writer('regress_es_agent', '{}');
SELECT es.grant_writer('regress_es_agent', '{{a},{b}}');
SELECT es.grant_writer('regress_es_agent', '{a,NULL}');
SELECT es.grant_writer('regress_es_agent', '{""}');
SELECT es.grant_writer('regress_es_agent', ARRAY[repeat('x', 1025)]);
SELECT es.revoke_writer('regress_es_agent', '{}');
SELECT es.revoke_reader(NULL);
BEGIN READ ONLY;
SELECT es.grant_reader('regress_es_agent');
ROLLBACK;
-- Whoever may call them must own the log as well.
GRANT USAGE ON SCHEMA es TO regress_es_nobody;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_nobody;
SELECT statement, pg_temp.try('regress_es_nobody', statement) FROM unnest(ARRAY[
	$$SELECT es.grant_reader('regress_es_nobody')$$,
	$$SELECT es.grant_writer('regress_es_nobody', '{a}')$$,
	$$SELECT es.revoke_reader('regress_es_reader')$$,
	$$SELECT es.revoke_writer('regress_es_writer')$$,
	$$SELECT es.set_node_id(1)$$,
	$$SELECT es.check_schema()$$]) AS statement;
SELECT pg_temp.try(session_user, 'SELECT es.writer_changed()');

SELECT es.revoke_writer(r), es.revoke_reader(r) FROM unnest('{regress_es_agent,regress_es_clerk,regress_es_reader,regress_es_writer,regress_es_nobody,"\"Regress \"\"es\"\" ünïcødé\""}'::regrole[]) AS r;
SELECT count(*) FROM es.writer;
DROP VIEW member, accessible, what, orders;
DROP FUNCTION definer;
DROP EXTENSION pg_eventsourcing CASCADE;
DROP SCHEMA es;
DROP ROLE regress_es_nobody, regress_es_reader, regress_es_writer, regress_es_clerk, regress_es_agent, regress_es_member, "Regress ""es"" ünïcødé";
