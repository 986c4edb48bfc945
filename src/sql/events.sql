-- The event log.  Columns of fixed width come first, so that a row is compact.

CREATE SEQUENCE es.events_position_seq AS bigint CACHE 1;

CREATE TABLE es.events (
	position       bigint      NOT NULL,
	version        bigint      NOT NULL,
	recorded_at    timestamptz NOT NULL,
	occurred_at    timestamptz NOT NULL,
	event_id       uuid        NOT NULL,
	schema_version integer     NOT NULL DEFAULT 1,
	aggregate_type text COLLATE "C" NOT NULL,
	aggregate_id   text COLLATE "C" NOT NULL,
	event_type     text COLLATE "C" NOT NULL,
	source         text COLLATE "C",
	correlation_id text COLLATE "C",
	causation_id   text COLLATE "C",
	data           jsonb       NOT NULL DEFAULT '{}',
	metadata       jsonb,
	CONSTRAINT events_pkey PRIMARY KEY (position),
	CONSTRAINT events_aggregate_key UNIQUE (aggregate_type, aggregate_id, version),
	CONSTRAINT events_event_id_key UNIQUE (event_id)
) USING heap;


-- By type, source or request, in position order.  B-trees, because a reader
-- wants the next so many events in position order: a B-tree returns them in
-- that order and stops at the limit, which BRIN and bloom can't.  Within one key
-- positions only grow, so that pages fill from the left and are split where
-- the insertion goes on.  Each costs an append about a tenth of its speed (make
-- bench); the partial ones cost nothing while nobody gives the column.

CREATE INDEX events_event_type_idx ON es.events (event_type, position);
CREATE INDEX events_aggregate_type_idx ON es.events (aggregate_type, position);
CREATE INDEX events_source_idx ON es.events (source, position) WHERE source IS NOT NULL;
CREATE INDEX events_correlation_idx ON es.events (correlation_id, position) WHERE correlation_id IS NOT NULL;

-- The mark that hot standbys read by is not dumped: it must not be there before the
-- events are.

CREATE SEQUENCE es.published_mark_seq AS bigint MINVALUE 0 START 0 CACHE 1;

COMMENT ON SEQUENCE es.published_mark_seq IS 'the high-water mark, for hot standbys';

-- A dump holds the log, and the sequence goes on where it was.

SELECT pg_catalog.pg_extension_config_dump('es.events', '');
SELECT pg_catalog.pg_extension_config_dump('es.events_position_seq', '');

COMMENT ON TABLE es.events IS 'the event log: append-only, one row per event';
COMMENT ON COLUMN es.events.position IS 'order over the whole log; set by the extension';
COMMENT ON COLUMN es.events.version IS '1, 2, 3 ... within the aggregate; set by the extension';
COMMENT ON COLUMN es.events.recorded_at IS 'when the event was appended; set by the extension';
COMMENT ON COLUMN es.events.occurred_at IS 'when it happened, as the producer says; default: recorded_at';
COMMENT ON COLUMN es.events.event_id IS 'identifies the event for retries; default: a new UUID version 7';
COMMENT ON COLUMN es.events.schema_version IS 'version of the form of data';
COMMENT ON COLUMN es.events.aggregate_type IS 'kind of the thing whose history this is';
COMMENT ON COLUMN es.events.aggregate_id IS 'the thing whose history this is';
COMMENT ON COLUMN es.events.event_type IS 'what happened';
COMMENT ON COLUMN es.events.source IS 'who produced the event';
COMMENT ON COLUMN es.events.correlation_id IS 'the request that the event belongs to';
COMMENT ON COLUMN es.events.causation_id IS 'the event or command that caused it';
COMMENT ON COLUMN es.events.data IS 'what happened, in particular';
COMMENT ON COLUMN es.events.metadata IS 'anything else about the event';
