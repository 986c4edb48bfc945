-- Building state tables anew.

CREATE FUNCTION es.replay(projection text, apply text DEFAULT NULL,
	parallel_workers integer DEFAULT NULL, in_place boolean DEFAULT false)
RETURNS TABLE (projection text, events bigint, rows bigint, up_to_position bigint, elapsed interval)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay';

COMMENT ON FUNCTION es.replay(text, text, integer, boolean) IS
'Replaces the rows of a projection''s state table by the fold of all events, with a new apply function if one is given: function and rows change in the same instant. Readers and writers go on while the log is folded, and wait when the new rows are put in place, until the transaction ends';

CREATE FUNCTION es.is_replaying()
RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'es_is_replaying';

COMMENT ON FUNCTION es.is_replaying() IS
'Says whether this session is replaying, in what a replay calls';

CREATE FUNCTION es.replays(OUT pid integer, OUT target oid, OUT phase text, OUT events_done bigint,
	OUT events_total bigint, OUT started_at timestamptz)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'es_replays';

COMMENT ON FUNCTION es.replays() IS
'Replays that are going on in this database; read them through the view es.replay_progress';

CREATE VIEW es.replay_progress AS
SELECT coalesce(p.name, r.target::pg_catalog.regclass::text) AS projection,
       r.pid,
       r.phase,
       r.events_done,
       greatest(r.events_total, r.events_done) AS events_total,
       s.events_per_second,
       CASE WHEN s.events_per_second > 0
            THEN pg_catalog.make_interval(secs => greatest(r.events_total - r.events_done, 0) / s.events_per_second)
       END AS remaining,
       r.started_at
  FROM es.replays() AS r
  LEFT JOIN es.projection AS p ON p.target::oid = r.target
  CROSS JOIN LATERAL (SELECT pg_catalog.round(r.events_done /
                             greatest(extract(epoch FROM pg_catalog.clock_timestamp() - r.started_at), 0.001))
                             AS events_per_second) AS s;

COMMENT ON VIEW es.replay_progress IS
'Replays that are going on in this database: what each is doing, how many events it has read and about how many there are, and the time left; the total grows when the log must be read again';

CREATE FUNCTION es.replay_into(projection text, target regclass, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL, apply text DEFAULT NULL, exclude_event_ids uuid[] DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay_into';

COMMENT ON FUNCTION es.replay_into(text, regclass, bigint, timestamptz, text, uuid[]) IS
'Fills another, empty table of the same shape with what the events give: those at or below a position, those recorded at or before a time, those but for given ones; with another apply function if one is given. Returns how many rows were inserted. Writers of the log and of the state table go on';

CREATE FUNCTION es.create_environment(schema_name text, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL, projections text[] DEFAULT NULL)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_create_environment';

COMMENT ON FUNCTION es.create_environment(text, bigint, timestamptz, text[]) IS
'Creates a schema with a table like each state table (of the projections named only), filled with what the events up to one moment give: a position, a time, or now. The tables are the caller''s, with the indexes, constraints and comments of the state tables as far as they are not code of another role, and no projection keeps them';

CREATE FUNCTION es.verify_projection(projection text, apply text DEFAULT NULL)
RETURNS TABLE (key text, actual jsonb, expected jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_verify_projection';

COMMENT ON FUNCTION es.verify_projection(text, text) IS
'Compares a projection''s state table with the fold of the events, and returns the rows that differ: as they are, and as they should be, without generated columns; null is no row. With another apply function: what it would change. Writers go on';

CREATE FUNCTION es.replay_keys(projection text, keys text[])
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay_keys';

COMMENT ON FUNCTION es.replay_keys(text, text[]) IS
'Makes the rows of some keys of a state table what the log gives, in place, and returns how many have changed. A key is the text of its column, or of the row of its columns, as es.verify_projection() shows it. Writers of these rows wait until the transaction ends, others go on';
