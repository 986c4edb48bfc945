-- Fold projections that are maintained in the writer's transaction.  After each
-- block the state tables are compared with the log, see test/oracle.sql.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all

-- The example: one row per aggregate, a null result removes the row.
CREATE TABLE account (id text PRIMARY KEY, owner text, balance numeric NOT NULL DEFAULT 0);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
         WHEN 'AccountOpened' THEN ROW(event.aggregate_id, event.data->>'owner', 0)::account
         WHEN 'Deposited'     THEN ROW(state.id, state.owner, state.balance + (event.data->>'amount')::numeric)::account
         WHEN 'AccountClosed' THEN NULL
         ELSE state
       END;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
SELECT es.append('account', '42', 'AccountOpened', '{"owner": "Ada"}');
SELECT es.append('account', '42', 'Deposited', '{"amount": 100}', expected_version => 1);
SELECT es.append('account', '43', 'AccountOpened', '{"owner": "Bo"}');
SELECT es.append('account', '42', 'Renamed', '{"owner": "nobody handles this"}');
SELECT es.append('person', '42', 'Deposited', '{"amount": 1000}');
TABLE account ORDER BY id;
SELECT es.append('account', '43', 'AccountClosed');
TABLE account ORDER BY id;
-- Opened again: a new row.
SELECT es.append('account', '43', 'AccountOpened', '{"owner": "Cy"}');
SELECT * FROM pg_temp.check_projections();

-- The same fold in other languages and forms, fed by the same events, created
-- with and without the rows that the events so far give.
CREATE TABLE account_plpgsql (LIKE account INCLUDING ALL);
CREATE FUNCTION account_plpgsql_apply(state account_plpgsql, event es.events) RETURNS account_plpgsql
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	CASE event.event_type
		WHEN 'AccountOpened' THEN state := ROW(event.aggregate_id, event.data->>'owner', 0);
		WHEN 'Deposited' THEN state.balance := state.balance + (event.data->>'amount')::numeric;
		WHEN 'AccountClosed' THEN state := NULL;
		ELSE
	END CASE;
	RETURN state;
END $$;
CREATE TABLE account_text (LIKE account INCLUDING ALL);
CREATE FUNCTION account_text_apply(account_text, es.events) RETURNS account_text
LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE $2.event_type
		WHEN 'AccountOpened' THEN ROW($2.aggregate_id, $2.data->>'owner', 0)::account_text
		WHEN 'Deposited' THEN ROW($1.id, $1.owner, $1.balance + ($2.data->>'amount')::numeric)::account_text
		WHEN 'AccountClosed' THEN NULL
		ELSE $1
	END
$$;
-- Not inlined: a subquery.  And a result of columns instead of a row.
CREATE TABLE account_query (LIKE account INCLUDING ALL);
CREATE FUNCTION account_query_apply(state account_query, event es.events) RETURNS account_query
LANGUAGE sql IMMUTABLE AS $$
	SELECT id, owner, balance FROM (
		SELECT event.aggregate_id AS id, event.data->>'owner' AS owner, 0::numeric AS balance WHERE event.event_type = 'AccountOpened'
		UNION ALL
		SELECT state.id, state.owner, state.balance + (event.data->>'amount')::numeric WHERE event.event_type = 'Deposited'
		UNION ALL
		SELECT (state).* WHERE event.event_type NOT IN ('AccountOpened', 'Deposited', 'AccountClosed')) AS u
$$;
-- All columns null is no row, as NULL is.
CREATE TABLE account_nulls (LIKE account INCLUDING ALL);
CREATE FUNCTION account_nulls_apply(state account_nulls, event es.events) RETURNS account_nulls
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
         WHEN 'AccountOpened' THEN ROW(event.aggregate_id, event.data->>'owner', 0)::account_nulls
         WHEN 'AccountClosed' THEN ROW(NULL, NULL, NULL)::account_nulls
         WHEN 'Deposited' THEN CASE WHEN state IS NOT NULL OR state.id IS NOT NULL
           THEN ROW(state.id, state.owner, state.balance + (event.data->>'amount')::numeric)::account_nulls END
         ELSE state
       END;
SELECT es.create_projection('account_plpgsql', 'account_plpgsql', 'account_plpgsql_apply', aggregate_types => '{account}');
SELECT es.create_projection('account_text', 'account_text', 'account_text_apply', aggregate_types => '{account}');
SELECT es.create_projection('account_query', 'account_query', 'account_query_apply(account_query, es.events)', aggregate_types => '{account}');
SELECT es.create_projection('account_nulls', 'account_nulls', 'account_nulls_apply', aggregate_types => '{account,none}');
SELECT * FROM pg_temp.check_projections();

-- Many events of many aggregates in one statement, in each of the ways there are.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES
	('account', '1', 'AccountOpened', '{"owner": "One"}'), ('account', '2', 'AccountOpened', '{"owner": "Two"}'),
	('account', '1', 'Deposited', '{"amount": 1.10}'), ('account', '2', 'AccountClosed', '{}'),
	('account', '1', 'Deposited', '{"amount": 2.20}'), ('account', '2', 'AccountOpened', '{"owner": "Deux"}'),
	('account', '42', 'AccountClosed', '{}'), ('account', '43', 'Deposited', '{"amount": 43}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', n % 7, CASE WHEN n < 7 THEN 'AccountOpened' WHEN n % 29 = 0 THEN 'AccountClosed'
		WHEN n % 31 = 0 THEN 'AccountOpened' ELSE 'Renamed' END, jsonb_build_object('owner', n)
FROM generate_series(0, 200) AS n;
COPY es.events (aggregate_type, aggregate_id, event_type, data) FROM stdin;
account	a	AccountOpened	{"owner": "A"}
account	b	AccountOpened	{"owner": "B"}
account	a	Deposited	{"amount": 5}
account	b	AccountClosed	{}
account	a	Deposited	{"amount": 7}
\.
SELECT version FROM es.append_events('account', 'b', '[{"event_type": "AccountOpened", "data": {"owner": "B"}}, {"event_type": "Deposited", "data": {"amount": 1}}, {"event_type": "Deposited", "data": {"amount": 2}}]');
SELECT aggregate_id, version FROM es.append_batch('[
	{"aggregate_type": "account", "aggregate_id": "b", "event_type": "Deposited", "data": {"amount": 4}},
	{"aggregate_type": "account", "aggregate_id": "a", "event_type": "Deposited", "data": {"amount": 4}},
	{"aggregate_type": "account", "aggregate_id": "b", "event_type": "Deposited", "data": {"amount": 8}}]');
SELECT id, owner, balance FROM account ORDER BY id;
SELECT * FROM pg_temp.check_projections();

-- A retried event is not applied again; ON CONFLICT DO NOTHING.
SELECT es.append('account', 'a', 'Deposited', '{"amount": 1}', event_id => '00000000-0000-0000-0000-000000000001') =
	es.append('account', 'a', 'Deposited', '{"amount": 1}', event_id => '00000000-0000-0000-0000-000000000001');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data, event_id) VALUES
	('account', 'a', 'Deposited', '{"amount": 1}', '00000000-0000-0000-0000-000000000001'),
	('account', 'a', 'Deposited', '{"amount": 1}', '00000000-0000-0000-0000-000000000002'),
	('account', 'a', 'Deposited', '{"amount": 1}', '00000000-0000-0000-0000-000000000002')
ON CONFLICT DO NOTHING;
SELECT balance FROM account WHERE id = 'a';

-- Two INSERTs in one statement.
WITH a AS (INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
		VALUES ('account', 'c', 'AccountOpened', '{"owner": "C"}'), ('account', 'c', 'Deposited', '{"amount": 1}') RETURNING version),
	b AS (INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
		SELECT 'account', 'd' || version, 'AccountOpened', '{"owner": "D"}' FROM a RETURNING aggregate_id)
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', aggregate_id, 'Deposited', '{"amount": 9}' FROM b;
MERGE INTO es.events e USING (VALUES ('c'), ('d1')) AS v (id) ON false
WHEN NOT MATCHED THEN INSERT (aggregate_type, aggregate_id, event_type, data) VALUES ('account', v.id, 'Deposited', '{"amount": 0.5}');
SELECT id, balance FROM account WHERE id IN ('c', 'd1', 'd2') ORDER BY id;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'account', 'c', 'Deposited' WHERE false;
SELECT * FROM pg_temp.check_projections();

-- Savepoints, prepared statements, failed statements.
BEGIN;
SELECT es.append('account', 'c', 'Deposited', '{"amount": 100}');
SAVEPOINT s;
SELECT es.append('account', 'c', 'Deposited', '{"amount": 1000}');
SELECT es.append('account', 'e', 'AccountOpened', '{"owner": "E"}');
SELECT es.append('account', 'a', 'AccountClosed');
ROLLBACK TO s;
SELECT es.append('account', 'c', 'Deposited', '{"amount": 10000}');
SAVEPOINT t;
\set VERBOSITY terse
SELECT es.append('account', 'c', 'Deposited', '{"amount": "much"}');
\set VERBOSITY default
ROLLBACK TO t;
SELECT es.append('account', 'a', 'Deposited', '{"amount": 1}');
COMMIT;
SELECT id, balance FROM account WHERE id IN ('a', 'c', 'e') ORDER BY id;
PREPARE deposit AS SELECT es.append('account', $1, 'Deposited', jsonb_build_object('amount', $2::numeric));
PREPARE insert_deposit AS INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES ('account', $1, 'Deposited', $2);
SET plan_cache_mode = force_generic_plan;
EXECUTE deposit('c', 1);
EXECUTE deposit('a', 2);
EXECUTE insert_deposit('c', '{"amount": 1}');
EXECUTE insert_deposit('c', '{"amount": 1}');
CREATE OR REPLACE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
         WHEN 'AccountOpened' THEN ROW(event.aggregate_id, event.data->>'owner', 0)::account
         WHEN 'Deposited'     THEN ROW(state.id, state.owner, state.balance + 2 * (event.data->>'amount')::numeric)::account
         WHEN 'AccountClosed' THEN NULL
         ELSE state
       END;
EXECUTE deposit('c', 1000000);
EXECUTE insert_deposit('c', '{"amount": 1000000}');
RESET plan_cache_mode;
SELECT account.balance, account_text.balance FROM account JOIN account_text USING (id) WHERE id = 'c';
-- The other tables are right; this one becomes so by the replay, for all events.
SELECT * FROM pg_temp.check_projections();
SELECT * FROM pg_temp.check_projections('account');
DO $$
BEGIN
	FOR i IN 1..20 LOOP
		BEGIN
			PERFORM es.append('account', 'c', 'Deposited', '{"amount": 1}');
			IF i % 3 = 0 THEN
				RAISE EXCEPTION 'undo';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
SELECT * FROM pg_temp.check_projections();

-- What a function that is called, not inlined, keeps between its calls does not
-- survive its failure.
CREATE TABLE quotient (id text PRIMARY KEY, n int);
CREATE FUNCTION quotient_apply(state quotient, event es.events) RETURNS quotient LANGUAGE sql IMMUTABLE AS $$
	SELECT event.aggregate_id, (SELECT coalesce(state.n, 0) + 10 / (event.data->>'n')::int)
$$;
SELECT es.create_projection('quotient', 'quotient', 'quotient_apply', aggregate_types => '{quotient}');
BEGIN;
SELECT es.append('quotient', '1', 'X', '{"n": 1}');
SAVEPOINT s;
\set VERBOSITY terse
SELECT es.append('quotient', '1', 'X', '{"n": 0}');
ROLLBACK TO s;
SELECT es.append('quotient', '1', 'X', '{"n": 2}');
SAVEPOINT s;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES ('quotient', '1', 'X', '{"n": 5}'), ('quotient', '1', 'X', '{"n": 0}');
\set VERBOSITY default
ROLLBACK TO s;
SELECT es.append('quotient', '2', 'X', '{"n": 5}');
COMMIT;
TABLE quotient ORDER BY id;
SELECT * FROM pg_temp.check_projections('quotient');
DROP TABLE quotient CASCADE;

-- A helper function inside the apply function changes too.
CREATE TABLE total (id text PRIMARY KEY, n numeric);
CREATE FUNCTION weight(es.events) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT ($1.data->>''amount'')::numeric';
CREATE FUNCTION total_apply(state total, event es.events) RETURNS total LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + weight(event))::total;
SELECT es.create_projection('total', 'total', 'total_apply', event_types => '{Deposited,Withdrawn}', populate => false);
SELECT count(*) FROM total;
SELECT es.append('account', 'c', 'Deposited', '{"amount": 1}');
CREATE OR REPLACE FUNCTION weight(es.events) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT 100 * ($1.data->>''amount'')::numeric';
SELECT es.append('account', 'c', 'Withdrawn', '{"amount": 1}');
SELECT es.append('account', 'c', 'AccountOpened', '{"amount": 1}');
TABLE total;
SELECT events, rows FROM es.replay('total');
SELECT * FROM pg_temp.check_projections('total');

-- Rows that the table had are kept without populate, and go with it.
SELECT es.drop_projection('total');
TRUNCATE total;
INSERT INTO total VALUES ('c', 7), ('stranger', 1);
SELECT es.create_projection('total', 'total', 'total_apply', event_types => '{Deposited}', populate => false);
SELECT es.append('account', 'c', 'Deposited', '{"amount": 1}');
TABLE total ORDER BY id;
SELECT es.drop_projection('total');
UPDATE total SET n = 0;
SELECT es.create_projection('total', 'total', 'total_apply', event_types => '{Deposited}');
SELECT count(*) FROM total WHERE id = 'stranger';
SELECT * FROM pg_temp.check_projections('total');
SELECT es.drop_projection('total');
DROP TABLE account, account_plpgsql, account_text, account_query, account_nulls, total CASCADE;
SELECT count(*) FROM es.projections;

-- Keys of other types; '7' and '07' are one row where the key is a number.
CREATE DOMAIN code AS varchar(10) CHECK (VALUE <> 'forbidden');
CREATE TYPE colour AS ENUM ('red', 'green', '7', '07');
CREATE TABLE k_integer (id integer PRIMARY KEY, log text);
CREATE TABLE k_numeric (id numeric PRIMARY KEY, log text);
CREATE TABLE k_varchar (id varchar(20) PRIMARY KEY, log text);
CREATE TABLE k_char (id char(20) PRIMARY KEY, log text);
CREATE TABLE k_domain (id code PRIMARY KEY, log text);
CREATE TABLE k_enum (id colour PRIMARY KEY, log text);
CREATE TABLE k_uuid (id uuid PRIMARY KEY, log text);
CREATE TABLE k_name (id name PRIMARY KEY, log text);
CREATE TABLE k_bytea (log text, id bytea, PRIMARY KEY (id) INCLUDE (log));
CREATE COLLATION ignore_case (provider = icu, locale = '@colStrength=secondary', deterministic = false);
CREATE TABLE k_nocase (id text COLLATE ignore_case PRIMARY KEY, log text);
DO $$
DECLARE
	t text;
BEGIN
	FOREACH t IN ARRAY '{integer,numeric,varchar,char,domain,enum,name,nocase,bytea,uuid}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION k_%s_apply(state k_%1$s, event es.events) RETURNS k_%1$s LANGUAGE plpgsql IMMUTABLE AS $f$
			BEGIN
				state.id := coalesce(state.id::text, event.aggregate_id);
				state.log := concat(state.log, event.event_type);
				RETURN state;
			END $f$', t, (SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = ('k_' || t)::regclass AND attname = 'id'));
		PERFORM es.create_projection('k_' || t, ('k_' || t)::regclass, 'k_' || t || '_apply',
			aggregate_types => ARRAY[CASE WHEN t = 'uuid' THEN 'u' WHEN t = 'nocase' THEN 'text' ELSE 'n' END]);
	END LOOP;
END $$;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('n', '7', 'a'), ('n', '07', 'b'), ('n', '7', 'c'), ('n', '07', 'd');
SELECT es.append('n', '07', 'e');
SELECT es.append('u', 'A0000000-0000-0000-0000-000000000001', 'a');
SELECT es.append('u', 'a0000000000000000000000000000001', 'b');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('text', 'Ab', 'a'), ('text', 'aB', 'b'), ('text', 'ac', 'c'), ('text', 'AB', 'd');
SELECT es.append('text', 'ab', 'e');
TABLE k_integer;
TABLE k_numeric;
TABLE k_varchar ORDER BY id;
TABLE k_char ORDER BY id;
TABLE k_uuid;
TABLE k_nocase ORDER BY id;
SELECT projection, rows, state, replayed FROM pg_temp.check_projections() WHERE projection <> 'k_nocase';
\set VERBOSITY terse
SELECT es.append('n', 'many', 'a');
SELECT es.append('u', '1', 'a');
SELECT es.append('n', 'forbidden', 'a');
SELECT aggregate_type, aggregate_id, es.current_version(aggregate_type, aggregate_id) FROM (VALUES ('n', 'many'), ('u', '1'), ('n', 'forbidden')) AS v (aggregate_type, aggregate_id);
\set VERBOSITY default
DO $$
DECLARE
	t regclass;
BEGIN
	FOR t IN SELECT target FROM es.projections LOOP
		EXECUTE 'DROP TABLE ' || t || ' CASCADE';
	END LOOP;
END $$;

-- A key that is an expression: many aggregates feed one row.  What it and the
-- apply function yield does not depend on the session of the writer.
SET TimeZone = 'Pacific/Kiritimati';
SET DateStyle = 'German, DMY';
CREATE TABLE "Rates per Day" ("Day" date, currency text, "first aggregate" text, log text NOT NULL, n bigint,
	"as text" text, PRIMARY KEY (currency, "Day"));
CREATE FUNCTION "Rates Apply"("State" "Rates per Day", "Event" es.events) RETURNS "Rates per Day"
LANGUAGE sql IMMUTABLE
RETURN ROW((("Event").occurred_at)::date, ("Event").data->>'currency',
	coalesce(("State")."first aggregate", ("Event").aggregate_id),
	concat(("State").log, ("Event").aggregate_id || ("Event").version), coalesce(("State").n, 0) + 1,
	(("Event").occurred_at)::text)::"Rates per Day";
SELECT es.create_projection('Rates', '"Rates per Day"', '"Rates Apply"', key => $$data->>'currency', (occurred_at)::date$$, event_types => '{Rate}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data, occurred_at) VALUES
	('bank', 'a', 'Rate', '{"currency": "EUR"}', '2026-01-01 09:00:00+00'),
	('bank', 'b', 'Rate', '{"currency": "EUR"}', '2026-01-01 11:00:00+00'),
	('bank', 'b', 'Rate', '{"currency": "USD"}', '2026-01-01 09:00:00+00'),
	('shop', 'a', 'Rate', '{"currency": "EUR"}', '2026-01-01 09:30:00+00'),
	('shop', 'a', 'Rate', '{"currency": null}', '2026-01-01 09:30:00+00'),
	('shop', 'a', 'Other', '{"currency": "EUR"}', '2026-01-01 09:30:00+00');
SET TimeZone = 'America/New_York';
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'iso_8601';
SELECT es.append('bank', 'a', 'Rate', '{"currency": "EUR"}', occurred_at => '2026-01-01 09:59:59+00');
SELECT es.append('bank', 'a', 'Rate', '{"currency": "EUR"}', occurred_at => '2026-01-01 10:00:00+00');
SELECT es.append('bank', 'a', 'Rate', '{}', occurred_at => '2026-01-01 10:00:00+00');
SELECT es.append('bank', 'c', 'Rate', '{"currency": "EUR"}');
SELECT * FROM "Rates per Day" WHERE "Day" < '2026-02-01' ORDER BY currency, "Day";
SELECT rows, state, replayed FROM pg_temp.check_projections();
SET TimeZone = 'America/New_York';
SET DateStyle = 'ISO, MDY';
SELECT events, rows FROM es.replay('Rates');
SELECT * FROM "Rates per Day" WHERE "Day" < '2026-02-01' ORDER BY currency, "Day";
SHOW TimeZone;
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
SELECT name, kind, target, mode, status, enabled, owner = current_user::regrole AS mine, apply, key, aggregate_types, event_types, protect
FROM es.projections;
DROP TABLE "Rates per Day" CASCADE;

-- The event may be written as a name in the key; several columns, constants, functions.
CREATE TABLE part (half int, kind text, one int, log text, PRIMARY KEY (one, half, kind));
CREATE FUNCTION part_apply(state part, event es.events) RETURNS part LANGUAGE sql IMMUTABLE
RETURN ROW(event.version % 2, event.aggregate_type, 1, concat(state.log, event.aggregate_id))::part;
SELECT es.append('p', 'x', 'E');
SELECT es.create_projection('part', 'part', 'part_apply', key => '1, event.version % 2, upper(aggregate_type) -- a comment', aggregate_types => '{p}');
SELECT es.create_projection('part', 'part', 'part_apply', key => '1, (event.version % 2)::int, CASE WHEN aggregate_type = ''p'' THEN ''p'' END');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'p', chr(97 + n % 3), 'E' FROM generate_series(0, 11) AS n;
TABLE part ORDER BY half;
SELECT * FROM pg_temp.check_projections();

-- All that a row's fold sees of the event, position and metadata included; large values.
CREATE TABLE seen (id text PRIMARY KEY, event es.events, big text, n int);
CREATE FUNCTION seen_apply(state seen, event es.events) RETURNS seen LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, event, coalesce(state.big, '') || repeat(md5(event.version::text), 300), state.n)::seen;
CREATE TABLE seen_plpgsql (id text PRIMARY KEY, big text, last jsonb, n int);
CREATE FUNCTION seen_plpgsql_apply(state seen_plpgsql, event es.events) RETURNS seen_plpgsql LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state.id := event.aggregate_id;
	state.n := coalesce(state.n, 0) + 1;
	-- big is passed on while only the small column changes
	IF event.version <= 2 THEN
		state.big := concat(state.big, (SELECT string_agg(md5(i::text || event.version), '') FROM generate_series(1, 500) AS i));
		state.last := event.data;
	END IF;
	RETURN state;
END $$;
SELECT es.create_projection('seen', 'seen', 'seen_apply', aggregate_types => '{big}');
SELECT es.create_projection('seen_plpgsql', 'seen_plpgsql', 'seen_plpgsql_apply', aggregate_types => '{big}');
SELECT es.append('big', '1', 'E', (SELECT jsonb_object_agg(i, md5(i::text)) FROM generate_series(1, 3000) AS i), metadata => '{"who": "me"}');
SELECT es.append('big', '1', 'E') FROM generate_series(1, 3);
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'big', i % 2, 'E', (SELECT jsonb_object_agg(j, md5(j::text)) FROM generate_series(1, 1000) AS j) FROM generate_series(1, 6) AS i;
SELECT id, (event).version, length(big), md5(big) = md5((SELECT string_agg(repeat(md5(v::text), 300), '' ORDER BY v) FROM generate_series(1, (s.event).version) AS v)) AS same FROM seen AS s ORDER BY id;
SELECT id, n, length(big), length(last::text) FROM seen_plpgsql ORDER BY id;
SELECT count(*) FROM seen JOIN es.events e ON e.position = (event).position AND e IS NOT DISTINCT FROM seen.event;
SELECT * FROM pg_temp.check_projections('seen%');

-- More rows than work_mem holds in one statement.
SET work_mem = '64kB';
CREATE TABLE many (id text PRIMARY KEY, n int, filler text);
CREATE FUNCTION many_apply(state many, event es.events) RETURNS many LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + coalesce((event.data->>'add')::int, 1), repeat('x', 100))::many;
SELECT es.create_projection('many', 'many', 'many_apply', aggregate_types => '{many}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'many', i % 3000, 'E' FROM generate_series(1, 7000) AS i;
SELECT n, count(*) FROM many GROUP BY n ORDER BY n;
SELECT rows, state, replayed FROM pg_temp.check_projections('many');
DO $$
DECLARE
	detail text;
BEGIN
	INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
	SELECT 'many', i, 'E', CASE i WHEN 5000 THEN '{"add": "one"}' ELSE '{}' END::jsonb FROM generate_series(1, 7000) AS i;
EXCEPTION WHEN SQLSTATE 'SE008' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE WARNING '% %', SQLERRM, substring(detail FROM '^.*, version');
END $$;
RESET work_mem;

-- Failures that one transaction catches leave nothing in memory.
CREATE TABLE fails (id text PRIMARY KEY, n int CHECK (n < 1));
CREATE FUNCTION fails_apply(state fails, event es.events) RETURNS fails LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, 1)::fails;
SELECT es.create_projection('fails', 'fails', 'fails_apply', aggregate_types => '{fails}');
DO $$
DECLARE
	caught int := 0;
	before bigint;
BEGIN
	FOR i IN 1 .. 320 LOOP
		BEGIN
			PERFORM es.append('fails', '1', 'E');
		EXCEPTION WHEN SQLSTATE 'SE008' THEN
			caught := caught + 1;
		END;
		IF i = 20 THEN
			SELECT sum(total_bytes) INTO before FROM pg_backend_memory_contexts;
		END IF;
	END LOOP;
	RAISE INFO '% failures, flat: %', caught, (SELECT sum(total_bytes) - before < 1000000 FROM pg_backend_memory_contexts);
END $$;
SELECT es.drop_projection('fails');
DROP TABLE fails CASCADE;

DROP TABLE part, seen, seen_plpgsql, many CASCADE;
SELECT count(*) FROM es.projections;
DROP FUNCTION weight;
DROP DOMAIN code CASCADE;
DROP TYPE colour CASCADE;
DROP COLLATION ignore_case;
DROP EXTENSION pg_eventsourcing;
