-- es.replay() with parallel workers: the same rows and the same errors, however
-- many of them there are.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

-- Replays with each number of workers, and counts the rows that differ from
-- those that were there.
CREATE FUNCTION pg_temp.replay_all(name text, target regclass, apply text DEFAULT NULL)
RETURNS TABLE (workers int, events bigint, rows bigint, last boolean, differing bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TEMP TABLE before AS SELECT t::text AS row FROM %s AS t', target);
	FOREACH workers IN ARRAY '{0,1,2,5}'::int[] LOOP
		SELECT r.events, r.rows, r.up_to_position = (SELECT max(position) FROM es.events)
		INTO events, rows, last FROM es.replay(name, apply, parallel_workers => workers) AS r;
		EXECUTE format('SELECT count(*) FROM ((SELECT row FROM before EXCEPT ALL SELECT t::text FROM %1$s AS t)
			UNION ALL (SELECT t::text FROM %1$s AS t EXCEPT ALL SELECT row FROM before)) AS d', target) INTO differing;
		RETURN NEXT;
	END LOOP;
	DROP TABLE before;
END $$;

-- Tries the same, and tells how it fails, without the events' ids.
CREATE FUNCTION pg_temp.fail_all(name text, target regclass, apply text)
RETURNS TABLE (workers int, error text, differing bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TEMP TABLE before AS SELECT t::text AS row FROM %s AS t', target);
	FOREACH workers IN ARRAY '{0,1,2,5}'::int[] LOOP
		error := regexp_replace(pg_temp.try(format('SELECT es.replay(%L, %L, parallel_workers => %s)', name, apply, workers)),
			'position.*', '');
		EXECUTE format('SELECT count(*) FROM (SELECT row FROM before EXCEPT ALL SELECT t::text FROM %s AS t) AS d', target) INTO differing;
		RETURN NEXT;
	END LOOP;
	DROP TABLE before;
END $$;

SHOW es.replay_workers;

-- An empty log, few events, none for the projection.
CREATE TABLE account (id text PRIMARY KEY, balance numeric NOT NULL, doubled numeric GENERATED ALWAYS AS (balance * 2) STORED,
	events bigint DEFAULT 7, last text, CHECK (balance < 1000000));
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Closed' THEN NULL ELSE
	ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric, NULL::numeric,
		coalesce(state.events, 0) + 1, event.data->>'note')::account END;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
SELECT events, rows, up_to_position FROM es.replay('account', parallel_workers => 2);
SELECT es.append('other', '1', 'Noted');
SELECT * FROM pg_temp.replay_all('account', 'account');
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT * FROM pg_temp.replay_all('account', 'account');

-- Many events; rows that go; rows that are toasted.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT CASE WHEN n % 11 = 0 THEN 'other' ELSE 'account' END, n % 577, CASE WHEN n % 89 = 0 THEN 'Closed' ELSE 'Deposited' END,
	jsonb_build_object('amount', n, 'note', CASE WHEN n % 577 = 7 THEN (SELECT string_agg(md5(i::text), '') FROM generate_series(n, n + 2000) AS i) END)
FROM generate_series(1, 8000) AS n;
SELECT count(*), sum(balance), sum(doubled), sum(events), max(length(last)) FROM account;
SELECT * FROM pg_temp.replay_all('account', 'account');
SELECT * FROM pg_temp.check_projections('account');
-- The states of a slice don't fit into memory.
SET es.replay_memory = '300kB';
SELECT * FROM pg_temp.replay_all('account', 'account');
RESET es.replay_memory;

-- The setting, which a small log overrules, and an argument that it does not.
SET es.replay_workers = 0;
SELECT rows FROM es.replay('account');
SELECT rows FROM es.replay('account', parallel_workers => 2);
SET es.replay_workers = 3;
SET min_parallel_table_scan_size = 0;
SELECT rows FROM es.replay('account');
SET max_parallel_workers = 0;
SELECT rows FROM es.replay('account');
SELECT rows FROM es.replay('account', parallel_workers => 2);
RESET max_parallel_workers;
SELECT rows FROM es.replay('account', parallel_workers => 100000);
RESET min_parallel_table_scan_size;
RESET es.replay_workers;
SELECT pg_temp.try('SET es.replay_workers = -1') LIKE '22023%', pg_temp.try('SET es.replay_workers = 1025') LIKE '22023%';

-- With another function; one that fails; one whose rows the table refuses.
CREATE FUNCTION generous_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	state := account_apply(state, event);
	IF state.id IS NOT NULL THEN
		state.balance := state.balance + 0.5;
	END IF;
	RETURN state;
END $$;
SELECT sum(balance) AS sum FROM account \gset
SELECT rows FROM es.replay('account', apply => 'generous_apply', parallel_workers => 2);
SELECT sum(balance) - :sum > 1 AS more FROM account;
SELECT * FROM pg_temp.check_projections('account');
SELECT * FROM pg_temp.replay_all('account', 'account', 'generous_apply');
CREATE FUNCTION failing_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	IF event.aggregate_id IN ('300', '301') AND event.version = 3 THEN
		RAISE EXCEPTION 'the third of %', event.aggregate_id USING DETAIL = 'A detail.', HINT = 'A hint.';
	END IF;
	RETURN account_apply(state, event);
END $$;
SELECT * FROM pg_temp.fail_all('account', 'account', 'failing_apply');
CREATE FUNCTION refused_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, CASE event.aggregate_id WHEN '5' THEN 1000000 ELSE 1 END, NULL::numeric, 1, 'refused')::account;
SELECT * FROM pg_temp.fail_all('account', 'account', 'refused_apply');
CREATE FUNCTION confused_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(CASE event.aggregate_id WHEN '5' THEN '6' ELSE event.aggregate_id END, 1, NULL::numeric, 1, 'confused')::account;
SELECT * FROM pg_temp.fail_all('account', 'account', 'confused_apply');
-- What a worker can't do, whatever the function says of itself, the session can.
CREATE FUNCTION lying_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	BEGIN
		RETURN account_apply(state, event);
	EXCEPTION WHEN division_by_zero THEN
		RETURN NULL;
	END;
END $$;
SELECT rows FROM es.replay('account', apply => 'account_apply', parallel_workers => 2);
SELECT * FROM pg_temp.replay_all('account', 'account', 'lying_apply');
CREATE FUNCTION unsafe_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN lying_apply(state, event);
END $$;
SELECT * FROM pg_temp.replay_all('account', 'account', 'unsafe_apply');
-- A constraint whose function is not safe.
CREATE FUNCTION is_fine(balance numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	BEGIN
		RETURN balance > -1000;
	EXCEPTION WHEN division_by_zero THEN
		RETURN false;
	END;
END $$;
ALTER TABLE account ADD CONSTRAINT fine CHECK (is_fine(balance));
SELECT * FROM pg_temp.replay_all('account', 'account', 'account_apply');
ALTER FUNCTION is_fine PARALLEL SAFE;
SELECT * FROM pg_temp.replay_all('account', 'account', 'account_apply');

-- All that it needs has just been created; events of the own transaction; as
-- the owner, in another schema, with other settings.
CREATE ROLE regress_es_owner;
GRANT USAGE ON SCHEMA es TO regress_es_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_owner;
GRANT SELECT, INSERT ON es.events TO regress_es_owner;
CREATE SCHEMA "a schema" AUTHORIZATION regress_es_owner;
SET min_parallel_table_scan_size = 0;
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, occurred_at, data)
SELECT 'day', n % 30, 'Counted', '2024-01-01 23:30 UTC'::timestamptz + n * interval '1 day', jsonb_build_object('currency', chr(65 + n % 5))
FROM generate_series(1, 1000) AS n;
SAVEPOINT s;
SET LOCAL ROLE regress_es_owner;
SET LOCAL search_path = "a schema";
SET LOCAL TimeZone = 'Asia/Tokyo';
CREATE DOMAIN day AS date;
CREATE TABLE "per day" (currency varchar(10) COLLATE "C", day date, n bigint, PRIMARY KEY (day, currency));
CREATE FUNCTION apply(state "per day", event es.events) RETURNS "per day" LANGUAGE sql IMMUTABLE
RETURN ROW(event.data->>'currency', ((event.occurred_at AT TIME ZONE 'Asia/Tokyo'))::date, coalesce(state.n, 0) + 1)::"per day";
SELECT es.create_projection('per "day"', '"per day"', 'apply', key => '(occurred_at)::date, data->>''currency''', aggregate_types => '{day}');
RESET ROLE;
SET LOCAL TimeZone = 'UTC';
SELECT count(*), sum(n), min(day) FROM "per day";
SELECT * FROM pg_temp.replay_all('per "day"', '"per day"');
ROLLBACK TO s;
ROLLBACK;
BEGIN;
CREATE TABLE fresh (id text PRIMARY KEY, n bigint);
CREATE FUNCTION fresh_apply(state fresh, event es.events) RETURNS fresh LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::fresh;
CREATE FUNCTION fresh_apply_2(state fresh, event es.events) RETURNS fresh LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 2);
END $$;
SELECT es.create_projection('fresh', 'fresh', 'fresh_apply', aggregate_types => '{account}');
SELECT es.append('account', 'new', 'Deposited', '{"amount": 1}');
SELECT sum(n) AS sum FROM fresh \gset
SELECT rows FROM es.replay('fresh', apply => 'fresh_apply_2', parallel_workers => 2);
SELECT es.append('account', 'new', 'Deposited', '{"amount": 1}');
SELECT sum(n) - 2 * :sum AS one_more FROM fresh;
SELECT * FROM pg_temp.replay_all('fresh', 'fresh');
COMMIT;
SELECT * FROM pg_temp.check_projections('fresh');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM pg_temp.replay_all('fresh', 'fresh');
SELECT es.append('account', 'new', 'Deposited', '{"amount": 1}');
COMMIT;
DROP TABLE fresh CASCADE;
RESET min_parallel_table_scan_size;
DROP SCHEMA "a schema" CASCADE;
REVOKE ALL ON SCHEMA es FROM regress_es_owner;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA es FROM regress_es_owner;
REVOKE ALL ON es.events FROM regress_es_owner;
DROP ROLE regress_es_owner;

-- A key of several columns, types that are the same when they look different, partitions.
CREATE TABLE per_key (number numeric, name text COLLATE "C", n bigint, log text, PRIMARY KEY (name, number)) PARTITION BY LIST (name);
CREATE TABLE per_key_a PARTITION OF per_key FOR VALUES IN ('a');
CREATE TABLE per_key_b (log text, n bigint, name text COLLATE "C" NOT NULL, number numeric NOT NULL);
ALTER TABLE per_key ATTACH PARTITION per_key_b FOR VALUES IN ('b');
CREATE TABLE per_key_c PARTITION OF per_key FOR VALUES IN ('c');
CREATE FUNCTION per_key_apply(state per_key, event es.events) RETURNS per_key LANGUAGE sql IMMUTABLE
RETURN ROW(coalesce(state.number, (event.data->>'number')::numeric), event.data->>'name', coalesce(state.n, 0) + 1,
	right(concat(state.log, ' ', event.version), 20))::per_key;
SELECT es.create_projection('per_key', 'per_key', 'per_key_apply', key => 'data->>''name'', (data->>''number'')::numeric', aggregate_types => '{keys}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'keys', n % 20, 'Counted', jsonb_build_object('name', chr(97 + n % 2), 'number', (n % 300 || '.' || repeat('0', n % 3))::text)
FROM generate_series(1, 3000) AS n;
SELECT tableoid::regclass, count(*), sum(n) FROM per_key GROUP BY 1 ORDER BY 1;
SELECT * FROM pg_temp.replay_all('per_key', 'per_key');
SELECT * FROM pg_temp.check_projections('per_key');

-- Events whose place in es.events is not in the order of their positions.
CREATE TABLE chain (id text PRIMARY KEY, version bigint, hash text);
CREATE FUNCTION chain_apply(state chain, event es.events) RETURNS chain LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	IF event.version <> coalesce(state.version, 0) + 1 THEN
		RAISE EXCEPTION 'version % after %', event.version, state.version;
	END IF;
	RETURN ROW(event.aggregate_id, event.version, md5(concat(state.hash, event.position)));
END $$;
CREATE TABLE chains (number int PRIMARY KEY, n bigint, hash text);
CREATE FUNCTION chains_apply(state chains, event es.events) RETURNS chains LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id::int % 3, coalesce(state.n, 0) + 1, md5(concat(state.hash, event.position)))::chains;
SELECT es.create_projection('chain', 'chain', 'chain_apply', aggregate_types => '{chain}');
SELECT es.create_projection('chains', 'chains', 'chains_apply', key => 'aggregate_id::int % 3', aggregate_types => '{chain}');
ALTER TABLE es.events SET (autovacuum_enabled = off);
BEGIN;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'chain', i % 10, 'X' FROM generate_series(1, 3000) AS i;
ROLLBACK;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'chain', i % 10, 'X' FROM generate_series(1, 200) AS i;
VACUUM es.events;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'chain', i % 12, 'X' FROM generate_series(1, 1000) AS i;
SELECT bool_or(a.ctid < b.ctid) AS misordered FROM es.events AS a JOIN es.events AS b ON a.position > b.position AND a.aggregate_type = 'chain'
	AND b.aggregate_type = 'chain' AND a.aggregate_id = b.aggregate_id;
SELECT * FROM pg_temp.replay_all('chain', 'chain');
SELECT * FROM pg_temp.replay_all('chains', 'chains');
SELECT * FROM pg_temp.check_projections('chain%');

-- It says that it is replaying, in workers, too.
CREATE TABLE mode (id text PRIMARY KEY, replaying boolean);
CREATE FUNCTION mode_apply(state mode, event es.events) RETURNS mode LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, es.is_replaying());
END $$;
SELECT es.create_projection('mode', 'mode', 'mode_apply', aggregate_types => '{account}', populate => false);
SELECT replaying, count(*) FROM mode GROUP BY 1;
SELECT rows FROM es.replay('mode', parallel_workers => 2);
SELECT replaying, count(*) FROM mode GROUP BY 1;
SELECT es.is_replaying();

-- Nothing is left beside the tables.
SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%';

DROP TABLE account, per_key, chain, chains, mode CASCADE;
DROP FUNCTION is_fine;
DROP EXTENSION pg_eventsourcing;
