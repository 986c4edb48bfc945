-- es.verify_projection(): the rows of a state table that the log does not give.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

CREATE TABLE account (gone int, id text PRIMARY KEY, owner text, balance numeric NOT NULL,
	twice numeric GENERATED ALWAYS AS (balance * 2) STORED, seen text[], note text DEFAULT 'none');
ALTER TABLE account DROP COLUMN gone;
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Opened' THEN
		RETURN ROW(event.aggregate_id, event.data->>'owner', 0::numeric, NULL::numeric, '{}'::text[], NULL::text);
	ELSIF event.event_type = 'Closed' THEN
		RETURN NULL;
	END IF;
	state.balance := state.balance + (event.data->>'amount')::numeric;
	state.seen := state.seen || event.event_type;
	RETURN state;
END $$;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
SELECT * FROM es.verify_projection('account');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', n % 100, CASE WHEN n < 100 THEN 'Opened' WHEN n % 97 = 0 THEN 'Closed' ELSE 'Deposited' END,
	jsonb_build_object('owner', n, 'amount', n)
FROM generate_series(0, 299) AS n WHERE n NOT IN (291, 294);
SELECT * FROM es.verify_projection('account');
SELECT * FROM es.verify_projection(projection => 'account', apply => NULL);
BEGIN;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT * FROM es.verify_projection('account');
ROLLBACK;
SELECT * FROM es.verify_projection('account');

-- A damaged table: values, a null, a row too many, a row too few.  What looks
-- the same is the same.
ALTER TABLE account DISABLE TRIGGER es_protect;
UPDATE account SET balance = 0 WHERE id = '1';
UPDATE account SET owner = NULL WHERE id = '2';
UPDATE account SET note = '' WHERE id = '3';
UPDATE account SET seen = seen || NULL::text WHERE id = '4';
UPDATE account SET balance = balance + 0.0 WHERE id = '5';
DELETE FROM account WHERE id = '6';
INSERT INTO account (id, balance) VALUES ('stranger', 1);
UPDATE account SET balance = balance, owner = owner || '', seen = seen || '{}' WHERE id > '7';
SELECT * FROM es.verify_projection('account') ORDER BY key COLLATE "C";
SET es.replay_memory = '64kB';
SELECT key FROM es.verify_projection('account') ORDER BY key COLLATE "C";
RESET es.replay_memory;
-- Only told by whoever looks: a view of the damage, and its repair.
CREATE TEMP VIEW damage AS SELECT key, (expected->>'balance')::numeric - (actual->>'balance')::numeric AS lost FROM es.verify_projection('account');
SELECT * FROM damage WHERE lost <> 0;
SELECT rows FROM es.replay('account');
SELECT * FROM es.verify_projection('account');
DROP VIEW damage;

-- The same transaction sees the table and the log as they are now, whatever its
-- isolation level, and whatever it has done.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM account;
SELECT es.append('account', 'new', 'Opened');
SELECT rows FROM es.replay('account');
SELECT * FROM es.verify_projection('account');
DELETE FROM account WHERE id = 'new';
SELECT * FROM es.verify_projection('account');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM es.verify_projection('account');
COMMIT;

-- Another function: what it would change.  A row it adds, one it removes.
CREATE SCHEMA "Lab";
CREATE FUNCTION "Lab".new_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' AND event.aggregate_id = '94' THEN
		RETURN state;
	ELSIF event.event_type = 'Opened' AND event.aggregate_id = '7' THEN
		RETURN NULL;
	ELSIF event.aggregate_id = '7' THEN
		RETURN state;
	END IF;
	state := account_apply(state, event);
	IF event.aggregate_id = '8' THEN
		state.note := 'eight';
	END IF;
	RETURN state;
END $$;
SELECT * FROM es.verify_projection('account', apply => '"Lab".new_apply') ORDER BY key COLLATE "C";
SELECT * FROM es.verify_projection('account', '"Lab".new_apply(account, es.events)') AS v (k, a, e) WHERE k = '8';
CREATE TEMP TABLE preview AS SELECT * FROM es.verify_projection('account', '"Lab".new_apply');
CREATE TEMP TABLE old AS TABLE account;
BEGIN;
SELECT rows FROM es.replay('account', apply => '"Lab".new_apply');
SELECT coalesce(o.id, n.id) AS id FROM old AS o FULL JOIN account AS n USING (id) WHERE o IS DISTINCT FROM n EXCEPT SELECT key FROM preview;
SELECT * FROM es.verify_projection('account');
ROLLBACK;
SELECT apply FROM es.projections;
CREATE FUNCTION wrong_key_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state.id := 'one';
	state.balance := 1;
	RETURN state;
END $$;
SELECT regexp_replace(pg_temp.try('SELECT es.verify_projection(''account'', ''wrong_key_apply'')'), 'the key \(\d+\)', 'the key (…)');
CREATE FUNCTION failing_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE EXCEPTION 'no';
END $$;
SELECT regexp_replace(pg_temp.try('SELECT es.verify_projection(''account'', ''failing_apply'')'), '(position|event id) [-0-9a-f]+', '\1 …', 'g');
SELECT pg_temp.try('SELECT es.verify_projection(''account'', ''missing'')') LIKE 'SE007: %';

-- A disabled projection is as it was; enabled again, it has what it had missed.
SELECT es.alter_projection('account', enabled => false);
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT * FROM es.verify_projection('account');
SELECT es.alter_projection('account', enabled => true);
SELECT * FROM es.verify_projection('account');
-- An async one is what it has got to, without the events it has put aside.
SELECT es.alter_projection('account', mode => 'async', on_error => 'park');
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT es.append('account', '1', 'Deposited', '{"amount": "much"}');
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT * FROM es.verify_projection('account');
SELECT es.run_projections('account', max_events => 2);
SELECT * FROM es.verify_projection('account');
SELECT es.run_projections('account');
SELECT * FROM es.verify_projection('account');
SELECT count(*) FROM es.parked_events;
CREATE FUNCTION much_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.data->>'amount' = 'much' THEN
		state.note := 'much';
		RETURN state;
	END IF;
	RETURN account_apply(state, event);
END $$;
SELECT key, actual->'note' AS actual, expected->'note' AS expected FROM es.verify_projection('account', apply => 'much_apply');
SELECT es.discard_parked('account');
SELECT regexp_replace(pg_temp.try('SELECT es.verify_projection(''account'')'), '(position|event id) [-0-9a-f]+', '\1 …', 'g');

-- Composite keys, types of all kinds, rows in pages of their own.
CREATE TYPE pair AS (a text, b numeric);
CREATE TABLE wide ("Key" numeric, day date, j jsonb, p pair, r int4range, b bytea, ts timestamptz, big text, f float8, e inet, PRIMARY KEY ("Key", day));
CREATE FUNCTION wide_apply(state wide, event es.events) RETURNS wide LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'k')::numeric, (event.data->>'d')::date, event.data, ROW(event.event_type, 1.50)::pair, int4range(1, event.version::int, '[]'),
	'\xdeadbeef'::bytea, '2026-01-01 00:00+00'::timestamptz, repeat(event.event_type, 10000), 'NaN'::float8, '10.0.0.1'::inet)::wide;
SET DateStyle = 'ISO';
SELECT es.create_projection('wide', 'wide', 'wide_apply', key => '(data->>''k'')::numeric, (data->>''d'')::date', aggregate_types => '{wide}');
RESET DateStyle;
SELECT es.append('wide', '1', 'X', '{"k": 1.0, "d": "2026-02-01"}');
SELECT es.append('wide', '1', 'Y', '{"k": 1.00, "d": "2026-02-01"}');
SELECT es.append('wide', '2', 'a "quoted", one', '{"k": 1.00, "d": "2026-02-02"}');
SELECT * FROM es.verify_projection('wide');
UPDATE wide SET f = 0;
ALTER TABLE wide DISABLE TRIGGER es_protect;
UPDATE wide SET f = 0, big = NULL;
SELECT key, actual - 'big' AS actual, expected - 'big' AS expected FROM es.verify_projection('wide') ORDER BY key;
SET DateStyle = 'ISO';
SELECT key FROM es.verify_projection('wide') ORDER BY key;
RESET DateStyle;

-- Other kinds; names; rights.
CREATE TABLE kept (id text PRIMARY KEY, n int);
SELECT es.create_projection('kept', 'kept');
SELECT pg_temp.try('SELECT es.verify_projection(''kept'')');
SELECT pg_temp.try('SELECT es.verify_projection(''missing'')');
SELECT pg_temp.try('SELECT es.verify_projection(NULL)');
CREATE ROLE regress_es_analyst;
GRANT USAGE ON SCHEMA es TO regress_es_analyst;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_analyst;
GRANT SELECT ON es.events TO regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.verify_projection(''wide'')');
RESET ROLE;
GRANT SELECT ON wide TO regress_es_analyst;
REVOKE SELECT ON es.events FROM regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.verify_projection(''wide'')');
RESET ROLE;
GRANT SELECT ON es.events TO regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT count(*) FROM es.verify_projection('wide');
SELECT pg_temp.try('SELECT es.verify_projection(''wide'', apply => ''wide_apply'')');
RESET ROLE;
ALTER TABLE wide ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.verify_projection(''wide'')');
RESET ROLE;

DROP OWNED BY regress_es_analyst;
DROP ROLE regress_es_analyst;
DROP SCHEMA "Lab" CASCADE;
DROP TABLE account, wide, kept CASCADE;
DROP TYPE pair CASCADE;
DROP EXTENSION pg_eventsourcing CASCADE;
