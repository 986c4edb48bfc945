-- Reading.  These run with the caller's rights: SELECT on es.events.

CREATE FUNCTION es.high_water_mark() RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_high_water_mark';

COMMENT ON FUNCTION es.high_water_mark()
	IS 'position at or below which nothing can appear any more; read with a later snapshot. On a hot standby the one that the primary has published';

CREATE FUNCTION es.publish_mark() RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_publish_mark';

COMMENT ON FUNCTION es.publish_mark()
	IS 'lets readers on hot standbys read up to the high-water mark, which it returns; the worker and es.run_projections() do the same';

CREATE FUNCTION es.current_version(aggregate_type text, aggregate_id text) RETURNS bigint
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_current_version';

COMMENT ON FUNCTION es.current_version(text, text)
	IS 'version of an aggregate, 0 if it does not exist; for readers, and for writers of its type';

-- Two branches, of which one runs: so each has an order that the index on
-- (aggregate_type, aggregate_id, version) returns.
CREATE FUNCTION es.read_aggregate(
	aggregate_type text,
	aggregate_id text,
	from_version bigint DEFAULT 1,
	max_count integer DEFAULT NULL,
	backwards boolean DEFAULT false
) RETURNS SETOF es.events
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	(SELECT e.*
	 FROM es.events AS e
	 WHERE read_aggregate.backwards IS NOT TRUE
	   AND e.aggregate_type = read_aggregate.aggregate_type
	   AND e.aggregate_id = read_aggregate.aggregate_id
	   AND e.version >= coalesce(read_aggregate.from_version, 1)
	 ORDER BY e.version
	 LIMIT read_aggregate.max_count)
	UNION ALL
	(SELECT e.*
	 FROM es.events AS e
	 WHERE read_aggregate.backwards
	   AND e.aggregate_type = read_aggregate.aggregate_type
	   AND e.aggregate_id = read_aggregate.aggregate_id
	   AND e.version >= coalesce(read_aggregate.from_version, 1)
	 ORDER BY e.version DESC
	 LIMIT read_aggregate.max_count);
END;

COMMENT ON FUNCTION es.read_aggregate(text, text, bigint, integer, boolean)
	IS 'events of one aggregate from a version on, oldest or (backwards) newest first';

CREATE FUNCTION es.read_correlation(correlation_id text) RETURNS SETOF es.events
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT e.*
	FROM es.events AS e
	WHERE e.correlation_id = read_correlation.correlation_id
	ORDER BY e.position;
END;

COMMENT ON FUNCTION es.read_correlation(text) IS 'events of one request, in order';

CREATE FUNCTION es.read_all(
	after_position bigint DEFAULT 0,
	max_count integer DEFAULT 1000,
	aggregate_types text[] DEFAULT NULL,
	event_types text[] DEFAULT NULL,
	sources text[] DEFAULT NULL
) RETURNS SETOF es.events
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_read_all';

COMMENT ON FUNCTION es.read_all(bigint, integer, text[], text[], text[])
	IS 'events after a position up to the high-water mark, in order: polling with it misses none';

-- Steps from one aggregate to the next through the index on (aggregate_type,
-- aggregate_id, version), so that it costs a few page accesses per aggregate
-- however many events there are; the steps are made as rows are asked for and come
-- in the index's order.  Names are never empty, so '' comes before all of them.
-- With after_id but no aggregate_type, after_id holds for each type.
CREATE FUNCTION es.aggregates(
	aggregate_type text DEFAULT NULL,
	after_id text DEFAULT NULL,
	max_count integer DEFAULT NULL
) RETURNS TABLE (aggregate_type text, aggregate_id text, version bigint, last_recorded_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	WITH RECURSIVE step (aggregate_type, aggregate_id) AS (
		SELECT first.aggregate_type, first.aggregate_id
		FROM (SELECT e.aggregate_type, e.aggregate_id
			  FROM es.events AS e
			  WHERE (e.aggregate_type, e.aggregate_id) >
					(coalesce(aggregates.aggregate_type, ''),
					 CASE WHEN aggregates.aggregate_type IS NULL THEN ''
						  ELSE coalesce(aggregates.after_id, '') END)
			  ORDER BY e.aggregate_type, e.aggregate_id
			  LIMIT 1) AS first
		WHERE aggregates.aggregate_type IS NULL
		   OR first.aggregate_type = aggregates.aggregate_type
		UNION ALL
		SELECT next.aggregate_type, next.aggregate_id
		FROM step AS s
		CROSS JOIN LATERAL (SELECT e.aggregate_type, e.aggregate_id
							FROM es.events AS e
							WHERE (e.aggregate_type, e.aggregate_id) > (s.aggregate_type, s.aggregate_id)
							ORDER BY e.aggregate_type, e.aggregate_id
							LIMIT 1) AS next
		WHERE aggregates.aggregate_type IS NULL
		   OR next.aggregate_type = aggregates.aggregate_type
	)
	SELECT s.aggregate_type, s.aggregate_id, newest.version, newest.recorded_at
	FROM step AS s
	CROSS JOIN LATERAL (SELECT e.version, e.recorded_at
						FROM es.events AS e
						WHERE e.aggregate_type = s.aggregate_type
						  AND e.aggregate_id = s.aggregate_id
						ORDER BY e.version DESC
						LIMIT 1) AS newest
	WHERE aggregates.aggregate_type IS NOT NULL
	   OR aggregates.after_id IS NULL
	   OR s.aggregate_id > aggregates.after_id
	LIMIT aggregates.max_count;
END;

COMMENT ON FUNCTION es.aggregates(text, text, integer)
	IS 'aggregates in order of type and id, with their version; after_id without aggregate_type holds for each type';
