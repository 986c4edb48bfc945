-- Subscriptions: fetch under a lease, ack, nack, parked events, playback, seek.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = notice;

-- What a fetch returns, without what differs from run to run.
CREATE FUNCTION take(name text, max_count integer DEFAULT 100, consumer text DEFAULT NULL,
	lease interval DEFAULT '1 hour')
RETURNS TABLE (lease_id bigint, p integer, attempt integer, replayed boolean, pos bigint, event text)
LANGUAGE sql VOLATILE
AS $$ SELECT f.lease_id, f.partition, f.attempt, f.replayed, f.position,
             f.aggregate_type || ' ' || f.aggregate_id || ' ' || f.version || ' ' || f.event_type
        FROM es.fetch(name, max_count, consumer, lease) AS f $$;
CREATE VIEW state AS
SELECT name, partition AS p, kind, checkpoint, up_to, lag, consumer, lease_id, attempts, last_error,
       last_error_position AS at, parked
  FROM es.subscription_streams ORDER BY name, partition, kind;
CREATE VIEW parked AS
SELECT subscription, position, event_type, aggregate_id, version, reason, attempts, replayed
  FROM es.parked_events ORDER BY 1, 2, replayed;
-- The lease that is held on a subscription.
CREATE FUNCTION held(name text) RETURNS bigint LANGUAGE sql
AS $$ SELECT max(s.lease_id) FROM es.subscription_streams AS s WHERE s.name = held.name $$;

SELECT es.append('account', a, t, source => s)
  FROM (VALUES ('a', 'Opened', 'web'), ('b', 'Opened', 'web'), ('a', 'Deposited', 'bank'),
               ('c', 'Opened', NULL), ('a', 'Deposited', 'bank'), ('b', 'Closed', 'web')) AS v (a, t, s);
SELECT es.append('other', 'a', 'Opened');

-- One partition, one consumer after the other.
SELECT es.create_subscription('s');
TABLE state;
SELECT * FROM take('s', 3, 'c1');
SELECT * FROM take('s', 3, 'c2');
TABLE state;
SELECT es.ack(held('s'));
TABLE state;
SELECT * FROM take('s', 3, 'c2');
SELECT es.ack(held('s'), 4);
TABLE state;
SELECT es.ack(held('s'), 4), es.ack(held('s'), 1);
SELECT es.ack(held('s'), 100);
SELECT es.extend_lease(held('s'), '2 hours');
SELECT lease_until > now() + '110 minutes' AS extended FROM es.subscriptions WHERE name = 's';
SELECT es.ack(held('s'), 6);
SELECT * FROM take('s');
SELECT es.ack(held('s'));
SELECT * FROM take('s');
TABLE state;

-- All columns of es.events come along, flat and in their order.
SELECT array_agg(a.attname::text ORDER BY a.attnum) = (
	SELECT proargnames[9:] FROM pg_proc WHERE oid = 'es.fetch'::regproc) AS same
  FROM pg_attribute AS a WHERE a.attrelid = 'es.events'::regclass AND a.attnum > 0;
SELECT es.append('account', 'c', 'Deposited', '{"amount": 1}', '{"by": "Ada"}', correlation_id => 'r1',
	causation_id => 'e1', source => 'web', schema_version => 2);
SELECT f.position, f.version, f.recorded_at = e.recorded_at AND f.occurred_at = e.occurred_at
       AND f.event_id = e.event_id AS same, f.schema_version, f.aggregate_type, f.aggregate_id, f.event_type, f.source,
       f.correlation_id, f.causation_id, f.data, f.metadata
  FROM es.fetch('s') AS f JOIN es.events AS e ON e.position = f.position;
-- A lease that is lost or not held.
SELECT es.ack(held('s'));
SELECT es.ack((1::bigint << 32) + 4);
SELECT es.ack(0), es.nack(-1, 1);
-- All of a lease is acknowledged once more only where that was done.
SELECT es.create_subscription('rows');
SELECT es.ack(lease_id) FROM es.fetch('rows', 3);
SELECT es.ack(lease_id, position) FROM (SELECT * FROM es.fetch('rows', 3) ORDER BY position DESC) AS f;
SELECT lease_id AS rows FROM es.fetch('rows', 1) \gset
BEGIN;
SELECT es.ack(:rows);
SELECT es.ack(:rows), es.ack(:rows, 0);
SELECT es.ack(:rows, 1000);
ROLLBACK;
BEGIN;
SELECT es.ack(:rows);
SELECT es.nack(:rows, 7);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT es.ack(:rows);
ROLLBACK TO s;
SELECT es.nack(:rows, (SELECT min(position) FROM es.events WHERE position > (SELECT checkpoint FROM es.subscriptions WHERE name = 'rows')));
SELECT es.ack(:rows);
ROLLBACK;
SELECT es.ack(:rows);
SELECT es.ack(:rows);
SELECT es.drop_subscription('rows');
SELECT es.extend_lease(9223372036854775807);
SELECT es.nack(1, 1);

-- Whose lease has run out loses it when another one takes over, not before.
SELECT es.append('account', 'a', 'Deposited');
SELECT * FROM take('s', 10, 'slow', '1 microsecond');
SELECT held('s') AS slow \gset
SELECT es.extend_lease(:slow, '1 microsecond');
SELECT * FROM take('s', 10, 'next');
SELECT es.ack(:slow);
SELECT es.nack(:slow, 9);
SELECT es.extend_lease(:slow);
SELECT es.ack(held('s'));
-- In one transaction with the work: exactly once.
CREATE TABLE done (pos bigint PRIMARY KEY);
SELECT es.append('account', 'a', 'Deposited');
BEGIN;
INSERT INTO done SELECT pos FROM take('s');
SELECT es.ack(held('s'));
ROLLBACK;
BEGIN;
INSERT INTO done SELECT pos FROM take('s');
SELECT es.ack(held('s'));
COMMIT;
TABLE done;
SELECT * FROM take('s');
-- What the own transaction has appended is not settled before it commits.
BEGIN;
SELECT es.append('account', 'a', 'Deposited');
SELECT * FROM take('s');
COMMIT;
SELECT * FROM take('s');
SELECT es.ack(held('s'));

-- Failing: attempts are counted, in the end the event is put aside.
SELECT es.create_subscription('f', event_types => '{Opened, Closed}', max_attempts => 3);
SELECT * FROM take('f', 4);
SELECT es.nack(held('f'), 2, 'no');
SELECT es.nack(held('f'), 2, 'no');
TABLE state;
SELECT * FROM take('f', 4);
SELECT es.nack(held('f'), 3, 'not mine');
SELECT es.nack(held('f'), 7, 'not fetched');
SELECT es.nack(held('f'), 0, 'nothing');
SELECT es.ack(held('f'), 1);
SELECT es.nack(held('f'), 2, 'no more');
SELECT * FROM take('f', 2);
SELECT es.nack(held('f'), 2, 'no');
SELECT * FROM take('f', 2);
SELECT es.nack(held('f'), 2, 'enough');
TABLE parked;
TABLE state;
SELECT * FROM take('f');
-- At once, if the consumer says so.
SELECT es.nack(held('f'), 6, 'never', park => true);
SELECT * FROM take('f');
SELECT es.ack(held('f'));
SELECT * FROM take('f');
TABLE parked;
TABLE state;
-- Once more: it comes beside the others, and can fail again.
SELECT es.retry_parked('f', 2);
SELECT es.retry_parked('f', 2);
TABLE parked;
SELECT es.append('account', 'd', 'Opened');
TABLE state;
SELECT * FROM take('f');
SELECT * FROM take('f');
TABLE state;
SELECT es.nack(lease_id, 2, 'again') FROM state WHERE name = 'f' AND kind = 'retry';
SELECT * FROM take('f');
SELECT es.nack(lease_id, 2, 'for ever', true) FROM state WHERE name = 'f' AND kind = 'retry';
TABLE parked;
SELECT es.retry_parked('f');
SELECT * FROM take('f');
SELECT es.ack(lease_id, 2) FROM state WHERE name = 'f' AND kind = 'retry';
SELECT es.retry_parked('f');
SELECT * FROM take('f');
SELECT es.nack(lease_id, 6, 'no', true) FROM state WHERE name = 'f' AND kind = 'retry';
SELECT es.discard_parked('f', 2);
SELECT es.discard_parked('f', 0);
SELECT es.discard_parked('f', 6);
SELECT es.discard_parked('f');
SELECT es.ack(held('f'));
TABLE parked;
TABLE state;
-- Leases that run out again and again are for fewer and fewer events, and then
-- it is clear which one is to blame.
SELECT es.create_subscription('poison', max_attempts => 4);
SELECT attempt, count(*), min(pos), max(pos) FROM take('poison', 8, lease => '1 us') GROUP BY 1;
SELECT attempt, count(*), min(pos), max(pos) FROM take('poison', 8, lease => '1 us') GROUP BY 1;
SELECT attempt, count(*), min(pos), max(pos) FROM take('poison', 8, lease => '1 us') GROUP BY 1;
SELECT attempt, count(*), min(pos), max(pos) FROM take('poison', 8, lease => '1 us') GROUP BY 1;
SELECT attempt, count(*), min(pos), max(pos) FROM take('poison', 8) GROUP BY 1 ORDER BY 1;
SELECT * FROM parked WHERE subscription = 'poison';
SELECT es.ack(held('poison'));
SELECT es.retry_parked('poison');
SELECT count(*) FROM take('poison', 8, lease => '1 us');
SELECT * FROM take('poison', 100);
SELECT es.drop_subscription('poison');

-- Later events of the aggregate wait for the one that is put aside, others don't.
SELECT es.create_subscription('w', aggregate_types => '{account}', after_park => 'wait');
SELECT * FROM take('w', 3);
SELECT es.nack(held('w'), 1, 'a is ill', true);
SELECT * FROM take('w', 3);
SELECT es.ack(held('w'));
SELECT * FROM take('w');
SELECT es.ack(held('w'));
SELECT * FROM take('w');
SELECT es.append('account', 'a', 'Later');
SELECT * FROM take('w');
SELECT * FROM parked WHERE subscription = 'w';
SELECT es.retry_parked('w');
SELECT es.append('account', 'a', 'Latest');
SELECT es.append('account', 'e', 'Opened');
SELECT * FROM take('w', 3);
SELECT * FROM take('w');
SELECT es.ack(lease_id) FROM state WHERE name = 'w' AND lease_id IS NOT NULL;
SELECT * FROM take('w');
SELECT es.ack(lease_id) FROM state WHERE name = 'w' AND lease_id IS NOT NULL;
SELECT * FROM take('w');
SELECT count(*) FROM es.subscription_parked WHERE subscription = 'w';
SELECT * FROM state WHERE name = 'w';
-- Also where a later one is put aside, and told to be retried, before the earlier one is done.
SELECT es.seek('w', 0);
SELECT * FROM take('w', 3);
SELECT es.nack(held('w'), 3, 'a is ill again', true);
SELECT es.retry_parked('w', 3);
SELECT * FROM take('w', 2);
SELECT * FROM take('w', 2);
SELECT es.ack(held('w'));
SELECT * FROM take('w', 2);
SELECT es.ack(held('w'));
SELECT es.drop_subscription('w');

-- Playback: marked as replayed, beside the live events.
SELECT es.playback('f', after_position => 3);
-- The view of subscriptions has what is live, whatever else is going on.
SELECT partition, kind FROM es.subscription_streams WHERE name = 'f';
SELECT partition, checkpoint, lag FROM es.subscriptions WHERE name = 'f';
SELECT es.append('account', 'f', 'Opened');
SELECT * FROM state WHERE name = 'f';
SELECT * FROM take('f', 2);
SELECT * FROM take('f', 2);
SELECT es.ack(lease_id) FROM state WHERE name = 'f' AND lease_id IS NOT NULL;
SELECT * FROM state WHERE name = 'f';
SELECT * FROM take('f', 1);
SELECT es.nack(held('f'), 7, 'not again', true);
SELECT * FROM take('f');
SELECT es.ack(held('f'));
SELECT * FROM state WHERE name = 'f';
TABLE parked;
SELECT es.retry_parked('f');
SELECT * FROM take('f');
SELECT es.ack(held('f'));
SELECT es.playback('f', 0, 6, '{account, other}', '{a, b}', '{Opened, Deposited}');
SELECT * FROM take('f');
SELECT es.ack(held('f'));
SELECT es.playback('f', 100), es.playback('f', 5, 4), es.playback('f', event_types => '{Deposited}'),
       es.playback('f', aggregate_ids => '{zzz}');
SELECT es.playback('f', -5, 9223372036854775807, aggregate_ids => '{f}');
SELECT * FROM take('f');

-- Seek.
SELECT es.create_subscription('m', sources => '{bank}', start_after => NULL);
SELECT * FROM take('m');
SELECT es.seek('m', 0);
SELECT * FROM take('m', 1);
SELECT held('m') AS old \gset
SELECT es.seek('m', 3);
SELECT es.ack(:old);
SELECT * FROM take('m');
SELECT es.seek('m', NULL);
SELECT * FROM take('m');
SELECT lag FROM state WHERE name = 'm';

-- Partitions: the events of an aggregate are in one of them, in order.
SELECT es.create_subscription('p', partitions => 4);
SELECT count(es.append('x', 'x' || i % 20, 'E')) FROM generate_series(1, 200) AS i;
DO $$
DECLARE
	lease bigint;
BEGIN
	CREATE TABLE seen (n serial, lease_id bigint, partition integer, position bigint, aggregate_type text,
		aggregate_id text, version bigint);
	LOOP
		INSERT INTO seen (lease_id, partition, position, aggregate_type, aggregate_id, version)
		SELECT f.lease_id, f.partition, f.position, f.aggregate_type, f.aggregate_id, f.version
		  FROM es.fetch('p', 7) AS f;
		EXIT WHEN NOT FOUND;
		FOR lease IN SELECT DISTINCT s.lease_id FROM es.subscription_streams AS s WHERE s.lease_id IS NOT NULL AND name = 'p' LOOP
			PERFORM es.ack(lease);
		END LOOP;
	END LOOP;
END $$;
SELECT count(*) = (SELECT count(*) FROM es.events) AS all, count(DISTINCT position) = count(*) AS once,
       count(DISTINCT partition) AS partitions FROM seen;
SELECT count(*) AS in_two FROM (SELECT FROM seen GROUP BY aggregate_type, aggregate_id HAVING count(DISTINCT partition) > 1) AS x;
SELECT count(*) AS disorder FROM (SELECT version, lag(version, 1, 0::bigint) OVER (PARTITION BY aggregate_type, aggregate_id ORDER BY n) AS before FROM seen) AS x
 WHERE version <> before + 1;
SELECT p, kind, checkpoint = (SELECT max(position) FROM es.events) AS at_end, lag, lease_id FROM state WHERE name = 'p';
-- Which one is fixed for ever, as the checkpoints depend on it.
SELECT DISTINCT partition, aggregate_id FROM seen WHERE aggregate_type = 'account' ORDER BY aggregate_id;
-- Two fetches get two partitions.
SELECT es.seek('p', 0);
SELECT count(DISTINCT partition) FROM (SELECT partition FROM es.fetch('p') UNION ALL SELECT partition FROM es.fetch('p')) AS x;

-- What is wrong.
SELECT es.create_subscription('s');
SELECT es.create_subscription(NULL);
SELECT es.create_subscription(' ');
SELECT es.create_subscription('x', '{}');
SELECT es.create_subscription('x', event_types => '{a, NULL}');
SELECT es.create_subscription('x', partitions => 0);
SELECT es.create_subscription('x', partitions => 1025);
SELECT es.create_subscription('x', max_attempts => 0);
SELECT es.create_subscription('x', after_park => 'never');
SELECT es.fetch('nobody');
SELECT es.fetch(NULL);
SELECT es.fetch('s', 0);
SELECT es.fetch('s', lease => '0');
SELECT es.fetch('s', lease => '-1 s');
SELECT count(*) FROM es.fetch('s', NULL, NULL, NULL, '-1 day');
SELECT es.ack(NULL);
SELECT es.nack(held('s'), NULL);
SELECT es.nack(NULL, 1);
SELECT es.extend_lease(held('s'), '-1 s');
SELECT es.seek('nobody', 1);
SELECT es.seek(NULL, 1);
SELECT es.playback('nobody');
SELECT es.playback('s', aggregate_types => '{}');
SELECT es.drop_subscription('nobody');
SELECT es.retry_parked('nobody');
SELECT es.discard_parked(NULL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM es.fetch('s');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT es.playback('s');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM es.fetch('s');
ROLLBACK;
BEGIN READ ONLY;
SELECT es.ack(1);
ROLLBACK;
-- An ack may be in a transaction that repeats its reads, if the lease is older.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es.ack(held('s'));
COMMIT;
SELECT * FROM state WHERE name = 's';

-- Whoever reads the log may consume; the owner manages.
CREATE ROLE regress_es_reader;
CREATE ROLE regress_es_nobody;
GRANT USAGE ON SCHEMA es TO regress_es_reader, regress_es_nobody;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_reader, regress_es_nobody;
GRANT SELECT ON es.events TO regress_es_reader;
SET ROLE regress_es_nobody;
SELECT es.fetch('s');
SELECT es.create_subscription('mine');
RESET ROLE;
SELECT es.append('account', 'z', 'Opened');
SET ROLE regress_es_reader;
SELECT count(*) FROM es.fetch('s', 1000);
SELECT count(*) FROM es.fetch('s', 1000);
SELECT es.seek('s', 0);
SELECT es.drop_subscription('s');
SELECT es.playback('s');
SELECT es.retry_parked('s');
SELECT es.create_subscription('mine', start_after => NULL);
SELECT es.seek('mine', 0);
SELECT count(*) FROM es.fetch('mine', 5);
RESET ROLE;
-- The owner is known by whatever name.
ALTER ROLE regress_es_reader RENAME TO regress_es_renamed;
CREATE ROLE regress_es_reader;
GRANT regress_es_reader TO regress_es_nobody;
SELECT DISTINCT owner FROM es.subscriptions WHERE name = 'mine';
SET ROLE regress_es_nobody;
SELECT es.drop_subscription('mine');
SET ROLE regress_es_renamed;
SELECT es.drop_subscription('mine');
RESET ROLE;
DROP ROLE regress_es_reader;
ALTER ROLE regress_es_renamed RENAME TO regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM es.subscription;
SELECT es.create_subscription('own');
RESET ROLE;
SELECT es.ack(held('s'));
-- But he must see all of it: the subscription would pass over what policies hide.
ALTER TABLE es.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY some_events ON es.events TO regress_es_reader USING (aggregate_id = 'z');
SELECT es.append('account', 'z', 'Closed');
SET ROLE regress_es_reader;
SELECT count(*) FROM es.read_all(0, NULL);
SELECT es.fetch('s');
SELECT es.create_subscription('mine');
SELECT es.playback('own');
RESET ROLE;
SELECT count(*) FROM es.fetch('s');
SELECT held('s') AS lease \gset
SET ROLE regress_es_reader;
SELECT es.ack(:lease);
RESET ROLE;
DROP POLICY some_events ON es.events;
ALTER TABLE es.events DISABLE ROW LEVEL SECURITY;

-- Numbers of partitions that there can't be, in the table itself.
UPDATE es.subscription SET partitions = -65536;
UPDATE es.subscription SET max_attempts = 0;
UPDATE es.subscription SET after_park = 'later';

-- Nobody is kept from what is his by who uses the name for something else.
CREATE TABLE own (id text PRIMARY KEY);
CREATE FUNCTION own_apply(state own, event es.events) RETURNS own LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id)::own;
ALTER TABLE own OWNER TO regress_es_nobody;
SELECT es.create_projection('own', 'own', 'own_apply', mode => 'async', on_error => 'park', populate => false);
SELECT es.grant_reader('regress_es_nobody');
SELECT es.create_subscription('other');
SET ROLE regress_es_nobody;
SELECT es.discard_parked('own');
SELECT es.discard_parked('other');
SET ROLE regress_es_reader;
SELECT es.discard_parked('own');
RESET ROLE;
ALTER TABLE own OWNER TO CURRENT_USER;
SET ROLE regress_es_nobody;
SELECT es.discard_parked('own');
RESET ROLE;
SELECT es.drop_projection('own');
DROP TABLE own CASCADE;

-- All gone with the subscription.
SELECT es.drop_subscription(name) FROM (SELECT DISTINCT name FROM es.subscriptions ORDER BY 1) AS x;
SELECT count(*) FROM es.subscription_stream;
SELECT count(*) FROM es.subscription_parked;
DROP VIEW state, parked;
DROP FUNCTION take, held;
DROP TABLE done, seen;
DROP OWNED BY regress_es_reader, regress_es_nobody;
DROP ROLE regress_es_reader, regress_es_nobody;
DROP EXTENSION pg_eventsourcing CASCADE;
