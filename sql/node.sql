-- es.set_node_id(): positions of several databases.

CREATE EXTENSION pg_eventsourcing;
CREATE FUNCTION node_of(bigint) RETURNS bigint LANGUAGE sql RETURN $1 >> 48;

-- Out of range.
SELECT es.set_node_id(-1);
SELECT es.set_node_id(32768);
SELECT es.set_node_id(NULL);

-- An async projection made before knows no difference.
CREATE TABLE total (id text PRIMARY KEY, n bigint NOT NULL);
CREATE FUNCTION total_apply(state total, event es.events) RETURNS total LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::total;
SELECT es.create_projection('total', 'total', 'total_apply', mode => 'async');

BEGIN;
SELECT es.set_node_id(31);
SELECT es.append('account', '1', 'X');
SELECT node_of(position), position - (31::bigint << 48) AS number FROM es.events;
ROLLBACK;
SELECT es.high_water_mark();
SELECT es.set_node_id(30);
SELECT es.set_node_id(31);
SELECT es.high_water_mark(), es.high_water_mark() >> 48 AS node;
SELECT lag FROM es.projections;
SELECT count(*) FROM es.read_all();
-- It is never lowered.
SELECT es.set_node_id(31);
SELECT es.set_node_id(30);

-- The positions of the first 32 nodes are numbers that JavaScript holds exactly.
SELECT es.append('account', '1', 'X'), es.append('account', '1', 'X');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '2', 'X');
SELECT node_of(position), position - (31::bigint << 48) AS number, position < 9007199254740992 AS exact FROM es.events ORDER BY position;
SELECT es.high_water_mark() = max(position) AS settled FROM es.events;
SELECT count(*) FROM es.read_all();
SELECT lag FROM es.projections;
SELECT es.run_projections();
SELECT lag FROM es.projections;
TABLE total ORDER BY id;
SELECT events, rows, node_of(up_to_position) FROM es.replay('total');

-- Too late for another number, not for the same one.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
SELECT es.set_node_id(31);
\set VERBOSITY default
SELECT es.set_node_id(1);
DROP EXTENSION pg_eventsourcing CASCADE;

-- The last node, and its last positions.
CREATE EXTENSION pg_eventsourcing;
SELECT es.set_node_id(32767);
SELECT es.append('account', '1', 'X');
SELECT setval('es.events_position_seq', 9223372036854775807 - (1::bigint << 32));
SELECT es.append('account', '1', 'X');
SELECT position FROM es.events ORDER BY 1;
SELECT es.high_water_mark();
SELECT es.append('account', '1', 'X');
DROP EXTENSION pg_eventsourcing;

-- A transaction that is registered with a bound of the old range can't go back.
CREATE EXTENSION pg_eventsourcing;
SELECT es.set_node_id(7);
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER t_suppress BEFORE INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION suppress();
BEGIN;
SELECT es.append('account', '1', 'X');
SELECT es.set_node_id(8);
ROLLBACK;
SELECT es.set_node_id(8);
DROP EXTENSION pg_eventsourcing CASCADE;
DROP FUNCTION suppress, node_of;
DROP TABLE total CASCADE;
