-- es.load(): one aggregate, folded on the fly.

CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
-- Runs a query and tells how it fails.
CREATE FUNCTION pg_temp.try(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text; detail text; hint text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || SQLERRM || coalesce(' | ' || nullif(detail, ''), '')
		|| coalesce(' | ' || nullif(hint, ''), '');
END $$;

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
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES
	('account', '42', 'AccountOpened', '{"owner": "Ada"}'),
	('account', '43', 'AccountOpened', '{"owner": "Bo"}'),
	('account', '42', 'Deposited', '{"amount": 100}'),
	('account', '43', 'Deposited', '{"amount": 7}'),
	('account', '42', 'Deposited', '{"amount": 20}'),
	('person', '42', 'Deposited', '{"amount": 1000}'),
	('account', '43', 'AccountClosed', '{}'),
	('account', '42', 'Noted', '{}');

-- Now, and as it was.
SELECT es.load(NULL::account, 'account', '42');
SELECT (es.load(NULL::account, 'account', '42')).*;
SELECT v, es.load(NULL::account, 'account', '42', as_of_version => v) FROM generate_series(-1, 5) AS v;
SELECT e.aggregate_id, e.version, es.load(NULL::account, 'account', e.aggregate_id, as_of_position => e.position)
FROM es.events AS e WHERE aggregate_type = 'account' ORDER BY e.position;
-- recorded_at may be the same for several events, so the oracle counts.
SELECT count(*) FILTER (WHERE (l).balance IS DISTINCT FROM expected), count(*)
FROM (SELECT es.load(NULL::account, 'account', '42', as_of => e.recorded_at) AS l,
		(SELECT sum(coalesce((data->>'amount')::numeric, 0)) FROM es.events AS b
		 WHERE b.aggregate_type = 'account' AND b.aggregate_id = '42' AND b.recorded_at <= e.recorded_at) AS expected
	FROM es.events AS e) AS x;
SELECT es.load(NULL::account, 'account', '42', as_of => '2020-01-01') IS NULL AS before,
	es.load(NULL::account, 'account', '42', as_of => '-infinity') IS NULL AS long_before,
	es.load(NULL::account, 'account', '42', as_of => 'infinity') AS after,
	es.load(NULL::account, 'account', '42', as_of_version => 3, as_of_position => 9223372036854775807, as_of => 'infinity') AS least;
-- Closed, unknown, null.
SELECT es.load(NULL::account, 'account', '43') IS NULL AS closed, es.load(NULL::account, 'account', '44') IS NULL AS unknown,
	es.load(NULL::account, 'account', NULL) IS NULL AS no_id, es.load(NULL::account, NULL, '42') IS NULL AS no_type,
	es.load(NULL::account, 'account', '') IS NULL AS empty;
-- All the same as the table's rows.
SELECT count(*) FROM account AS a FULL JOIN es.aggregates('account') AS g ON g.aggregate_id = a.id
WHERE a IS DISTINCT FROM es.load(NULL::account, 'account', g.aggregate_id);

-- The state to begin with.
SELECT es.load(ROW('42', 'Zed', 1)::account, 'account', '44');
SELECT es.load(ROW('44', 'Zed', 1)::account, 'person', '42', apply => 'account_apply');
SELECT es.load(ROW(NULL, NULL, NULL)::account, 'person', '44', apply => 'account_apply');

-- With a function that is named: whatever aggregate and events.
CREATE FUNCTION account_v2(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state.id := event.aggregate_id;
	state.balance := coalesce(state.balance, 0) + 2 * coalesce((event.data->>'amount')::numeric, 0);
	RETURN state;
END $$;
SELECT es.load(NULL::account, 'person', '42', apply => 'account_v2');
SELECT es.load(NULL::account, 'account', '42', apply => 'public.account_v2(account, es.events)', as_of_version => 2);
SELECT es.load(NULL::account, 'account', '42', f) FROM (VALUES (1, 'account_v2'), (2, NULL), (3, 'account_apply'), (4, 'account_v2')) AS v (n, f) ORDER BY n;
-- A state that no table has.
CREATE TYPE activity AS (deposits integer, last_version bigint, whole text);
CREATE FUNCTION activity_apply(state activity, event es.events) RETURNS activity LANGUAGE sql IMMUTABLE
RETURN ROW(coalesce(state.deposits, 0) + (event.event_type = 'Deposited')::integer, event.version,
	(event).aggregate_type || '/' || (event).aggregate_id)::activity;
SELECT (es.load(NULL::activity, 'account', '42', 'activity_apply')).*;
CREATE FUNCTION activity_rows(state activity, event es.events) RETURNS activity LANGUAGE sql IMMUTABLE AS $$
	SELECT deposits, last_version, whole FROM (SELECT (state).*) AS s
	WHERE event.event_type <> 'AccountOpened'
	UNION ALL
	SELECT 0, 0, event::text FROM (SELECT 1) AS o WHERE event.event_type = 'AccountOpened'
$$;
SELECT (l).deposits, (l).whole LIKE '(%,account,42,AccountOpened,%' AS whole FROM es.load(NULL::activity, 'account', '42', 'activity_rows') AS l;
SELECT (es.load(NULL::activity, 'account', '43', 'activity_apply')).whole, pg_typeof(es.load(NULL::activity, 'account', '42', 'activity_apply'));

-- What can't be.
SELECT pg_temp.try(q) FROM (VALUES
	(1, 'SELECT es.load(NULL::integer, ''account'', ''42'')'),
	(2, 'SELECT es.load(ROW(1, 2), ''account'', ''42'')'),
	(3, 'SELECT es.load(NULL::account[], ''account'', ''42'')'),
	(4, 'SELECT es.load(NULL, ''account'', ''42'')'),
	(5, 'SELECT es.load(NULL::activity, ''account'', ''42'')'),
	(6, 'SELECT es.load(NULL::account, ''person'', ''42'')'),
	(7, 'SELECT es.load(NULL::account, ''account'', ''42'', ''no_such'')'),
	(8, 'SELECT es.load(NULL::account, ''account'', ''42'', ''activity_apply'')'),
	(9, 'SELECT es.load(NULL::account, ''account'', ''42'', ''activity_apply(activity, es.events)'')'),
	(10, 'SELECT es.load(NULL::account, ''account'', ''42'', '''')'),
	(11, 'SELECT es.load(NULL::account, ''account'', ''42'', ''a.b.c.d'')'),
	(12, 'SELECT es.load(NULL::account, ''account'', ''42'', ''es.append'')'),
	(13, 'SELECT es.load(NULL::es.events, ''account'', ''42'')')) AS v (n, q) ORDER BY n;
CREATE DOMAIN solvent AS account CHECK ((VALUE).balance >= 0);
SELECT pg_temp.try('SELECT es.load(NULL::solvent, ''account'', ''42'')');
SELECT es.load(NULL::account, 'account', '42')::solvent;
ALTER FUNCTION account_v2 VOLATILE;
SELECT pg_temp.try('SELECT es.load(NULL::account, ''account'', ''42'', ''account_v2'')');
ALTER FUNCTION account_v2 IMMUTABLE;
CREATE TABLE by_owner (owner text PRIMARY KEY, accounts bigint);
CREATE FUNCTION by_owner_apply(state by_owner, event es.events) RETURNS by_owner LANGUAGE sql IMMUTABLE
RETURN ROW(event.data->>'owner', coalesce(state.accounts, 0) + 1)::by_owner;
SELECT es.create_projection('by_owner', 'by_owner', 'by_owner_apply', key => $$data->>'owner'$$);
SELECT pg_temp.try('SELECT es.load(NULL::by_owner, ''account'', ''42'')');
SELECT pg_temp.try('SELECT es.load(NULL::by_owner, ''account'', ''42'', ''by_owner_apply'', 1)');
CREATE TABLE kept (id text PRIMARY KEY);
SELECT es.create_projection('kept', 'kept');
SELECT pg_temp.try('SELECT es.load(NULL::kept, ''account'', ''42'')');
DROP TABLE by_owner, kept CASCADE;

-- An error names the event, and keeps its code.
SELECT es.append('account', '45', 'AccountOpened', '{"owner": "Cy"}');
SELECT es.append('person', '45', 'AccountOpened', '{"owner": "Cy"}');
SELECT es.append('person', '45', 'Deposited', '{"amount": "much"}');
SELECT es.load(NULL::account, 'person', '45', 'account_apply');
SELECT es.load(NULL::account, 'person', '45', 'account_apply', as_of_version => 1);
-- It leaves nothing behind that a later call of the same place could stumble over.
DO $$
DECLARE
	l account;
BEGIN
	FOR v IN 1..4 LOOP
		BEGIN
			l := es.load(NULL::account, 'person', '45', 'account_apply', 1 + v % 2);
			RAISE WARNING '%', l;
		EXCEPTION WHEN invalid_text_representation THEN
			RAISE WARNING 'failed';
		END;
	END LOOP;
END $$;

-- Event types that the projection does not take don't count, unless the function is named.
CREATE TABLE opened (id text PRIMARY KEY, events bigint);
CREATE FUNCTION opened_apply(state opened, event es.events) RETURNS opened LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1)::opened;
SELECT es.create_projection('opened', 'opened', 'opened_apply', event_types => '{AccountOpened,Deposited}');
SELECT es.load(NULL::opened, 'account', '42'), es.load(NULL::opened, 'account', '42', 'opened_apply'),
	es.load(NULL::opened, 'person', '42');

-- The snapshot is that of the statement; own events are seen by the next one.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT (es.load(NULL::account, 'account', '42')).balance;
SELECT es.append('account', '42', 'Deposited', '{"amount": 1}'), (es.load(NULL::account, 'account', '42')).balance;
SELECT (es.load(NULL::account, 'account', '42')).balance;
SAVEPOINT s;
SELECT es.append('account', '42', 'Deposited', '{"amount": 2}');
SELECT (es.load(NULL::account, 'account', '42')).balance;
ROLLBACK TO s;
SELECT (es.load(NULL::account, 'account', '42')).balance;
COMMIT;
BEGIN;
DECLARE c CURSOR FOR SELECT (es.load(NULL::account, 'account', '42')).balance FROM generate_series(1, 2);
FETCH c;
SELECT es.append('account', '42', 'Deposited', '{"amount": 4}');
FETCH c;
SELECT (es.load(NULL::account, 'account', '42')).balance;
COMMIT;
BEGIN READ ONLY;
SELECT (es.load(NULL::account, 'account', '42')).balance;
COMMIT;
-- A command decides on what it sees.
CREATE FUNCTION withdraw(id text, amount numeric) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	a account := es.load(NULL::account, 'account', id);
BEGIN
	IF a.balance < amount THEN
		RAISE EXCEPTION 'only % left', a.balance;
	END IF;
	RETURN es.append('account', id, 'Deposited', jsonb_build_object('amount', -amount),
		expected_version => es.current_version('account', id));
END $$;
SELECT withdraw('42', 60), withdraw('42', 60);
SELECT pg_temp.try('SELECT withdraw(''42'', 60)');

-- A prepared query goes with the function, the type and the projection.
PREPARE load AS SELECT es.load(NULL::account, 'account', '42');
EXECUTE load;
CREATE OR REPLACE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'AccountOpened' THEN ROW(event.aggregate_id, upper(event.data->>'owner'), 0)::account
	ELSE state END;
EXECUTE load;
SELECT rows FROM es.replay('account', apply => 'account_v2');
EXECUTE load;
DO $$
BEGIN
	FOR i IN 1..2 LOOP
		EXECUTE format('CREATE OR REPLACE FUNCTION account_v2(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE AS
			''SELECT ROW(event.aggregate_id, ''''v%s'''', event.version)::account''', i);
		RAISE WARNING '%', es.load(NULL::account, 'account', '42');
	END LOOP;
END $$;
SELECT es.drop_projection('account');
SELECT pg_temp.try('EXECUTE load');

-- Columns that are dropped, added, generated; quoted names.
CREATE SCHEMA "Load Me";
CREATE TABLE "Load Me"."The State" (gone int, "Id" text PRIMARY KEY, n bigint, "Twice" bigint GENERATED ALWAYS AS (n * 2) STORED,
	gone_too text, label text GENERATED ALWAYS AS (upper("Id") || coalesce(n, -1)) STORED);
ALTER TABLE "Load Me"."The State" DROP COLUMN gone, DROP COLUMN gone_too;
CREATE FUNCTION "Load Me"."Apply It"(state "Load Me"."The State", event es.events) RETURNS "Load Me"."The State" LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	-- generated columns are not seen
	state."Id" := event.aggregate_id;
	state.n := coalesce(state.n, 0) + 1 + coalesce(state."Twice", 0);
	state."Twice" := 1000;
	RETURN state;
END $$;
SELECT es.create_projection('Quoted', '"Load Me"."The State"', '"Load Me"."Apply It"', aggregate_types => '{account}');
SELECT es.load(NULL::"Load Me"."The State", 'account', '42');
SELECT es.load(NULL::"Load Me"."The State", 'account', '42', '"Load Me"."Apply It"', as_of_version => 1);
SELECT es.load(ROW('x', 5, 7, 'x')::"Load Me"."The State", 'account', 'none');
SELECT es.load(s, 'account', "Id", as_of_version => 1) FROM "Load Me"."The State" AS s WHERE "Id" = '42';
SELECT count(*), count(*) FILTER (WHERE s = es.load(NULL::"Load Me"."The State", 'account', "Id")) FROM "Load Me"."The State" AS s;
ALTER TABLE "Load Me"."The State" ADD COLUMN note text DEFAULT 'none';
SELECT es.load(NULL::"Load Me"."The State", 'account', '42');
SELECT (es.load(s, 'account', 'none')).note FROM "Load Me"."The State" AS s WHERE "Id" = '42';
DROP SCHEMA "Load Me" CASCADE;

-- Rights: SELECT on es.events, EXECUTE on the function; row-level security.
CREATE ROLE regress_es_reader;
CREATE ROLE regress_es_owner;
GRANT USAGE ON SCHEMA es TO regress_es_reader, regress_es_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_reader, regress_es_owner;
CREATE SCHEMA vault;
GRANT USAGE ON SCHEMA vault TO regress_es_reader, regress_es_owner;
CREATE TABLE vault.state (id text PRIMARY KEY, who text, zone text, n bigint);
CREATE TABLE vault.secret AS SELECT 'the owner reads it' AS text;
CREATE FUNCTION vault.apply(state vault.state, event es.events) RETURNS vault.state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, current_user::text, (event.occurred_at - event.occurred_at + '2026-07-01 00:00+00'::timestamptz)::text, coalesce(state.n, 0) + 1);
END $$;
ALTER TABLE vault.state OWNER TO regress_es_owner;
ALTER TABLE vault.secret OWNER TO regress_es_owner;
SET TimeZone = 'UTC';
SELECT es.create_projection('vault', 'vault.state', 'vault.apply', aggregate_types => '{account}');
RESET TimeZone;
-- Without a name the function runs as the owner, under his settings; with one as the caller.
SELECT es.load(NULL::vault.state, 'account', '42') = s AS same, s.zone FROM vault.state AS s WHERE id = '42';
SELECT (es.load(NULL::vault.state, 'account', '42')).who AS owner, (es.load(NULL::vault.state, 'account', '42', 'vault.apply')).who = current_user AS caller;
SET ROLE regress_es_reader;
SELECT pg_temp.try('SELECT es.load(NULL::vault.state, ''account'', ''42'')');
RESET ROLE;
GRANT SELECT (aggregate_id, version) ON es.events TO regress_es_reader;
SET ROLE regress_es_reader;
SELECT pg_temp.try('SELECT es.load(NULL::vault.state, ''account'', ''42'')');
RESET ROLE;
GRANT SELECT ON es.events TO regress_es_reader;
SET ROLE regress_es_reader;
SELECT es.load(NULL::vault.state, 'account', '42');
SET TimeZone = 'Asia/Tokyo';
SELECT (es.load(NULL::vault.state, 'account', '42')).zone AS owners, (es.load(NULL::vault.state, 'account', '42', 'vault.apply')).zone AS callers;
SHOW TimeZone;
RESET TimeZone;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION vault.apply FROM public;
GRANT EXECUTE ON FUNCTION vault.apply TO regress_es_owner;
SET ROLE regress_es_reader;
SELECT pg_temp.try('SELECT es.load(NULL::vault.state, ''account'', ''42'')');
SELECT pg_temp.try('SELECT es.load(NULL::vault.state, ''account'', ''42'', ''vault.apply'')');
RESET ROLE;
GRANT EXECUTE ON FUNCTION vault.apply TO public;
REVOKE EXECUTE ON FUNCTION vault.apply FROM regress_es_owner;
-- The owner's code has the owner's rights, and no others; a function that is named has the caller's.
CREATE OR REPLACE FUNCTION vault.apply(state vault.state, event es.events) RETURNS vault.state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, current_user::text, (SELECT text FROM vault.secret), event.version);
END $$;
SET ROLE regress_es_reader;
SELECT (es.load(NULL::vault.state, 'account', '42')).zone;
SELECT pg_temp.try('SELECT es.load(NULL::vault.state, ''account'', ''42'', ''vault.apply'')');
RESET ROLE;
ALTER TABLE vault.secret OWNER TO CURRENT_USER;
SELECT pg_temp.try('SELECT es.load(NULL::vault.state, ''account'', ''42'')');
CREATE OR REPLACE FUNCTION vault.apply(state vault.state, event es.events) RETURNS vault.state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM set_config('role', 'none', true);
	RETURN state;
END $$;
SELECT left(pg_temp.try('SELECT es.load(NULL::vault.state, ''account'', ''42'')'), 31);
-- One call site in the hands of two roles.
CREATE FUNCTION pg_temp.site() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	l vault.state := es.load(NULL::vault.state, 'account', '42', 'vault.apply');
BEGIN
	RETURN l.who;
END $$;
CREATE OR REPLACE FUNCTION vault.apply(state vault.state, event es.events) RETURNS vault.state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, current_user::text, NULL::text, event.version);
END $$;
REVOKE EXECUTE ON FUNCTION vault.apply FROM public;
BEGIN;
SELECT pg_temp.site() = current_user;
GRANT EXECUTE ON FUNCTION vault.apply TO regress_es_owner;
GRANT SELECT ON es.events TO regress_es_owner;
SELECT pg_temp.site() = current_user;
SET LOCAL ROLE regress_es_owner;
SELECT pg_temp.try('SELECT pg_temp.site()');
SET LOCAL ROLE regress_es_reader;
SELECT pg_temp.try('SELECT pg_temp.site()');
ROLLBACK;
-- Generated columns have the rights of the table's owner.
CREATE FUNCTION vault.who(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN current_user; END';
CREATE TABLE vault.computed (id text PRIMARY KEY, who text GENERATED ALWAYS AS (vault.who(id)) STORED);
ALTER TABLE vault.computed OWNER TO regress_es_owner;
CREATE FUNCTION vault.computed_apply(state vault.computed, event es.events) RETURNS vault.computed LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, NULL)::vault.computed;
SELECT es.load(NULL::vault.computed, 'account', '42', 'vault.computed_apply');
-- Row-level security of the log is the caller's.
ALTER TABLE es.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON es.events FOR SELECT TO regress_es_reader USING (data->>'amount' IS DISTINCT FROM '20');
SET ROLE regress_es_reader;
SELECT es.load(NULL::activity, 'account', '42', 'activity_apply') = ROW((SELECT count(*) FROM es.events WHERE aggregate_type = 'account'
	AND aggregate_id = '42' AND event_type = 'Deposited'), es.current_version('account', '42'), 'account/42')::activity AS same,
	(es.load(NULL::activity, 'account', '42', 'activity_apply')).deposits;
RESET ROLE;
SELECT (es.load(NULL::activity, 'account', '42', 'activity_apply')).deposits;
SET ROLE regress_es_reader;
SELECT (es.load(NULL::activity, 'account', '42', 'activity_apply')).deposits;
RESET ROLE;
DROP POLICY mine ON es.events;
ALTER TABLE es.events DISABLE ROW LEVEL SECURITY;
DROP SCHEMA vault CASCADE;
DROP OWNED BY regress_es_reader, regress_es_owner;
DROP ROLE regress_es_reader, regress_es_owner;

-- Large states and events; more events than work_mem holds.
SET work_mem = '64kB';
CREATE TABLE big (id text PRIMARY KEY, n int, words text);
CREATE FUNCTION big_apply(state big, event es.events) RETURNS big LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1, md5(coalesce(state.words, '')) || (event.data->>'words'))::big;
SELECT es.create_projection('big', 'big', 'big_apply', aggregate_types => '{big}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'big', 'b', 'E', jsonb_build_object('words', (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 200) AS j))
FROM generate_series(1, 300) AS i;
SELECT n, length(words), big = es.load(NULL::big, 'big', 'b') AS same FROM big;
SELECT count(*), count(DISTINCT words) FROM (SELECT (es.load(NULL::big, 'big', 'b', as_of_version => v)).words FROM generate_series(1, 300, 20) AS v) AS w;
RESET work_mem;

-- The table of an async projection comes to the same later.
CREATE TABLE later (id text PRIMARY KEY, events bigint);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1)::later;
SELECT es.create_projection('later', 'later', 'later_apply', aggregate_types => '{account}', mode => 'async');
SELECT es.append('account', '45', 'Noted');
SELECT l, es.load(NULL::later, 'account', '45') FROM later AS l WHERE id = '45';
SELECT es.run_projections('later') > 0 AS run;
SELECT l, es.load(NULL::later, 'account', '45') FROM later AS l WHERE id = '45';
DROP TABLE later CASCADE;

-- Many aggregates; the index is used and not the whole log read.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', 'm' || i % 2000, 'Deposited', '{"amount": 1}' FROM generate_series(1, 6000) AS i;
SELECT count(*), sum((l).deposits), min((l).last_version), max((l).last_version)
FROM (SELECT es.load(NULL::activity, 'account', 'm' || i, 'activity_apply') AS l FROM generate_series(0, 1999) AS i OFFSET 0) AS x;

DROP TABLE account, opened, big CASCADE;
DROP TYPE activity CASCADE;
DROP FUNCTION withdraw;
DROP EXTENSION pg_eventsourcing CASCADE;
