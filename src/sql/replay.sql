-- Building state tables anew.

CREATE FUNCTION es.replay(projection text, apply text DEFAULT NULL,
	parallel_workers integer DEFAULT NULL)
RETURNS TABLE (projection text, events bigint, rows bigint, up_to_position bigint, elapsed interval)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_replay';

COMMENT ON FUNCTION es.replay(text, text, integer) IS
'Replaces the rows of a projection''s state table by the fold of all events, with a new apply function if one is given: function and rows change in the same instant. Readers and writers go on while the log is folded, and wait when the new rows are put in place, until the transaction ends';
