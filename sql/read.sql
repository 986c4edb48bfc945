-- Reading the log.

CREATE EXTENSION pg_eventsourcing;

CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
	RETURN code || ': ' || message;
END $$;

-- An empty log.
SELECT es.high_water_mark(), es.current_version('a', '1');
SELECT count(*) FROM es.read_all();
SELECT count(*) FROM es.aggregates();
SELECT count(*) FROM es.read_aggregate('a', '1');

INSERT INTO es.events (aggregate_type, aggregate_id, event_type, source, correlation_id)
SELECT (ARRAY['a', 'b', 'c'])[n % 3 + 1], (n % 5)::text, (ARRAY['X', 'Y'])[n % 2 + 1],
	   CASE WHEN n % 4 = 0 THEN 'web' WHEN n % 4 = 1 THEN 'app' END, 'request ' || n / 10
FROM generate_series(1, 60) AS n;

SELECT es.high_water_mark(), es.current_version('a', '1'), es.current_version('a', 'none'), es.current_version(NULL, '1');

-- One aggregate.
SELECT position, version FROM es.read_aggregate('a', '1');
SELECT version FROM es.read_aggregate('a', '1', 3);
SELECT version FROM es.read_aggregate('a', '1', 2, 2);
SELECT version FROM es.read_aggregate('a', '1', max_count => 2, backwards => true);
SELECT version FROM es.read_aggregate('a', '1', 3, backwards => true);
SELECT count(*) FROM es.read_aggregate('a', '1', max_count => 0);
SELECT count(*) FROM es.read_aggregate('a', '1', NULL, NULL, NULL);
SELECT count(*) FROM es.read_aggregate('a', 'none');
SELECT count(*) FROM es.read_aggregate(NULL, '1');
SELECT pg_temp.try($$SELECT * FROM es.read_aggregate('a', '1', max_count => -1)$$);
SELECT (es.read_aggregate('a', '1', 4)).version;

-- One request.
SELECT position FROM es.read_correlation('request 0');
SELECT count(*) FROM es.read_correlation('none');
SELECT count(*) FROM es.read_correlation(NULL);

-- The whole log.
SELECT count(*), min(position), max(position) FROM es.read_all();
SELECT array_agg(position) FROM es.read_all(0, 5);
SELECT array_agg(position) FROM es.read_all(57);
SELECT count(*) FROM es.read_all(60);
SELECT count(*) FROM es.read_all(1000);
SELECT count(*) FROM es.read_all(-1, NULL);
SELECT count(*) FROM es.read_all(NULL, 0);
SELECT pg_temp.try('SELECT * FROM es.read_all(0, -1)');
SELECT array_agg(position) FROM (SELECT (es.read_all(10, 3)).position) AS s;

-- Filters, against the same with plain SQL.
CREATE FUNCTION pg_temp.check(after bigint, n int, a text[], e text[], s text[]) RETURNS TABLE (read bigint, same boolean) LANGUAGE sql AS $$
	WITH r AS (SELECT array_agg(position) AS p, count(*) AS c FROM es.read_all(after, n, a, e, s)),
		 o AS (SELECT array_agg(position) AS p FROM (
				SELECT position FROM es.events
				WHERE position > after AND (a IS NULL OR aggregate_type = ANY (a)) AND (e IS NULL OR event_type = ANY (e))
				  AND (s IS NULL OR source = ANY (s))
				ORDER BY position LIMIT n) AS f)
	SELECT r.c, r.p IS NOT DISTINCT FROM o.p FROM r, o
$$;
SELECT n, a, e, s, c.*
FROM (VALUES (5), (NULL)) AS n (n),
	 (VALUES (NULL), ('{a}'::text[]), ('{b,a}')) AS a (a),
	 (VALUES (NULL), ('{X}'::text[]), ('{X,Y,X,none}')) AS e (e),
	 (VALUES (NULL), ('{web}'::text[]), ('{app,NULL,web}')) AS s (s),
	 LATERAL pg_temp.check(7, n, a, e, s) AS c;
SELECT * FROM pg_temp.check(0, 10, '{}', NULL, NULL), pg_temp.check(0, 10, NULL, '{none}', NULL) AS d, pg_temp.check(0, 10, NULL, '{NULL}', '{}') AS f;

-- Isolation levels that allow no fresh snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es.events;
SELECT pg_temp.try('SELECT * FROM es.read_all()');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT pg_temp.try('SELECT * FROM es.read_all()');
COMMIT;
BEGIN READ ONLY;
SELECT count(*) FROM es.read_all();
COMMIT;

-- Own events that are not committed hold the mark back, rolled-back ones do not.
BEGIN;
SELECT es.append('a', '1', 'X');
SELECT count(*), es.high_water_mark() FROM es.read_all(max_count => NULL);
ROLLBACK;
SELECT count(*), es.high_water_mark() FROM es.read_all(max_count => NULL);
SELECT es.append('a', '1', 'X');
SELECT position FROM es.read_all(60);

-- Aggregates.
SELECT aggregate_type, aggregate_id, version FROM es.aggregates();
SELECT aggregate_id, version FROM es.aggregates('b');
SELECT aggregate_id FROM es.aggregates('b', '2');
SELECT aggregate_id FROM es.aggregates('b', '2', 1);
SELECT aggregate_type, aggregate_id FROM es.aggregates(after_id => '3');
SELECT aggregate_type, aggregate_id FROM es.aggregates(max_count => 2);
SELECT count(*) FROM es.aggregates('none');
SELECT count(*) FROM es.aggregates('c', '9');
SELECT count(*) FROM es.aggregates() AS a
JOIN es.events AS e USING (aggregate_type, aggregate_id, version) WHERE a.last_recorded_at = e.recorded_at;
SELECT count(*) AS wrong FROM (
	SELECT aggregate_type, aggregate_id, version FROM es.aggregates()
	EXCEPT SELECT aggregate_type, aggregate_id, max(version) FROM es.events GROUP BY 1, 2) AS d;

-- Each way to read uses its index, before and after ANALYZE.
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text; used text[];
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		used := used || substring(line FROM '(?:using|Index Scan on) (events_\w+)') || substring(line FROM 'Seq Scan on events');
	END LOOP;
	RETURN (SELECT string_agg(DISTINCT u, ', ') FROM unnest(used) AS u);
END $$;
-- How many rows of the log a query reads.
CREATE FUNCTION pg_temp.rows_read(query text, OUT returned bigint, OUT read bigint) LANGUAGE plpgsql AS $$
BEGIN
	SELECT -seq_tup_read - idx_tup_fetch INTO read FROM pg_stat_xact_user_tables WHERE relid = 'es.events'::regclass;
	EXECUTE 'SELECT count(*) FROM (' || query || ') AS q' INTO returned;
	SELECT read + seq_tup_read + idx_tup_fetch INTO read FROM pg_stat_xact_user_tables WHERE relid = 'es.events'::regclass;
END $$;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, source, correlation_id)
SELECT CASE WHEN n > 9900 THEN 'rare' ELSE 'bulk' END, (n % 100)::text, CASE WHEN n > 9900 THEN 'Rare' ELSE 'Bulk ' || n % 2 END,
	   CASE WHEN n > 9900 THEN 'rare' ELSE 'bulk ' || n % 2 END, 'bulk ' || n / 10 FROM generate_series(1, 10000) AS n;
CREATE TEMP TABLE query (n serial, q text);
INSERT INTO query (q) VALUES
	('SELECT * FROM es.read_aggregate(''bulk'', ''5'', 3, 10)'),
	('SELECT * FROM es.read_aggregate(''bulk'', ''5'', 3, 10, true)'),
	('SELECT * FROM es.read_correlation(''bulk 5'')'),
	('SELECT * FROM es.aggregates()'),
	('SELECT * FROM es.aggregates(''bulk'', ''5'', 10)'),
	('SELECT * FROM es.read_all(0, 100)'),
	('SELECT * FROM es.read_all(0, 100, event_types => ''{Rare}'')'),
	('SELECT * FROM es.read_all(0, 100, event_types => ''{Bulk 0,Rare}'')'),
	('SELECT * FROM es.read_all(0, 100, aggregate_types => ''{rare}'')'),
	('SELECT * FROM es.read_all(0, 100, sources => ''{rare}'')'),
	('SELECT * FROM es.read_all(0, 100, sources => ''{none}'')');
SELECT q, pg_temp.plan(q), r.returned, r.read <= 2 * r.returned AS bounded FROM query, pg_temp.rows_read(q) AS r ORDER BY n;
ANALYZE es.events;
DISCARD PLANS;
SELECT q, pg_temp.plan(q), r.returned, r.read <= 2 * r.returned AS bounded FROM query, pg_temp.rows_read(q) AS r ORDER BY n;
SELECT * FROM pg_temp.check(5000, 100, NULL, '{Bulk 1,Rare}', NULL), pg_temp.check(5000, NULL, '{bulk}', NULL, '{bulk 1}') AS d;

-- A large result does not have to fit into memory.
SET work_mem = '64kB';
SELECT count(*), sum(position - lag) FROM (SELECT position, lag(position) OVER () AS lag FROM es.read_all(max_count => NULL)) AS r;
RESET work_mem;

SELECT es.version() ~ '^\d+\.\d+' AS version;
DROP EXTENSION pg_eventsourcing;
