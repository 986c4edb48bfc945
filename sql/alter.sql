-- es.alter_projection(): disabling, enabling with catch-up, protecting.

CREATE EXTENSION pg_eventsourcing;
CREATE SCHEMA alter_test;
SET search_path = alter_test;
\set SHOW_CONTEXT never

-- a fold that depends on the order, and one by statements
CREATE TABLE trail (id text PRIMARY KEY, trail text);
CREATE FUNCTION trail_apply(state trail, event es.events) RETURNS trail LANGUAGE sql IMMUTABLE
	RETURN ROW(event.aggregate_id, coalesce(state.trail, '') || event.event_type)::trail;
CREATE TABLE counts (type text PRIMARY KEY, n integer);
SELECT es.create_projection('trail', 'trail', 'trail_apply'), es.create_projection('counts', 'counts');
SELECT es.set_handler('counts', NULL,
	'INSERT INTO counts AS c VALUES (event.event_type, 1) ON CONFLICT (type) DO UPDATE SET n = c.n + 1');

SELECT es.append('a', '1', 'x');
SELECT es.alter_projection('trail', enabled => false), es.alter_projection('counts', enabled => false);
SELECT name, status, enabled, checkpoint, lag FROM es.projections ORDER BY name;
SELECT es.append('a', '1', 'y');
SELECT count(*) FROM es.append_events('a', '2', '[{"event_type": "x"}, {"event_type": "z"}]');
TABLE trail ORDER BY id;
TABLE counts ORDER BY type;
SELECT lag FROM es.projections;
-- a replay brings it up to date, and leaves it disabled
BEGIN;
SELECT events, rows, up_to_position FROM es.replay('trail');
TABLE trail ORDER BY id;
SELECT name, status, checkpoint, lag FROM es.projections ORDER BY name;
ROLLBACK;

-- again, and twice
SELECT es.alter_projection('trail', enabled => false);
SELECT es.alter_projection('trail', enabled => true), es.alter_projection('counts', enabled => true);
SELECT es.alter_projection('trail', enabled => true);
SELECT name, status, enabled, checkpoint, lag FROM es.projections ORDER BY name;
TABLE trail ORDER BY id;
TABLE counts ORDER BY type;
SELECT es.append('a', '1', 'z');
TABLE trail ORDER BY id;
TABLE counts ORDER BY type;

-- in one transaction with appends, and rolled back
BEGIN;
SELECT es.append('a', '3', 'x');
SELECT es.alter_projection('trail', enabled => false);
SELECT es.append('a', '3', 'y');
SELECT * FROM trail WHERE id = '3';
SELECT es.alter_projection('trail', enabled => true);
SELECT * FROM trail WHERE id = '3';
ROLLBACK;
BEGIN;
SELECT es.alter_projection('trail', enabled => false);
ROLLBACK;
SELECT es.append('a', '3', 'z');
SELECT * FROM trail WHERE id = '3';

-- what fails while it catches up leaves it disabled
SELECT es.alter_projection('trail', enabled => false);
ALTER TABLE trail ADD CONSTRAINT short CHECK (length(trail) < 4);
SELECT count(*) FROM es.append_events('a', '3', '[{"event_type": "x"}, {"event_type": "y"}, {"event_type": "z"}]');
\set VERBOSITY terse
SELECT es.alter_projection('trail', enabled => true);
\set VERBOSITY default
SELECT status FROM es.projections WHERE name = 'trail';
ALTER TABLE trail DROP CONSTRAINT short;
SELECT es.alter_projection('trail', enabled => true);
SELECT * FROM trail WHERE id = '3';

-- protection
UPDATE trail SET trail = 'direct' WHERE id = '1';
SELECT es.alter_projection('trail', protect => false);
UPDATE trail SET trail = 'direct' WHERE id = '1';
SELECT es.append('a', '1', '!');
SELECT trail FROM trail WHERE id = '1';
SELECT es.alter_projection('trail', protect => true);
DELETE FROM trail;
SELECT protect FROM es.projections WHERE name = 'trail';
SELECT rows FROM es.replay('trail');
SELECT trail FROM trail WHERE id = '1';

-- wrong
SELECT es.alter_projection('trail');
SELECT es.alter_projection('trail', mode => 'inline', on_error => 'park');
SELECT es.alter_projection('trail', mode => 'sideways');
SELECT es.alter_projection('trail', on_error => 'panic');
SELECT es.alter_projection(NULL);
SELECT es.alter_projection('nothing', enabled => true);
CREATE ROLE regress_es_other;
GRANT USAGE ON SCHEMA es TO regress_es_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_other;
SET ROLE regress_es_other;
SELECT es.alter_projection('trail', enabled => false);
RESET ROLE;
BEGIN READ ONLY;
SELECT es.alter_projection('trail', enabled => false);
ROLLBACK;

RESET search_path;
REVOKE USAGE ON SCHEMA es FROM regress_es_other;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA es FROM regress_es_other;
SET client_min_messages = warning;
DROP SCHEMA alter_test CASCADE;
DROP EXTENSION pg_eventsourcing CASCADE;
DROP ROLE regress_es_other;
