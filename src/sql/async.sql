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

CREATE FUNCTION es.retry_parked(subscription text, at_position bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_retry_parked';

COMMENT ON FUNCTION es.retry_parked(text, bigint) IS
'Applies an event that a projection has put aside, or all of them in order (null), to its rows as they are now; returns how many there were';

CREATE FUNCTION es.discard_parked(subscription text, at_position bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_discard_parked';

COMMENT ON FUNCTION es.discard_parked(text, bigint) IS
'Forgets an event that a projection has put aside, or all of them (null); returns how many there were';

CREATE VIEW es.parked_events AS
SELECT p.projection,
       p.position,
       e.event_type,
       e.aggregate_type,
       e.aggregate_id,
       e.version,
       e.event_id,
       p.reason,
       p.parked_at
  FROM es.projection_parked AS p
  JOIN es.events AS e ON e.position = p.position;

COMMENT ON VIEW es.parked_events IS
'Events that async projections have put aside because they failed on them, with the reason';
