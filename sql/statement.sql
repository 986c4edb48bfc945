-- Projections kept by statements: one per event type, or one for many events.

CREATE EXTENSION pg_eventsourcing;
CREATE SCHEMA statement;
SET search_path = statement;
\set SHOW_CONTEXT never

CREATE TABLE totals (currency text PRIMARY KEY, n integer NOT NULL DEFAULT 0,
                     amount numeric NOT NULL DEFAULT 0 CHECK (amount >= 0));
SELECT es.create_projection('totals', 'totals', aggregate_types => '{till}');
SELECT es.set_handler('totals', 'Paid',
$$INSERT INTO totals AS t VALUES (event.data->>'currency', 1, (event.data->>'amount')::numeric)
ON CONFLICT (currency) DO UPDATE SET n = t.n + 1, amount = t.amount + excluded.amount$$);
SELECT es.set_handler('totals', NULL,
$$UPDATE totals SET amount = amount - (event.data->>'amount')::numeric WHERE currency = event.data->>'currency'$$);
SELECT projection, event_type, kind FROM es.projection_handlers ORDER BY event_type;
SELECT name, kind, target FROM es.projections;

-- one event, several, another type, an aggregate type that is filtered out
SELECT es.append('till', '1', 'Paid', '{"currency": "EUR", "amount": 5}');
SELECT count(*) FROM es.append_events('till', '2',
	'[{"event_type": "Paid", "data": {"currency": "USD", "amount": 1}},
	  {"event_type": "Paid", "data": {"currency": "EUR", "amount": 2}},
	  {"event_type": "Refunded", "data": {"currency": "EUR", "amount": 1}}]');
SELECT es.append('shop', '1', 'Paid', '{"currency": "EUR", "amount": 1000}');
TABLE totals ORDER BY currency;

-- the table is protected against everybody but the statements
UPDATE totals SET n = 0;

-- a failure is the append's
\set VERBOSITY terse
SELECT es.append('till', '1', 'Paid', '{"currency": "EUR", "amount": "x"}');
SELECT es.append('till', '1', 'Refunded', '{"currency": "EUR", "amount": 100}');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
SELECT es.current_version('till', '1');

-- a rolled back savepoint, a prepared statement, DDL on the state table
BEGIN;
SAVEPOINT s;
SELECT es.append('till', '3', 'Paid', '{"currency": "CHF", "amount": 1}');
ROLLBACK TO s;
SELECT es.append('till', '3', 'Paid', '{"currency": "CHF", "amount": 2}');
COMMIT;
PREPARE pay AS INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
	VALUES ('till', $1, 'Paid', '{"currency": "CHF", "amount": 3}');
EXECUTE pay('4');
ALTER TABLE totals ADD COLUMN note text DEFAULT 'new';
EXECUTE pay('4');
TABLE totals ORDER BY currency;

-- replay gives the same rows
CREATE TABLE before AS TABLE totals;
SELECT events, rows FROM es.replay('totals');
(TABLE totals EXCEPT ALL TABLE before) UNION ALL (TABLE before EXCEPT ALL TABLE totals);
UPDATE before SET note = NULL;

-- whatever is wrong with a statement is found when it is set
SELECT es.set_handler('totals', 'Wrong', 'INSERT INTO totals VALUES (event.nothing)');
SELECT es.set_handler('totals', 'Wrong', 'INSERT INTO totals (n) VALUES (event.data)');
SELECT es.set_handler('totals', 'Wrong', 'INSERT INTO nowhere VALUES (event.data)');
SELECT es.set_handler('totals', 'Wrong', 'SELECT 1; SELECT 2');
SELECT es.set_handler('totals', 'Wrong', 'DROP TABLE totals');
SELECT es.set_handler('totals', 'Wrong', 'SELECT 1 INTO TEMP x');
SELECT es.set_handler('totals', 'Wrong', 'SELCT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT es.set_handler('totals', 'Wrong', '');
SELECT es.set_handler('totals', '', 'SELECT 1');
SELECT es.set_handler('totals', 'Wrong', NULL);
SELECT es.set_handler(NULL, 'Wrong', 'SELECT 1');
SELECT es.set_handler('nothing', 'Wrong', 'SELECT 1');
SELECT es.set_batch_handler('totals', 'SELECT 1 FROM events');
SELECT es.create_projection('keyed', 'before', key => 'aggregate_id');
SELECT * FROM es.replay('totals', apply => 'some_function');
SELECT count(*) FROM es.projection_handlers;

-- replaced and removed
SELECT es.set_handler('totals', NULL, 'UPDATE totals SET n = n - 1 WHERE currency = event.data->>''currency''');
SELECT es.append('till', '1', 'Refunded', '{"currency": "EUR", "amount": 1}');
SELECT es.set_handler('totals', NULL, NULL);
SELECT es.append('till', '1', 'Refunded', '{"currency": "EUR", "amount": 1}');
SELECT n, amount FROM totals WHERE currency = 'EUR';

-- the whole event, several tables, a table that is called event, a function
CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, type text, whole jsonb, n integer);
CREATE TABLE other (type text);
CREATE TABLE event_names (aggregate_id text);
INSERT INTO event_names VALUES ('from the table');
CREATE FUNCTION note(e es.events) RETURNS void LANGUAGE sql
	BEGIN ATOMIC INSERT INTO other VALUES ((e).event_type || ' noted'); END;
SELECT es.create_projection('log', 'log', event_types => '{A,B,C,D}');
SELECT es.set_handler('log', 'A', 'INSERT INTO log (type, whole) VALUES (event.event_type, to_jsonb(event))');
SELECT es.set_handler('log', 'B',
	'WITH o AS (INSERT INTO other VALUES (event.event_type) RETURNING type) INSERT INTO log (type) SELECT type FROM o');
SELECT es.set_handler('log', 'C', 'INSERT INTO log (type) SELECT event.aggregate_id FROM event_names AS event');
SELECT es.set_handler('log', 'D', 'SELECT note(event)');
SELECT count(*) FROM es.append_events('log', '1',
	'[{"event_type": "A"}, {"event_type": "B"}, {"event_type": "C"}, {"event_type": "D"}, {"event_type": "E"}]');
SELECT type, whole->>'aggregate_id' AS aggregate_id, whole->>'version' AS version FROM log ORDER BY id;
TABLE other ORDER BY type;

-- dropping the table needs CASCADE, which drops the projection
\set VERBOSITY terse
DROP TABLE log;
BEGIN;
DROP TABLE log CASCADE;
SELECT count(*) FROM es.projections WHERE name = 'log';
ROLLBACK;
\set VERBOSITY default

-- a replay would not empty the other table
SELECT * FROM es.replay('log');
\echo :LAST_ERROR_SQLSTATE

-- what a statement uses can't go or change its name unnoticed
DROP TABLE other;
DROP FUNCTION note;
ALTER TABLE log DROP COLUMN whole;
\set VERBOSITY terse
ALTER TABLE other RENAME TO another;
ALTER FUNCTION note(es.events) RENAME TO noted;
\set VERBOSITY default
SELECT es.append('log', '2', 'D');

-- a batch: once for the statement, from the relation events
CREATE TABLE batches (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigint, types text);
SELECT es.create_projection('batches', 'batches', event_types => '{A,B}');
SELECT es.set_batch_handler('batches',
	'INSERT INTO batches (n, types) SELECT count(*), string_agg(event_type, '','' ORDER BY position) FROM events');
SELECT name, kind FROM es.projections ORDER BY name;
SELECT count(*) FROM es.append_events('log', '3', '[{"event_type": "A"}, {"event_type": "B"}, {"event_type": "E"}]');
SELECT es.append('log', '3', 'B');
SELECT es.append('log', '3', 'E');
SELECT n, types FROM batches ORDER BY id;
SELECT es.set_batch_handler('batches', 'SELECT nothing FROM events');
SELECT es.set_handler('batches', 'A', 'SELECT 1');
SELECT events, rows FROM es.replay('batches');
SELECT n, types FROM batches ORDER BY id;
SELECT es.set_batch_handler('batches', NULL);
SELECT es.append('log', '3', 'B');
SELECT count(*) FROM batches;

-- a statement's trigger may append
CREATE FUNCTION react() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.type = 'A' THEN PERFORM es.append('log', '9', 'B'); END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER react AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION react();
SELECT es.append('log', '4', 'A');
SELECT type FROM log ORDER BY id DESC LIMIT 2;

-- but not in a replay, which would make history twice
SELECT es.set_handler('log', 'B', 'INSERT INTO log (type) VALUES (event.event_type)');
SELECT es.set_handler('log', 'D', NULL);
SELECT count(*) FROM es.events;
\set VERBOSITY terse
SELECT * FROM es.replay('log', in_place => true);
\set VERBOSITY default
SELECT events, rows FROM es.replay('log'); -- beside the table, where triggers don't fire
SELECT count(*) FROM es.events;
DROP TRIGGER react ON log;
SELECT events, rows FROM es.replay('log');

-- settings are those that the projection was made under, whatever the session's are
CREATE TABLE settings (position bigint PRIMARY KEY, value text);
CREATE TABLE tokyo (LIKE settings INCLUDING ALL);
CREATE VIEW setting AS SELECT concat_ws(' | ', current_setting('TimeZone'), current_setting('DateStyle'),
	current_setting('IntervalStyle'), current_setting('extra_float_digits'),
	current_setting('bytea_output'), current_setting('default_text_search_config'),
	replace(current_setting('search_path'), ', pg_temp', '')) AS value;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET default_text_search_config = 'pg_catalog.simple';
SELECT es.create_projection('settings', 'settings', event_types => '{S}');
SELECT es.set_handler('settings', 'S', 'INSERT INTO settings SELECT event.position, value FROM setting');
SET TimeZone = 'Asia/Tokyo';
SELECT es.create_projection('tokyo', 'tokyo', event_types => '{S}');
SELECT es.set_handler('tokyo', 'S', 'INSERT INTO tokyo SELECT event.position, value FROM setting');
SELECT es.append('s', '1', 'S'), es.append('s', '1', 'S');
SET TimeZone = 'UTC';
SELECT es.append('s', '1', 'S'), es.append('s', '1', 'S');
SET DateStyle = 'German, YMD';
SELECT es.append('s', '1', 'S');
SET DateStyle = 'German, DMY';
SELECT es.append('s', '1', 'S');
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'sql_standard';
SELECT es.append('s', '1', 'S');
SET extra_float_digits = -5;
SET bytea_output = 'escape';
SELECT es.append('s', '1', 'S');
SET default_text_search_config = 'pg_catalog.german';
SET search_path = es, pg_catalog;
SELECT es.append('s', '1', 'S'), es.append('s', '1', 'S');
BEGIN;
CREATE TEMP TABLE settings (LIKE statement.settings);
SET LOCAL search_path = statement, es;
SELECT es.append('s', '1', 'S');
ROLLBACK;
SELECT es.append('s', '1', 'S');
SELECT value FROM statement.setting;
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
RESET extra_float_digits;
RESET bytea_output;
RESET default_text_search_config;
SET search_path = statement;
SELECT es.append('s', '1', 'S');
SELECT 'settings', value, count(*) FROM settings GROUP BY value
UNION ALL SELECT 'tokyo', value, count(*) FROM tokyo GROUP BY value;
SELECT es.drop_projection('settings'), es.drop_projection('tokyo');

-- so it is parsed in the same way, too
CREATE TABLE parsed (id text PRIMARY KEY, words text, missing boolean, items text[]);
CREATE TABLE folded (LIKE parsed INCLUDING ALL);
SELECT es.create_projection('parsed', 'parsed', event_types => '{P}');
SELECT es.set_handler('parsed', 'P', $$INSERT INTO parsed VALUES (event.aggregate_id,
	regexp_replace(event.source, '\s+', '_'), event.data->>'none' = NULL, '{NULL}')$$);
CREATE FUNCTION folded_apply(state folded, event es.events) RETURNS folded LANGUAGE sql IMMUTABLE AS $$
SELECT ROW(event.aggregate_id, regexp_replace(event.source, '\s+', '_'), event.data->>'none' = NULL, '{NULL}'::text[])::folded $$;
SELECT es.create_projection('folded', 'folded', 'folded_apply', event_types => '{P}');
SELECT es.append('p', '1', 'P', source => 'some swords');
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET transform_null_equals = on;
SET array_nulls = off;
ALTER FUNCTION folded_apply COST 50;
SELECT es.append('p', '2', 'P', source => 'some swords');
RESET standard_conforming_strings;
RESET escape_string_warning;
RESET transform_null_equals;
RESET array_nulls;
SELECT *, items[1] IS NULL AS null_item FROM parsed UNION ALL SELECT *, items[1] IS NULL FROM folded;
SELECT es.drop_projection('parsed'), es.drop_projection('folded');

-- who owns the table owns the projection
CREATE ROLE regress_es_other;
GRANT USAGE ON SCHEMA es, statement TO regress_es_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_other;
SET ROLE regress_es_other;
SELECT es.set_handler('log', 'A', 'SELECT 1');
RESET ROLE;
BEGIN READ ONLY;
SELECT es.set_handler('log', 'A', 'SELECT 1');
ROLLBACK;

SELECT es.drop_projection('log'), es.drop_projection('totals'), es.drop_projection('batches');
SELECT count(*) FROM es.projection_handlers;
UPDATE totals SET n = 0 WHERE false;
RESET search_path;
REVOKE USAGE ON SCHEMA es FROM regress_es_other;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA es FROM regress_es_other;
SET client_min_messages = warning;
DROP SCHEMA statement CASCADE;
DROP EXTENSION pg_eventsourcing;
DROP ROLE regress_es_other;
