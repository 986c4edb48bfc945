-- es.append(), es.append_events() and es.append_batch().

CREATE EXTENSION pg_eventsourcing;

-- Runs a statement and tells how it fails.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; detail text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN code || ': ' || message || coalesce(' | ' || nullif(detail, ''), '');
END $$;

-- One event, its defaults and all its members.
SELECT es.append('account', '1', 'Opened');
SELECT es.append('account', '1', 'Deposited', '{"amount": 100}', '{"user": "ada"}', 1,
				 '00000000-0000-0000-0000-00000000000a', 'request 1', 'command 1', 'web',
				 '2026-01-02 03:04:05+00', 2);
SELECT position, version, event_type, source, correlation_id, causation_id, data, metadata, schema_version,
	   occurred_at = recorded_at AS same_time, occurred_at = '2026-01-02 03:04:05+00' AS given_time,
	   event_id = '00000000-0000-0000-0000-00000000000a' AS given_id,
	   recorded_at BETWEEN now() - interval '1 minute' AND now() + interval '1 minute' AS now
FROM es.events ORDER BY position;

-- Data may be any JSON value.
SELECT es.append('values', '1', 'Any', data) FROM unnest('{1,"\"text\"",null,"[1, 2]"}'::text[]) AS d (t), LATERAL (SELECT coalesce(t, 'null')::jsonb) AS j (data);
SELECT data FROM es.events WHERE aggregate_type = 'values' ORDER BY version;

-- Type and id together make the aggregate, whatever they are made of.
SELECT es.append('ab', 'c', 'X'), es.append('a', 'bc', 'X'), es.append('a', 'b c', 'X'), es.append('ä"''\', E'\n', 'X'), es.append('A', 'BC', 'X');

-- Expected versions.
SELECT pg_temp.try($$SELECT es.append('account', '1', 'X', expected_version => 1)$$);
SELECT pg_temp.try($$SELECT es.append('account', '1', 'X', expected_version => 3)$$);
SELECT pg_temp.try($$SELECT es.append('account', '1', 'X', expected_version => 0)$$);
SELECT pg_temp.try($$SELECT es.append('account', '2', 'X', expected_version => -1)$$);
SELECT pg_temp.try($$SELECT es.append('account', '2', 'X', expected_version => 1)$$);
SELECT es.append('account', '1', 'X', expected_version => -1);
SELECT es.append('account', '1', 'X', expected_version => 3);
SELECT es.append('account', '2', 'X', expected_version => 0);
SELECT es.append('account', '2', 'X', expected_version => NULL);

-- A retry returns the original's version and stores nothing, whatever version it expects.
SELECT es.append('retry', '1', 'A', '{"n": 1}', expected_version => 0, event_id => '00000000-0000-0000-0000-000000000001');
SELECT es.append('retry', '1', 'B');
SELECT es.append('retry', '1', 'A', '{"n": 1}', expected_version => 0, event_id => '00000000-0000-0000-0000-000000000001');
SELECT es.append('retry', '1', 'A', '{"n": 1.0}', '{"other": "metadata"}', event_id => '00000000-0000-0000-0000-000000000001');
SELECT pg_temp.try($$SELECT es.append('retry', '1', 'A', '{"n": 2}', event_id => '00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.try($$SELECT es.append('retry', '1', 'B', '{"n": 1}', event_id => '00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.try($$SELECT es.append('retry', '2', 'A', '{"n": 1}', event_id => '00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.try($$SELECT es.append('retri', '1', 'A', '{"n": 1}', event_id => '00000000-0000-0000-0000-000000000001')$$);
SELECT version, event_type FROM es.events WHERE aggregate_type LIKE 'retr%' ORDER BY position;

-- Twice in one statement, and after a rollback the id is free again.
SELECT es.append('retry', '3', 'A', event_id => '00000000-0000-0000-0000-000000000003'),
	   es.append('retry', '3', 'A', event_id => '00000000-0000-0000-0000-000000000003');
BEGIN;
SELECT es.append('retry', '4', 'A', event_id => '00000000-0000-0000-0000-000000000004');
ROLLBACK;
SELECT es.append('retry', '5', 'B', event_id => '00000000-0000-0000-0000-000000000004');

-- Several events of one aggregate.
SELECT position - min(position) OVER () AS nth, version, event_id IS NOT NULL AS id
FROM es.append_events('order', '1',
	'[{"event_type": "Placed", "data": {"lines": [{"sku": "a"}, {"sku": "b"}]}, "metadata": {"m": [1]}},
	  {"event_type": "Paid", "data": null, "metadata": null, "event_id": null, "occurred_at": null,
	   "schema_version": null, "correlation_id": null, "causation_id": null, "source": null},
	  {"event_type": "Shipped", "event_id": "00000000-0000-0000-0000-000000000010", "occurred_at": "2026-01-02T03:04:05Z",
	   "schema_version": 7, "correlation_id": "c2", "causation_id": "k2", "source": "s2"}]',
	0, 'c1', 'k1', 's1');
SELECT version, event_type, data, metadata, schema_version, correlation_id, causation_id, source,
	   occurred_at = '2026-01-02 03:04:05Z' AS given_time
FROM es.events WHERE aggregate_type = 'order' ORDER BY version;
SELECT pg_temp.try($$SELECT * FROM es.append_events('order', '1', '[{"event_type": "X"}]', 2)$$);
SELECT version FROM es.append_events('order', '1', '[{"event_type": "X"}]', 3);

-- All or nothing: the second of three is wrong.
SELECT pg_temp.try($$SELECT * FROM es.append_events('order', '2', '[{"event_type": "X"}, {"event_type": ""}, {"event_type": "X"}]')$$);
SELECT es.current_version('order', '2');

-- A retry of several is recognised as a whole.
CREATE TEMP TABLE first_try AS
SELECT * FROM es.append_events('order', '3',
	'[{"event_type": "A", "event_id": "00000000-0000-0000-0000-000000000021"},
	  {"event_type": "B", "event_id": "00000000-0000-0000-0000-000000000022", "data": {"b": 1}}]', 0);
SELECT count(*) AS same
FROM first_try NATURAL JOIN es.append_events('order', '3',
	'[{"event_type": "A", "event_id": "00000000-0000-0000-0000-000000000021"},
	  {"event_type": "B", "event_id": "00000000-0000-0000-0000-000000000022", "data": {"b": 1}}]', 0);
SELECT es.current_version('order', '3');
SELECT pg_temp.try($$SELECT * FROM es.append_events('order', '3',
	'[{"event_type": "A", "event_id": "00000000-0000-0000-0000-000000000021"}, {"event_type": "C"}]')$$);
SELECT pg_temp.try($$SELECT * FROM es.append_events('order', '3',
	'[{"event_type": "C"}, {"event_type": "A", "event_id": "00000000-0000-0000-0000-000000000021"}]')$$);
SELECT pg_temp.try($$SELECT * FROM es.append_events('order', '3',
	'[{"event_type": "B", "event_id": "00000000-0000-0000-0000-000000000022", "data": {"b": 1}},
	  {"event_type": "A", "event_id": "00000000-0000-0000-0000-000000000021"}]')$$);
SELECT pg_temp.try($$SELECT * FROM es.append_events('order', '3',
	'[{"event_type": "A", "event_id": "00000000-0000-0000-0000-000000000021"},
	  {"event_type": "B", "event_id": "00000000-0000-0000-0000-000000000022", "data": {"b": 2}}]')$$);
SELECT pg_temp.try($$SELECT * FROM es.append_events('order', '3',
	'[{"event_type": "C", "event_id": "00000000-0000-0000-0000-000000000023"},
	  {"event_type": "C", "event_id": "00000000-0000-0000-0000-000000000023"}]')$$);
SELECT es.current_version('order', '3');

-- Events of any number of aggregates: positions and results in the given order.
SELECT row_number() OVER (ORDER BY position) AS nth, aggregate_type, aggregate_id, version
FROM es.append_batch(
	'[{"aggregate_type": "t", "aggregate_id": "b", "event_type": "X", "expected_version": 0},
	  {"aggregate_type": "t", "aggregate_id": "a", "event_type": "X", "expected_version": null},
	  {"aggregate_type": "t", "aggregate_id": "b", "event_type": "Y"},
	  {"aggregate_type": "s", "aggregate_id": "a", "event_type": "X"}]');
SELECT aggregate_type, aggregate_id, version
FROM es.append_batch('[{"aggregate_type": "t", "aggregate_id": "b", "event_type": "Z", "expected_version": 2},
					   {"aggregate_type": "t", "aggregate_id": "a", "event_type": "Z", "expected_version": -1}]');
SELECT pg_temp.try($$SELECT * FROM es.append_batch(
	'[{"aggregate_type": "t", "aggregate_id": "c", "event_type": "X", "expected_version": 0},
	  {"aggregate_type": "t", "aggregate_id": "b", "event_type": "X", "expected_version": 2}]')$$);
SELECT pg_temp.try($$SELECT * FROM es.append_batch(
	'[{"aggregate_type": "t", "aggregate_id": "c", "event_type": "X", "expected_version": 0},
	  {"aggregate_type": "t", "aggregate_id": "c", "event_type": "X", "expected_version": 2}]')$$);
SELECT pg_temp.try($$SELECT * FROM es.append_batch(
	'[{"aggregate_type": "t", "aggregate_id": "c", "event_type": "X"},
	  {"aggregate_type": "t", "aggregate_id": "c", "event_type": "X", "expected_version": 1}]')$$);
SELECT es.current_version('t', 'c');
BEGIN;
SELECT aggregate_id, version
FROM es.append_batch(
	'[{"aggregate_type": "t", "aggregate_id": "c", "event_type": "X", "expected_version": 0},
	  {"aggregate_type": "t", "aggregate_id": "b", "event_type": "X", "expected_version": -1},
	  {"aggregate_type": "t", "aggregate_id": "c", "event_type": "X", "expected_version": 0},
	  {"aggregate_type": "t", "aggregate_id": "b", "event_type": "X", "expected_version": -1},
	  {"aggregate_type": "t", "aggregate_id": "c", "event_type": "X", "expected_version": 2}]');
ROLLBACK;

-- A batch retried: the originals; a part of it: an error.
CREATE TEMP TABLE first_batch AS
SELECT * FROM es.append_batch(
	'[{"aggregate_type": "u", "aggregate_id": "2", "event_type": "X", "event_id": "00000000-0000-0000-0000-000000000031"},
	  {"aggregate_type": "u", "aggregate_id": "1", "event_type": "X", "event_id": "00000000-0000-0000-0000-000000000032"}]');
SELECT count(*) AS same FROM first_batch NATURAL JOIN es.append_batch(
	'[{"aggregate_type": "u", "aggregate_id": "2", "event_type": "X", "event_id": "00000000-0000-0000-0000-000000000031"},
	  {"aggregate_type": "u", "aggregate_id": "1", "event_type": "X", "event_id": "00000000-0000-0000-0000-000000000032"}]');
SELECT pg_temp.try($$SELECT * FROM es.append_batch(
	'[{"aggregate_type": "u", "aggregate_id": "2", "event_type": "X", "event_id": "00000000-0000-0000-0000-000000000031"},
	  {"aggregate_type": "u", "aggregate_id": "1", "event_type": "X", "event_id": "00000000-0000-0000-0000-000000000033"}]')$$);

-- Savepoints: versions go on without a gap, locks go with the rollback.
CREATE FUNCTION pg_temp.locks() RETURNS TABLE (kind text, n bigint) LANGUAGE sql AS $$
	SELECT CASE objsubid WHEN 7001 THEN 'aggregate' WHEN 7002 THEN 'event id' WHEN 7003 THEN 'in flight' END, count(*)
	FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() GROUP BY 1 ORDER BY 1
$$;
BEGIN;
SAVEPOINT s;
SELECT es.append('savepoint', '1', 'A');
SELECT * FROM pg_temp.locks();
SELECT es.high_water_mark() < (SELECT max(position) FROM es.events) AS held_back;
ROLLBACK TO s;
SELECT * FROM pg_temp.locks();
SELECT es.append('savepoint', '2', 'A', event_id => '00000000-0000-0000-0000-000000000041');
SELECT * FROM pg_temp.locks();
SAVEPOINT s2;
SELECT es.append('savepoint', '2', 'B');
ROLLBACK TO s2;
SELECT es.append('savepoint', '2', 'C');
RELEASE s2;
SELECT es.append('savepoint', '1', 'D');
SELECT * FROM pg_temp.locks();
SELECT es.high_water_mark() < (SELECT max(position) FROM es.events) AS held_back;
COMMIT;
SELECT * FROM pg_temp.locks();
SELECT es.high_water_mark() >= (SELECT max(position) FROM es.events) AS settled;
SELECT aggregate_id, version, event_type FROM es.events WHERE aggregate_type = 'savepoint' ORDER BY position;

-- Beyond es.max_aggregate_locks one lock more is held at a time.
SET es.max_aggregate_locks = 3;
BEGIN;
SELECT count(es.append('limit', n::text, 'X')) FROM generate_series(1, 20) AS n;
SELECT * FROM pg_temp.locks();
SELECT count(es.append('limit', n::text, 'X')) FROM generate_series(1, 20) AS n;
SAVEPOINT s;
SELECT count(es.append('limit', n::text, 'X', event_id => es.uuid_v7())) FROM generate_series(1, 20) AS n;
SELECT * FROM pg_temp.locks();
ROLLBACK TO s;
SELECT pg_advisory_unlock_all();
SELECT count(es.append('limit', n::text, 'X')) FROM generate_series(20, 1, -1) AS n;
COMMIT;
SELECT * FROM pg_temp.locks();
BEGIN;
SAVEPOINT s;
SELECT count(es.append('limit', n::text, 'X')) FROM generate_series(1, 20) AS n;
ROLLBACK TO s;
-- the rollback gave the count back; one lock at session level is left over
SELECT * FROM pg_temp.locks();
SELECT count(es.append('limit', n::text, 'X')) FROM generate_series(18, 20) AS n;
SELECT * FROM pg_temp.locks();
ROLLBACK;
SELECT * FROM pg_temp.locks();
SELECT count(*), min(version), max(version), count(DISTINCT aggregate_id) FROM es.events WHERE aggregate_type = 'limit';
SET es.max_aggregate_locks = 0;
SELECT count(*) FROM es.append_batch((SELECT jsonb_agg(jsonb_build_object(
	'aggregate_type', 'limit', 'aggregate_id', n::text, 'event_type', 'X')) FROM generate_series(1, 20) AS n));
RESET es.max_aggregate_locks;
SELECT * FROM pg_temp.locks();
SELECT count(*), min(version), max(version) FROM es.events WHERE aggregate_type = 'limit';

-- Triggers and constraints of the user's run as in an INSERT.
CREATE TABLE seen (what text, version bigint, n bigint);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.event_type = 'Suppressed' THEN
		RETURN NULL;
	END IF;
	IF NEW.event_type = 'Nested' THEN
		PERFORM es.append(NEW.aggregate_type, NEW.aggregate_id, 'Inner ' || TG_NAME);
		INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES (NEW.aggregate_type, 'inserted', 'Inner ' || TG_NAME);
	END IF;
	NEW.metadata := coalesce(NEW.metadata, '{}') || jsonb_build_object(TG_NAME, NEW.version);
	RETURN NEW;
END $$;
CREATE FUNCTION see_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen VALUES (TG_NAME || ' ' || NEW.event_type, NEW.version, (SELECT count(*) FROM es.events WHERE aggregate_type = 'trigger'));
	RETURN NULL;
END $$;
CREATE FUNCTION see_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_WHEN = 'BEFORE' THEN
		INSERT INTO seen VALUES (TG_NAME);
		RETURN NULL;
	END IF;
	INSERT INTO seen SELECT TG_NAME || ' ' || string_agg(event_type, ',' ORDER BY position), max(version), count(*) FROM new_events;
	RETURN NULL;
END $$;
CREATE TRIGGER a_stamp BEFORE INSERT ON es.events FOR EACH ROW WHEN (NEW.aggregate_type = 'trigger') EXECUTE FUNCTION stamp();
CREATE TRIGGER b_statement BEFORE INSERT ON es.events EXECUTE FUNCTION see_statement();
CREATE TRIGGER c_row AFTER INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION see_row();
CREATE CONSTRAINT TRIGGER d_deferred AFTER INSERT ON es.events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see_row();
CREATE TRIGGER e_statement AFTER INSERT ON es.events REFERENCING NEW TABLE AS new_events EXECUTE FUNCTION see_statement();
ALTER TABLE es.events ADD CONSTRAINT no_bad CHECK (event_type <> 'Bad');
SELECT es.append('trigger', '1', 'Good');
SELECT * FROM seen; TRUNCATE seen;
SELECT version FROM es.append_events('trigger', '1', '[{"event_type": "One"}, {"event_type": "Two"}, {"event_type": "Suppressed"}]');
SELECT * FROM seen; TRUNCATE seen;
SELECT es.append('trigger', '1', 'Suppressed') IS NULL AS suppressed;
SELECT pg_temp.try($$SELECT es.append('trigger', '1', 'Bad')$$) LIKE '23514: %' AS violates;
DROP TRIGGER b_statement ON es.events;
DROP TRIGGER c_row ON es.events;
DROP TRIGGER d_deferred ON es.events;
DROP TRIGGER e_statement ON es.events;
CREATE TRIGGER z_stamp BEFORE INSERT ON es.events FOR EACH ROW WHEN (NEW.aggregate_type = 'trigger' AND NEW.event_type <> 'Nested') EXECUTE FUNCTION stamp();
SELECT es.append('trigger', '1', 'Nested', expected_version => 4);
SELECT version FROM es.append_events('trigger', '1', '[{"event_type": "One"}, {"event_type": "Nested"}, {"event_type": "Suppressed"}, {"event_type": "Two"}]');
SELECT aggregate_id, version, event_type, metadata FROM es.events WHERE aggregate_type = 'trigger' ORDER BY position;
DROP TRIGGER a_stamp ON es.events;
DROP TRIGGER z_stamp ON es.events;
ALTER TABLE es.events DROP CONSTRAINT no_bad;
-- An error inside leaves nothing behind in the session.
SELECT pg_temp.try($$SELECT es.append('trigger', '1', 'X', expected_version => 99)$$) LIKE 'SE001%' AS refused;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('trigger', '1', 'After') RETURNING version;

-- From functions, prepared statements, many in one statement, exception blocks.
CREATE FUNCTION deposit(id text, amount int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v bigint := es.current_version('plpgsql', id);
BEGIN
	RETURN es.append('plpgsql', id, 'Deposited', jsonb_build_object('amount', amount), expected_version => v);
END $$;
SELECT deposit('1', 10), deposit('1', 20), deposit('1', 30);
PREPARE p AS SELECT es.append('prepared', $1, 'X');
DO $$
BEGIN
	FOR i IN 1 .. 10 LOOP
		BEGIN
			PERFORM deposit('2', i);
			IF i % 3 = 0 THEN
				RAISE division_by_zero;
			END IF;
		EXCEPTION WHEN division_by_zero THEN
		END;
	END LOOP;
END $$;
SELECT version, data FROM es.read_aggregate('plpgsql', '2');
EXECUTE p('1');
EXECUTE p('1');
DEALLOCATE p;
SELECT count(*), max(v) FROM (SELECT es.append('many', '1', 'X') AS v FROM generate_series(1, 1000)) AS s;
SELECT (es.append_events('select list', '1', '[{"event_type": "A"}, {"event_type": "B"}]')).version;

-- UUID version 7.
SELECT bool_and(substr(id, 15, 1) = '7' AND substr(id, 20, 1) IN ('8', '9', 'a', 'b')) AS form,
	   bool_and(lag < id) IS NOT FALSE AS increasing, count(DISTINCT id),
	   bool_and(to_timestamp(('x' || lpad(replace(left(id, 13), '-', ''), 16, '0'))::bit(64)::bigint / 1000.0)
				BETWEEN now() - interval '1 minute' AND now() + interval '1 minute') AS time
FROM (SELECT id, lag(id) OVER (ORDER BY n) FROM (SELECT n, es.uuid_v7()::text AS id FROM generate_series(1, 10000) AS n) AS g) AS u;
SELECT bool_and(substr(event_id::text, 15, 1) = '7') AS version_7 FROM es.events WHERE aggregate_type = 'many';

-- Versions have no gap and positions follow them, in every aggregate.
SELECT count(*) AS wrong FROM (
	SELECT version - row_number() OVER w AS gap, position - lag(position) OVER w AS step
	FROM es.events WINDOW w AS (PARTITION BY aggregate_type, aggregate_id ORDER BY version)) AS e
WHERE gap <> 0 OR step <= 0;

SET client_min_messages = warning;
DROP EXTENSION pg_eventsourcing CASCADE;
DROP TABLE seen;
DROP FUNCTION stamp, see_row, see_statement, deposit;
