-- Projections that are refused, and what a failing one says.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\pset format unaligned
\pset fieldsep ' -> '
\pset tuples_only on

CREATE TABLE good (id text PRIMARY KEY, n int);
CREATE FUNCTION good_apply(state good, event es.events) RETURNS good LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::good;
CREATE TABLE pair (a text, b int, n int, PRIMARY KEY (a, b));
CREATE FUNCTION pair_apply(state pair, event es.events) RETURNS pair LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, event.schema_version, coalesce(state.n, 0) + 1)::pair;
CREATE TABLE trial (n serial, arguments text);
CREATE FUNCTION pg_temp.try_all() RETURNS TABLE (arguments text, result text) LANGUAGE sql AS $$
	SELECT arguments, pg_temp.try('SELECT es.create_projection(' || arguments || ')') FROM trial ORDER BY n
$$;

-- The table.
CREATE TABLE no_key (id text);
CREATE TABLE unique_key (id text UNIQUE NOT NULL);
CREATE TABLE late_key (id text PRIMARY KEY DEFERRABLE);
CREATE TABLE partitioned (id text PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE partition PARTITION OF partitioned DEFAULT;
CREATE UNLOGGED TABLE unlogged (id text PRIMARY KEY);
CREATE TEMP TABLE temporary (id text PRIMARY KEY);
CREATE TABLE point_key (id jsonb, p int PRIMARY KEY, q point);
CREATE VIEW good_view AS TABLE good;
CREATE MATERIALIZED VIEW good_matview AS TABLE good;
CREATE SEQUENCE good_sequence;
INSERT INTO trial (arguments) SELECT format('''x'', %L, %L', t, t || '_apply')
FROM unnest('{no_key,unique_key,late_key,partition,unlogged,temporary,good_view,good_matview,good_sequence,es.events,es.projection,es.projections,pg_class}'::text[]) WITH ORDINALITY AS u (t, n)
ORDER BY n;
DO $$
DECLARE
	t text;
BEGIN
	FOREACH t IN ARRAY '{no_key,unique_key,late_key,partition,unlogged,good_view,good_matview}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION %s_apply(state %1$s, event es.events) RETURNS %1$s LANGUAGE sql IMMUTABLE RETURN state', t);
	END LOOP;
END $$;
INSERT INTO trial (arguments) VALUES
	('''x'', ''missing'', ''good_apply'''),
	('''x'', 0::oid::regclass, ''good_apply'''),
	('''x'', NULL, ''good_apply''');
SELECT * FROM pg_temp.try_all();
SELECT left(pg_temp.try('SELECT es.create_projection(''x'', ''good_pkey'', ''good_apply'')'), 6);
SELECT pg_temp.try('SELECT es.create_projection(''x'', 4294967295::oid::regclass, ''good_apply'')');
TRUNCATE trial;

-- The apply function.
CREATE FUNCTION volatile_apply(state good, event es.events) RETURNS good LANGUAGE sql VOLATILE RETURN state;
CREATE FUNCTION stable_apply(state good, event es.events) RETURNS good LANGUAGE sql STABLE RETURN state;
CREATE FUNCTION strict_apply(state good, event es.events) RETURNS good LANGUAGE sql IMMUTABLE STRICT RETURN state;
CREATE FUNCTION text_apply(state good, event es.events) RETURNS text LANGUAGE sql IMMUTABLE RETURN state.id;
CREATE FUNCTION set_apply(state good, event es.events) RETURNS SETOF good LANGUAGE sql IMMUTABLE AS 'SELECT state';
CREATE FUNCTION record_apply(state good, event es.events) RETURNS record LANGUAGE sql IMMUTABLE AS 'SELECT 1, 2';
CREATE FUNCTION one_apply(state good) RETURNS good LANGUAGE sql IMMUTABLE RETURN state;
CREATE FUNCTION three_apply(state good, event es.events, n int DEFAULT 1) RETURNS good LANGUAGE sql IMMUTABLE RETURN state;
CREATE FUNCTION swapped_apply(event es.events, state good) RETURNS good LANGUAGE sql IMMUTABLE RETURN state;
CREATE FUNCTION variadic_apply(state good, VARIADIC event es.events[]) RETURNS good LANGUAGE sql IMMUTABLE RETURN state;
CREATE FUNCTION any_apply(state anyelement, event es.events) RETURNS anyelement LANGUAGE sql IMMUTABLE AS 'SELECT state';
CREATE PROCEDURE procedure_apply(state good, event es.events) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION out_apply(INOUT state good, event es.events) LANGUAGE sql IMMUTABLE AS 'SELECT state';
INSERT INTO trial (arguments) SELECT format('''x'', ''good'', %L', f)
FROM unnest('{volatile_apply,stable_apply,strict_apply,text_apply,set_apply,record_apply,one_apply,three_apply,swapped_apply,variadic_apply,any_apply,procedure_apply,pair_apply,missing,missing.apply,a.b.c.d,good_apply(good),"good_apply(pair, es.events)","pair_apply(pair, es.events)","good_apply)","","  ",.,"good apply","\"good_apply"}'::text[])
	WITH ORDINALITY AS u (f, n) ORDER BY n;
SELECT left(pg_temp.try('SELECT es.create_projection(''x'', ''good'', ''good_apply('')'), 6);
SELECT * FROM pg_temp.try_all();
SELECT left(pg_temp.try('SELECT es.create_projection(''x'', ''good'', ' || quote_literal(repeat('x', 100000)) || ')'), 100);
TRUNCATE trial;
BEGIN;
SELECT es.create_projection('out', 'good', 'out_apply');
ROLLBACK;

-- The key.
INSERT INTO trial (arguments) SELECT format('''x'', ''good'', ''good_apply'', key => %L', k)
FROM unnest(ARRAY['', ' ', 'aggregate_id, version', 'version + ', 'missing', 'state.id', 'event', 'event.*', '*', 'position', 'event.position::text',
	'md5(event::text)', 'ctid', 'event.xmin', 'random()', 'clock_timestamp()', '(SELECT 1)', 'EXISTS (SELECT)', 'count(*)', 'row_number() OVER ()',
	'generate_series(1, 2)', '$1', ':x', 'aggregate_id FROM es.events', 'aggregate_id; DROP TABLE good', 'aggregate_id) --', 'DISTINCT aggregate_id',
	'aggregate_id LIMIT 1', 'aggregate_id UNION SELECT ''x''', '''unfinished', 'aggregate_id /*', 'DEFAULT', 'NULL, NULL', 'pg_sleep(1)', 'es.append(''a'', ''1'', ''X'')',
	'aggregate_id INTO x', 'occurred_at = ']) WITH ORDINALITY AS u (k, n) ORDER BY n;
INSERT INTO trial (arguments) SELECT format('''x'', ''pair'', ''pair_apply'', key => %L', k)
FROM unnest(ARRAY[NULL, 'aggregate_id', 'schema_version, aggregate_id', 'aggregate_id, data', 'aggregate_id, ''x''', 'aggregate_id, schema_version, version',
	'aggregate_id, occurred_at']) WITH ORDINALITY AS u (k, n) ORDER BY n;
SELECT * FROM pg_temp.try_all();
SELECT count(*) FROM es.projections;
SELECT left(pg_temp.try('SELECT es.create_projection(''x'', ''good'', ''good_apply'', key => ' || quote_literal(repeat('(', 100000) || '1' || repeat(')', 100000)) || ')'), 60);
TRUNCATE trial;
-- A type that text cannot be cast to.
CREATE TABLE row_key (id good PRIMARY KEY);
CREATE FUNCTION row_key_apply(state row_key, event es.events) RETURNS row_key LANGUAGE sql IMMUTABLE RETURN state;
CREATE TABLE array_key (id int[] PRIMARY KEY);
CREATE FUNCTION array_key_apply(state array_key, event es.events) RETURNS array_key LANGUAGE sql IMMUTABLE RETURN state;
INSERT INTO trial (arguments) VALUES ('''row'', ''row_key'', ''row_key_apply'''), ('''array'', ''array_key'', ''array_key_apply'', key => ''aggregate_id''');
SELECT * FROM pg_temp.try_all();
TRUNCATE trial;
SELECT pg_temp.try($$SELECT es.append('p', '1', 'X')$$) LIKE 'SE008: projection "row" failed: malformed record literal: "1" |%';
SELECT es.drop_projection('row');

-- The other arguments.
INSERT INTO trial (arguments) VALUES
	('NULL, ''good'', ''good_apply'''),
	(''''', ''good'', ''good_apply'''),
	('repeat(''x'', 1025), ''good'', ''good_apply'''),
	('''x'', ''good'', ''good_apply'', aggregate_types => ''{}'''),
	('''x'', ''good'', ''good_apply'', aggregate_types => ''{a,NULL}'''),
	('''x'', ''good'', ''good_apply'', aggregate_types => ''{{a},{b}}'''),
	('''x'', ''good'', ''good_apply'', event_types => ''{}'''),
	('''x'', ''good'', ''good_apply'', event_types => ''{NULL}'''),
	('''x'', ''good'', ''good_apply'', mode => NULL'),
	('''x'', ''good'', ''good_apply'', mode => ''sometimes'''),
	('''x'', ''good'', ''good_apply'', on_error => NULL'),
	('''x'', ''good'', ''good_apply'', on_error => ''resume'''),
	('''x'', ''good'', ''good_apply'', protect => NULL'),
	('''x'', ''good'', ''good_apply'', populate => NULL');
SELECT * FROM pg_temp.try_all();
TRUNCATE trial;
SELECT pg_temp.try('SELECT es.drop_projection(NULL)');
SELECT pg_temp.try('SELECT es.drop_projection('''')');
SELECT pg_temp.try('SELECT es.drop_projection(''missing'')');
SELECT left(pg_temp.try('SELECT es.drop_projection(repeat(''x'', 100000))'), 60);
BEGIN READ ONLY;
SELECT pg_temp.try('SELECT es.create_projection(''x'', ''good'', ''good_apply'')');
SELECT pg_temp.try('SELECT es.drop_projection(''missing'')');
ROLLBACK;

-- Nothing is left of all this.
SELECT count(*) FROM es.projections;
SELECT count(*) FROM pg_trigger WHERE tgname = 'es_protect';
SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%';
INSERT INTO good VALUES ('mine', 1);
SELECT es.append('a', '1', 'X');
TABLE good;

-- A name and a table are used once.
SELECT pg_temp.try('SELECT es.create_projection(''x'', ''good'', ''good_apply'')');
SELECT pg_temp.try('SELECT es.create_projection(''x'', ''pair'', ''pair_apply'', key => ''aggregate_id, schema_version'')');
SELECT pg_temp.try('SELECT es.create_projection(''y'', ''good'', ''good_apply'')');
SELECT name FROM es.projections;
-- An unknown apply function for a type of the right name elsewhere.
CREATE SCHEMA other;
CREATE TABLE other.good (id text PRIMARY KEY);
SELECT pg_temp.try('SELECT es.create_projection(''y'', ''other.good'', ''good_apply'')');
SELECT pg_temp.try('SELECT es.create_projection(''y'', ''other.good'', ''good_apply(good, es.events)'')');
SELECT es.drop_projection('x');

-- A projection that fails, by populating and by an append: who, which event, why.
CREATE FUNCTION picky_apply(state good, event es.events) RETURNS good LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Bad' THEN
		RAISE EXCEPTION 'not like this' USING ERRCODE = 'AB123', DETAIL = 'The detail.', HINT = 'The hint.';
	ELSIF event.event_type = 'Conflict' THEN
		RAISE EXCEPTION 'retry' USING ERRCODE = 'serialization_failure';
	ELSIF event.event_type = 'No key' THEN
		RETURN ROW(NULL::text, 1);
	ELSIF event.event_type = 'Other key' THEN
		RETURN ROW('other'::text, 1);
	END IF;
	RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 100 / (state.n - 2));
END $$;
SELECT es.create_projection('picky', 'good', 'picky_apply', populate => false, event_types => '{X,Bad,Conflict,No key,Other key}');
\set VERBOSITY default
CREATE FUNCTION pg_temp.fail(statement text) RETURNS TABLE (what text, value text) LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; detail text; hint text; context text;
BEGIN
	EXECUTE statement;
	RETURN QUERY SELECT 'ok', '';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
	RETURN QUERY VALUES ('code', code), ('message', message),
		('detail', regexp_replace(regexp_replace(detail, 'position \d+', 'position N'), '[0-9a-f-]{36}', 'ID')), ('hint', hint),
		('context', substring(context FROM '^[^\n]*'));
END $$;
SELECT * FROM pg_temp.fail($$SELECT es.append('p', '1', 'Bad')$$);
SELECT * FROM pg_temp.fail($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('p', '1', 'X'), ('p', '2', 'Bad'), ('p', '3', 'X')$$);
SELECT * FROM pg_temp.fail($$SELECT es.append('p', '1', 'Conflict')$$);
SELECT * FROM pg_temp.fail($$SELECT es.append('p', '1', 'No key')$$);
SELECT * FROM pg_temp.fail($$SELECT es.append('p', '1', 'Other key')$$);
SELECT * FROM pg_temp.fail($$SELECT es.append_batch('[{"aggregate_type": "p", "aggregate_id": "1", "event_type": "X"}, {"aggregate_type": "p", "aggregate_id": "2", "event_type": "Bad"}]')$$);
SELECT count(*) FROM es.events WHERE aggregate_type = 'p';
SELECT es.drop_projection('picky');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('p', '1', 'Bad');
SELECT * FROM pg_temp.fail($$SELECT es.create_projection('picky', 'good', 'picky_apply')$$);
SELECT count(*) FROM es.projections;
-- The key fails: on an event that is not in the log yet.
SELECT es.create_projection('strict', 'pair', 'pair_apply', key => $$aggregate_id, (data->>'n')::int$$, populate => false);
SELECT * FROM pg_temp.fail($$SELECT es.append('p', '1', 'X', '{"n": "one"}')$$);
SELECT * FROM pg_temp.fail($$SELECT es.append_batch('[{"aggregate_type": "p", "aggregate_id": "1", "event_type": "X", "data": {"n": "one"}}]')$$);
SELECT * FROM pg_temp.fail($$SELECT es.append_events('p', '1', '[{"event_type": "X", "data": {"n": 1}}, {"event_type": "X", "data": {"n": "two"}}]')$$);
SELECT * FROM pg_temp.fail($$SELECT es.append('p', '1', 'X', '{"n": 2}')$$);
SELECT count(*) FROM es.events WHERE event_type = 'X' AND aggregate_type = 'p';
-- Triggers that are used for something else.
CREATE TABLE misused (id int);
CREATE TRIGGER t BEFORE INSERT ON misused FOR EACH ROW EXECUTE FUNCTION es.refuse_direct_write();
CREATE TRIGGER u AFTER DELETE ON misused FOR EACH STATEMENT EXECUTE FUNCTION es.apply_inline();
SELECT pg_temp.try('INSERT INTO misused VALUES (1)');
SELECT pg_temp.try('DELETE FROM misused');
SELECT pg_temp.try('SELECT es.apply_inline()');

DROP TABLE good, pair, no_key, unique_key, late_key, partitioned, unlogged, point_key, row_key, array_key, trial, misused CASCADE;
DROP SCHEMA other CASCADE;
DROP SEQUENCE good_sequence;
DROP FUNCTION any_apply;
DROP EXTENSION pg_eventsourcing;
