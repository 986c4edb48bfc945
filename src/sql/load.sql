-- One aggregate, now or as it was.

CREATE FUNCTION es.load(state anyelement, aggregate_type text, aggregate_id text,
	apply text DEFAULT NULL, as_of_version bigint DEFAULT NULL, as_of_position bigint DEFAULT NULL,
	as_of timestamptz DEFAULT NULL)
RETURNS anyelement LANGUAGE c STABLE PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'es_load';

COMMENT ON FUNCTION es.load(anyelement, text, text, text, bigint, bigint, timestamptz) IS
'Folds the events of one aggregate, all or those up to a version, a position or a time of recording, beginning with state. Null: there is no state. Without apply, the function of the projection whose state table has this row type';
