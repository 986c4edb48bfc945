-- The log is append-only: for the owner and superusers, with and without rows, in
-- every way there is to change a row.

CREATE EXTENSION pg_eventsourcing;
SELECT es.append('account', '1', 'Opened');

CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN code || ': ' || message || coalesce(' | ' || nullif(hint, ''), '');
END $$;

CREATE TEMP TABLE attempt (n serial, statement text);
INSERT INTO attempt (statement) VALUES
	('UPDATE es.events SET data = ''{}'''),
	('UPDATE es.events SET data = ''{}'' WHERE false'),
	('DELETE FROM es.events'),
	('DELETE FROM es.events WHERE position = -1'),
	('TRUNCATE es.events'),
	('TRUNCATE es.events CASCADE'),
	('INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES (''a'', ''1'', ''X'') ON CONFLICT (position) DO UPDATE SET data = ''{}'''),
	('MERGE INTO es.events e USING (SELECT 1 AS p) s ON e.position = s.p WHEN MATCHED THEN DELETE'),
	('MERGE INTO es.events e USING (SELECT 1 AS p) s ON e.position = s.p WHEN MATCHED THEN UPDATE SET data = ''{}'''),
	('WITH d AS (DELETE FROM es.events RETURNING 1) SELECT count(*) FROM d');
SELECT statement, pg_temp.try(statement) FROM attempt ORDER BY n;

-- Replication role does not matter.
SET session_replication_role = replica;
SELECT statement, left(pg_temp.try(statement), 5) AS code FROM attempt ORDER BY n;
RESET session_replication_role;

-- Locking a row is no change.
SELECT position FROM es.events FOR UPDATE;

-- The trigger functions work for their own triggers only.
CREATE TABLE other (position bigint, version bigint);
CREATE TRIGGER t1 BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION es.sequence_event();
CREATE TRIGGER t2 BEFORE DELETE ON other FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();
CREATE TRIGGER t3 AFTER INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION es.sequence_event();
SELECT pg_temp.try('INSERT INTO other VALUES (1, 1)');
SELECT pg_temp.try('DELETE FROM other');
SELECT pg_temp.try('SELECT es.append(''a'', ''1'', ''X'')');
DROP TRIGGER t3 ON es.events;
SELECT pg_temp.try('SELECT es.sequence_event()');

SELECT position, version, data FROM es.events;
DROP TABLE other;
DROP EXTENSION pg_eventsourcing;
