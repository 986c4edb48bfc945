-- Everything that may not go into the log, through every entry point.

CREATE EXTENSION pg_eventsourcing;
SELECT es.append('account', '1', 'Opened');

CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; detail text; context text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, context = PG_EXCEPTION_CONTEXT;
	RETURN code || ': ' || message || coalesce(' | ' || nullif(detail, ''), '')
		|| coalesce(' | ' || substring(context FROM '^event \d+ of \d+'), '');
END $$;

-- Single events: arguments of es.append(), columns of INSERT.
CREATE TEMP TABLE bad (n serial, what text, a text, i text, e text, d text, s text);
INSERT INTO bad (what, a, i, e, d, s) VALUES
	('no type', 'NULL', '''1''', '''X''', '''{}''', '1'),
	('empty type', '''''', '''1''', '''X''', '''{}''', '1'),
	('no id', '''a''', 'NULL', '''X''', '''{}''', '1'),
	('empty id', '''a''', '''''', '''X''', '''{}''', '1'),
	('no event type', '''a''', '''1''', 'NULL', '''{}''', '1'),
	('empty event type', '''a''', '''1''', '''''', '''{}''', '1'),
	('no data', '''a''', '''1''', '''X''', 'NULL', '1'),
	('broken data', '''a''', '''1''', '''X''', '''{''', '1'),
	('schema version 0', '''a''', '''1''', '''X''', '''{}''', '0'),
	('schema version -1', '''a''', '''1''', '''X''', '''{}''', '-1'),
	('no schema version', '''a''', '''1''', '''X''', '''{}''', 'NULL'),
	('long type', 'repeat(''a'', 100000)', '''1''', '''X''', '''{}''', '1'),
	('long id', '''a''', 'repeat(''a'', 100000)', '''X''', '''{}''', '1'),
	('too long id', '''a''', 'repeat(''a'', 1025)', '''X''', '''{}''', '1'),
	('too long id in bytes', '''a''', 'repeat(''ä'', 513)', '''X''', '''{}''', '1'),
	('longest id', '''a''', 'repeat(''b'', 1024)', '''X''', '''{}''', '1'),
	('longest of all', 'repeat(''ä'', 512)', 'repeat(''b'', 1024)', 'repeat(''c'', 1024)', '''{}''', '1'),
	('long event type', '''a''', '''1''', 'repeat(''a'', 100000)', '''{}''', '1');
SELECT what, pg_temp.try(format('SELECT es.append(%s, %s, %s, %s, schema_version => %s)', a, i, e, d, s)) AS append,
	   pg_temp.try(format('INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data, schema_version) VALUES (%s, %s, %s, %s, %s)', a, i, e, d, s))
	   = pg_temp.try(format('SELECT es.append(%s, %s, %s, %s, schema_version => %s)', a, i, e, d, s)) AS insert_alike
FROM bad ORDER BY n;
SELECT pg_temp.try(format('SELECT es.append(''a'', ''2'', ''X'', %s => repeat(''a'', 100000))', argument))
FROM unnest('{correlation_id,causation_id,source}'::text[]) AS argument;
SELECT pg_temp.try('SELECT es.append(''a'', ''2'', ''X'', expected_version => -2)');
SELECT pg_temp.try('SELECT es.append(''a'', ''2'', ''X'', expected_version => -9223372036854775808)');
SELECT pg_temp.try('SELECT es.append(''a'', ''2'', ''X'', expected_version => 9223372036854775807)');
SELECT pg_temp.try('SELECT es.append(''a'', ''2'', ''X'', event_id => ''no uuid'')');
SELECT pg_temp.try('SELECT es.append(''a'', ''2'')') LIKE '42883%' AS no_such_function;
SELECT pg_temp.try('SELECT es.append(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)');

-- Arrays of events.
CREATE TEMP TABLE bad_array (n serial, events text);
INSERT INTO bad_array (events) VALUES
	(NULL), ('null'), ('1'), ('"text"'), ('{}'), ('{"event_type": "X"}'), ('[]'), ('[1]'), ('[null]'), ('["X"]'), ('[[]]'), ('[{}]'),
	('[{"event_type": "X"}, 7]'),
	('[{"event_type": null}]'), ('[{"event_type": ""}]'), ('[{"event_type": 1}]'), ('[{"event_type": {"a": 1}}]'),
	('[{"event_type": "X"}, {"data": {}}]'),
	('[{"event_type": "X", "type": "Y"}]'), ('[{"event_type": "X", "Data": {}}]'), ('[{"event_type": "X", "": 1}]'),
	('[{"event_type": "X", "version": 1}]'), ('[{"event_type": "X", "position": 1}]'), ('[{"event_type": "X", "recorded_at": "2026-01-01"}]'),
	('[{"event_type": "X", "event_id": 1}]'), ('[{"event_type": "X", "event_id": "no uuid"}]'), ('[{"event_type": "X", "event_id": ""}]'),
	('[{"event_type": "X", "event_id": {}}]'),
	('[{"event_type": "X"}, {"event_type": "X", "occurred_at": "yesterday noon"}]'), ('[{"event_type": "X", "occurred_at": 1}]'),
	('[{"event_type": "X", "occurred_at": "2026-13-01"}]'), ('[{"event_type": "X", "occurred_at": []}]'),
	('[{"event_type": "X", "schema_version": 0}]'), ('[{"event_type": "X", "schema_version": 1.5}]'), ('[{"event_type": "X", "schema_version": "1"}]'),
	('[{"event_type": "X", "schema_version": 1e20}]'), ('[{"event_type": "X", "schema_version": 2147483648}]'), ('[{"event_type": "X", "schema_version": true}]'),
	('[{"event_type": "X", "source": 1}]'), ('[{"event_type": "X", "correlation_id": {}}]'), ('[{"event_type": "X", "causation_id": []}]');
INSERT INTO bad_array (events) SELECT format('[{"event_type": "X"}, {"event_type": "X", "%s": "%s"}]', m, repeat('x', 2000))
FROM unnest('{source,correlation_id,causation_id}'::text[]) AS m;
SELECT left(events, 70) AS events, pg_temp.try(format('SELECT * FROM es.append_events(''a'', ''3'', %L)', events)) FROM bad_array ORDER BY n;
SELECT pg_temp.try('SELECT * FROM es.append_events(''a'', ''3'', ''[{"event_type": "X", "aggregate_type": "b"}]'')');
SELECT pg_temp.try('SELECT * FROM es.append_events(''a'', ''3'', ''[{"event_type": "X", "expected_version": 0}]'')');
SELECT pg_temp.try('SELECT * FROM es.append_events(NULL, ''3'', ''[{"event_type": "X"}]'')');
SELECT pg_temp.try('SELECT * FROM es.append_events(''a'', '''', ''[{"event_type": "X"}]'')');
SELECT pg_temp.try('SELECT * FROM es.append_events(''a'', ''3'', ''[{"event_type": "X"}]'', -7)');

-- The same through append_batch, where the aggregate is a member.
SELECT left(events, 70) AS events, b.result = pg_temp.try(format('SELECT * FROM es.append_events(''a'', ''3'', %L)', events)) AS alike
FROM bad_array, LATERAL (SELECT pg_temp.try(format('SELECT * FROM es.append_batch(%L)',
	replace(events, '"event_type"', '"aggregate_type": "a", "aggregate_id": "3", "event_type"')))) AS b (result)
WHERE n > 1 AND events <> '[{}]' AND events NOT LIKE '%{"data"%' AND b.result <> pg_temp.try(format('SELECT * FROM es.append_events(''a'', ''3'', %L)', events));
SELECT e AS events, pg_temp.try(format('SELECT * FROM es.append_batch(%L)', e)) FROM unnest(ARRAY[
	NULL, '[{}]', '[{"event_type": "X", "aggregate_type": "a"}]', '[{"event_type": "X", "aggregate_id": "3"}]',
	'[{"event_type": "X", "aggregate_type": 1, "aggregate_id": "3"}]', '[{"event_type": "X", "aggregate_type": "a", "aggregate_id": 3}]',
	'[{"event_type": "X", "aggregate_type": null, "aggregate_id": "3"}]', '[{"event_type": "X", "aggregate_type": "a", "aggregate_id": ""}]',
	'[{"event_type": "X", "aggregate_type": "a", "aggregate_id": "3", "expected_version": "1"}]',
	'[{"event_type": "X", "aggregate_type": "a", "aggregate_id": "3", "expected_version": 1.5}]',
	'[{"event_type": "X", "aggregate_type": "a", "aggregate_id": "3", "expected_version": -2}]',
	'[{"event_type": "X", "aggregate_type": "a", "aggregate_id": "3", "expected_version": 99999999999999999999}]']) AS e;

-- A huge value: PostgreSQL's own limit on a JSON string, and nothing is stored.
SELECT pg_temp.try('SELECT es.append(''a'', ''4'', ''Huge'', to_jsonb(repeat(''x'', 268435456)))');
SELECT count(*) FROM es.events WHERE event_type = 'Huge';
SELECT es.append('large', '1', 'Large', to_jsonb(repeat('x', 10000000)), event_id => '00000000-0000-0000-0000-000000000001');
SELECT es.append('large', '1', 'Large', to_jsonb(repeat('x', 10000000)), event_id => '00000000-0000-0000-0000-000000000001');
SELECT length(data #>> '{}') FROM es.events WHERE event_type = 'Large';

-- Roles without rights.
CREATE ROLE regress_es_nobody;
CREATE ROLE regress_es_user;
CREATE ROLE regress_es_reader;
GRANT USAGE ON SCHEMA es TO regress_es_user, regress_es_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_user, regress_es_reader;
GRANT SELECT ON es.events TO regress_es_reader;
CREATE TEMP TABLE entry (n serial, statement text);
INSERT INTO entry (statement) VALUES
	('SELECT es.append(''account'', ''1'', ''X'')'),
	('SELECT * FROM es.append_events(''account'', ''1'', ''[{"event_type": "X"}]'')'),
	('SELECT * FROM es.append_batch(''[{"aggregate_type": "account", "aggregate_id": "1", "event_type": "X"}]'')'),
	('INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES (''account'', ''1'', ''X'')'),
	('SELECT * FROM es.read_all()'),
	('SELECT * FROM es.read_all(1000000)'),
	('SELECT * FROM es.read_aggregate(''account'', ''1'')'),
	('SELECT * FROM es.read_correlation(''c'')'),
	('SELECT es.current_version(''account'', ''1'')'),
	('SELECT * FROM es.aggregates()');
GRANT SELECT ON entry TO regress_es_nobody, regress_es_user, regress_es_reader;
SET ROLE regress_es_nobody;
SELECT statement, pg_temp.try(statement) FROM entry ORDER BY n;
SET ROLE regress_es_user;
SELECT statement, pg_temp.try(statement) FROM entry ORDER BY n;
SET ROLE regress_es_reader;
SELECT statement, pg_temp.try(statement) FROM entry ORDER BY n;
RESET ROLE;
GRANT INSERT ON es.events TO regress_es_user;
SET ROLE regress_es_user;
-- A writer needs no right to read, nor any on the sequence.
SELECT statement, pg_temp.try(statement) FROM entry WHERE n <= 4 ORDER BY n;
SELECT nextval('es.events_position_seq');
RESET ROLE;

-- A read-only transaction.
BEGIN READ ONLY;
SELECT statement, pg_temp.try(statement) FROM entry ORDER BY n;
COMMIT;

-- Row-level security is not bypassed.
ALTER TABLE es.events ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_user;
SELECT pg_temp.try(statement) FROM entry WHERE n <= 4 ORDER BY n;
RESET ROLE;
ALTER TABLE es.events DISABLE ROW LEVEL SECURITY;

-- What got in is what should have.
SELECT aggregate_type, count(*) FROM es.events WHERE length(aggregate_type) < 10 GROUP BY 1 ORDER BY 1;
SELECT event_type, version FROM es.events WHERE aggregate_type = 'account' ORDER BY version;

SET client_min_messages = warning;
DROP OWNED BY regress_es_nobody, regress_es_user, regress_es_reader;
DROP ROLE regress_es_nobody, regress_es_user, regress_es_reader;
DROP EXTENSION pg_eventsourcing;
