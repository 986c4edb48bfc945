-- What a version leaves to its successors in the test of upgrades: projections
-- of all kinds and modes, some of them behind.  When a version is released, its
-- pg_dump of a database with this becomes test/upgrade/VERSION.sql.

CREATE EXTENSION pg_eventsourcing;
CREATE SCHEMA bank;

-- A fold, one row per aggregate.
CREATE TABLE bank.account (id text PRIMARY KEY, balance numeric NOT NULL);
CREATE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric)::bank.account;

-- An async fold that has put an event aside and is behind.
CREATE TABLE bank.later (LIKE bank.account INCLUDING ALL);
CREATE FUNCTION bank.later_apply(state bank.later, event es.events) RETURNS bank.later
LANGUAGE plpgsql IMMUTABLE AS
$$BEGIN RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric); END$$;

-- One that is disabled, and not protected.
CREATE TABLE bank.off (LIKE bank.account INCLUDING ALL);
CREATE FUNCTION bank.off_apply(state bank.off, event es.events) RETURNS bank.off
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric)::bank.off;

-- Rows of many aggregates, in partitions.
CREATE TABLE bank.by_hour (hour integer NOT NULL, currency text NOT NULL, n bigint NOT NULL, PRIMARY KEY (hour, currency))
	PARTITION BY RANGE (hour);
CREATE TABLE bank.by_hour_am PARTITION OF bank.by_hour FOR VALUES FROM (0) TO (12);
CREATE TABLE bank.by_hour_pm PARTITION OF bank.by_hour FOR VALUES FROM (12) TO (24);
CREATE FUNCTION bank.by_hour_apply(state bank.by_hour, event es.events) RETURNS bank.by_hour
LANGUAGE sql IMMUTABLE
RETURN ROW(extract(hour FROM event.occurred_at AT TIME ZONE 'UTC')::integer, event.source,
	coalesce(state.n, 0) + 1)::bank.by_hour;

-- Statements and a batch.
CREATE TABLE line (position bigint PRIMARY KEY, n numeric);
CREATE TABLE total (id text PRIMARY KEY, n numeric NOT NULL);

SELECT es.create_projection('account', 'bank.account', 'bank.account_apply', aggregate_types => '{account}');
SELECT es.create_projection('later', 'bank.later', 'bank.later_apply', mode => 'async', on_error => 'park');
SELECT es.create_projection('off', 'bank.off', 'bank.off_apply', aggregate_types => '{account}', protect => false);
SELECT es.create_projection('by hour', 'bank.by_hour', 'bank.by_hour_apply',
	key => $$extract(hour FROM occurred_at AT TIME ZONE 'UTC')::integer, source$$);
SELECT es.create_projection('line', 'line');
SELECT es.set_handler('line', 'Noted', 'INSERT INTO line VALUES (event.position, (event.data->>''n'')::numeric)');
SELECT es.set_handler('line', NULL, 'SELECT');
SELECT es.create_projection('total', 'total', mode => 'async', event_types => '{Noted}');
SELECT es.set_batch_handler('total', $$
	INSERT INTO total AS t SELECT aggregate_id, sum((data->>'n')::numeric) FROM events GROUP BY 1
	ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n$$);

SELECT es.append('account', (n % 7)::text, 'Noted', jsonb_build_object('n', n), '{"user": "ada"}',
	correlation_id => 'request ' || n / 3, causation_id => 'cause', source => CASE n % 3 WHEN 1 THEN 'EUR' WHEN 2 THEN 'USD' END,
	occurred_at => '2026-01-01'::timestamptz + n * interval '1 hour', schema_version => 2)
FROM generate_series(1, 60) AS n \g /dev/null
BEGIN;
SELECT es.append('account', '1', 'Lost', '{"n": 1}');
ROLLBACK;
SELECT es.alter_projection('off', enabled => false);
SELECT es.append('other "type"', E'1\t\\', 'Odd', '{"n": "many"}');
SELECT es.run_projections('later', 40);
SELECT es.run_projections('total');
SELECT es.run_projections('later');
SELECT es.append('account', '2', 'Noted', '{"n": 5}');
CREATE INDEX ON bank.account (balance);
