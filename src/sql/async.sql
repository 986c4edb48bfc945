-- Projections that run behind the writers.

CREATE FUNCTION es.run_projections(name text DEFAULT NULL, max_events bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_run_projections';

COMMENT ON FUNCTION es.run_projections(text, bigint) IS
'Brings an async projection up to date with the settled events, or all of the current user''s (null), the furthest behind first; at most max_events. Returns how many were applied. One that an error has stopped goes on if it is named. Waits for another session that does the same';

CREATE FUNCTION es.wait_for(projection text, at_position bigint, timeout interval DEFAULT '5s')
RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_wait_for';

COMMENT ON FUNCTION es.wait_for(text, bigint, interval) IS
'Waits until a projection''s rows reflect the log up to a position: true, or false when the time is over (null: no limit). Read the rows in a later statement';
