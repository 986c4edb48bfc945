-- Building state tables anew.

CREATE FUNCTION es.replay(projection text, apply text DEFAULT NULL,
	parallel_workers integer DEFAULT NULL)
RETURNS TABLE (projection text, events bigint, rows bigint, up_to_position bigint, elapsed interval)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay';

COMMENT ON FUNCTION es.replay(text, text, integer) IS
'Replaces the rows of a projection''s state table by the fold of all events, with a new apply function if one is given: function and rows change in the same instant. Readers and writers go on while the log is folded, and wait when the new rows are put in place, until the transaction ends';

CREATE FUNCTION es.replay_into(projection text, target regclass, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL, apply text DEFAULT NULL, exclude_event_ids uuid[] DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay_into';

COMMENT ON FUNCTION es.replay_into(text, regclass, bigint, timestamptz, text, uuid[]) IS
'Fills another, empty table of the same shape with the fold of the events: those at or below a position, those recorded at or before a time, those but for given ones; with another apply function if one is given. Returns how many rows were inserted. Writers of the log and of the state table go on';

CREATE FUNCTION es.create_environment(schema_name text, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL, projections text[] DEFAULT NULL)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_create_environment';

COMMENT ON FUNCTION es.create_environment(text, bigint, timestamptz, text[]) IS
'Creates a schema with a table like each state table of the fold projections (of those named only), filled with the fold of the events up to one moment: a position, a time, or now. The tables are the caller''s, with the indexes, constraints and comments of the state tables, and no projection keeps them';

CREATE FUNCTION es.verify_projection(projection text, apply text DEFAULT NULL)
RETURNS TABLE (key text, actual jsonb, expected jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_verify_projection';

COMMENT ON FUNCTION es.verify_projection(text, text) IS
'Compares a projection''s state table with the fold of the events, and returns the rows that differ: as they are, and as they should be, without generated columns; null is no row. With another apply function: what it would change. Writers go on';
