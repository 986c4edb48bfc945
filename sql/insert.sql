-- Plain INSERT and COPY obey the same rules as es.append().

CREATE EXTENSION pg_eventsourcing;

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

-- One row, many rows, several aggregates in one statement.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'Opened')
RETURNING position, version, data, schema_version, recorded_at = occurred_at AS same_time, substr(event_id::text, 15, 1) AS uuid_version;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
VALUES ('account', '1', 'Deposited', '{"n": 2}'), ('account', '2', 'Opened', '{}'), ('account', '1', 'Deposited', '{"n": 3}')
RETURNING position, aggregate_id, version;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type)
SELECT 'account', (n % 3)::text, 'X' FROM generate_series(1, 9) AS n;
WITH e AS (INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'Cte') RETURNING version)
SELECT es.append('account', '1', 'Main', data => to_jsonb(version)) > version AS higher FROM e;
SELECT aggregate_id, array_agg(version ORDER BY position) FROM es.events GROUP BY 1 ORDER BY 1;

-- A given version is an expectation.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, version) VALUES ('v', '1', 'X', 1), ('v', '1', 'X', 2), ('v', '1', 'X', NULL), ('v', '1', 'X', 4);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, version) VALUES ('v', '1', 'X', 4)$$);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, version) VALUES ('v', '1', 'X', 6)$$);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, version) VALUES ('v', '2', 'X', 2)$$);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, version) VALUES ('v', '1', 'X', 1)$$);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, version) VALUES ('v', '1', 'X', 0)$$);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, version) VALUES ('v', '1', 'X', -1)$$);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, position) VALUES ('v', '1', 'X', 1000)$$);
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, recorded_at) VALUES ('v', '1', 'X', now())$$);
SELECT es.current_version('v', '1'), es.current_version('v', '2');

-- A known event id: the same event is skipped, another one is an error.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, event_id) VALUES ('id', '1', 'A', '00000000-0000-0000-0000-000000000001') RETURNING version;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, event_id)
VALUES ('id', '1', 'B', NULL), ('id', '1', 'A', '00000000-0000-0000-0000-000000000001'), ('id', '1', 'C', '00000000-0000-0000-0000-000000000002'),
	   ('id', '1', 'C', '00000000-0000-0000-0000-000000000002') RETURNING version, event_type;
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type, event_id) VALUES ('id', '2', 'A', '00000000-0000-0000-0000-000000000001')$$);

-- ON CONFLICT.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('c', '1', 'A') ON CONFLICT DO NOTHING RETURNING version;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, event_id)
VALUES ('id', '1', 'A', '00000000-0000-0000-0000-000000000001') ON CONFLICT DO NOTHING RETURNING version;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, event_id)
VALUES ('c', '1', 'B', '00000000-0000-0000-0000-000000000003'), ('c', '1', 'B', '00000000-0000-0000-0000-000000000003')
ON CONFLICT (event_id) DO NOTHING RETURNING version;
SELECT pg_temp.try($$INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('c', '1', 'A') ON CONFLICT (event_id) DO UPDATE SET data = '{}'$$);

-- COPY.
COPY es.events (aggregate_type, aggregate_id, event_type, data, event_id, occurred_at) FROM stdin;
copy	1	A	{"n": 1}	\N	2020-01-01 00:00:00+00
copy	2	A	{}	00000000-0000-0000-0000-000000000011	2020-01-02 00:00:00+00
copy	1	B	{}	\N	\N
copy	2	A	{}	00000000-0000-0000-0000-000000000011	2020-01-02 00:00:00+00
id	1	A	{}	00000000-0000-0000-0000-000000000001	\N
\.
SELECT aggregate_id, version, event_type, data, occurred_at < '2020-02-01' AS given_time FROM es.events WHERE aggregate_type = 'copy' ORDER BY position;
\set VERBOSITY terse
COPY es.events (aggregate_type, aggregate_id, event_type, version) FROM stdin;
copy	3	A	1
copy	3	A	3
\.
COPY es.events (aggregate_type, aggregate_id, event_type, position) FROM stdin;
copy	3	A	1
\.
COPY es.events (aggregate_type, aggregate_id, event_type) FROM stdin;
copy	3	
\.
\set VERBOSITY default
SELECT es.current_version('copy', '3');

-- More aggregates in one transaction than it takes locks, each visited several times.
CREATE TEMP TABLE source AS SELECT (n * 7919) % 20000 AS id FROM generate_series(1, 50000) AS n;
BEGIN;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'bulk', id::text, 'X' FROM source;
SELECT count(*) BETWEEN 1000 AND 1002 AS bounded FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
COMMIT;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT count(*), count(DISTINCT aggregate_id), min(version), max(version) FROM es.events WHERE aggregate_type = 'bulk';

-- Restoring: the values are kept.  For the log's owner and superusers only.
CREATE ROLE regress_es_writer;
GRANT USAGE ON SCHEMA es TO regress_es_writer;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_writer;
GRANT SELECT, INSERT ON es.events TO regress_es_writer;
SET es.restore = on;
INSERT INTO es.events (position, version, recorded_at, occurred_at, event_id, aggregate_type, aggregate_id, event_type)
VALUES (-5, 17, '2001-01-01 00:00+00', '2000-01-01 00:00+00', '00000000-0000-0000-0000-0000000000aa', 'restored', '1', 'X');
SELECT pg_temp.try($$SELECT es.append('restored', '1', 'X')$$);
SELECT pg_temp.try($$INSERT INTO es.events (position, version, recorded_at, occurred_at, event_id, aggregate_type, aggregate_id, event_type)
VALUES (-4, 17, now(), now(), es.uuid_v7(), 'restored', '1', 'X')$$) LIKE '23505%' AS unique;
SET ROLE regress_es_writer;
SELECT pg_temp.try($$INSERT INTO es.events (position, version, recorded_at, occurred_at, event_id, aggregate_type, aggregate_id, event_type)
VALUES (-3, 18, now(), now(), es.uuid_v7(), 'restored', '1', 'X')$$);
SELECT es.append('restored', '1', 'X');
RESET ROLE;
RESET es.restore;
SELECT pg_temp.try($$INSERT INTO es.events (position, version, recorded_at, occurred_at, event_id, aggregate_type, aggregate_id, event_type)
VALUES (-3, 18, now(), now(), es.uuid_v7(), 'restored', '1', 'X')$$);
-- The marks of a dump, all three.
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SELECT es.append('restored', '1', 'X');
SET row_security = off;
INSERT INTO es.events (position, version, recorded_at, occurred_at, event_id, aggregate_type, aggregate_id, event_type)
VALUES (-3, 20, now(), now(), es.uuid_v7(), 'restored', '1', 'X');
SET ROLE regress_es_writer;
SELECT pg_temp.try($$INSERT INTO es.events (position, version, recorded_at, occurred_at, event_id, aggregate_type, aggregate_id, event_type)
VALUES (-2, 21, now(), now(), es.uuid_v7(), 'restored', '1', 'X')$$);
RESET ROLE;
RESET search_path;
RESET check_function_bodies;
RESET row_security;
SELECT es.append('restored', '1', 'X', expected_version => 20);
SELECT version, position < 0 AS given FROM es.events WHERE aggregate_type = 'restored' ORDER BY version;

SELECT count(*) AS wrong FROM (
	SELECT version - row_number() OVER w AS gap, position - lag(position) OVER w AS step
	FROM es.events WHERE aggregate_type <> 'restored'
	WINDOW w AS (PARTITION BY aggregate_type, aggregate_id ORDER BY version)) AS e
WHERE gap <> 0 OR step <= 0;

SET client_min_messages = warning;
DROP OWNED BY regress_es_writer;
DROP ROLE regress_es_writer;
DROP EXTENSION pg_eventsourcing CASCADE;
