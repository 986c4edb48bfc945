-- Writing: the trigger that holds the rules, and the functions beside INSERT and COPY.

CREATE FUNCTION es.sequence_event() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'es_sequence_event';

COMMENT ON FUNCTION es.sequence_event() IS 'checks a new event and gives it version, position and time';

-- An ordinary trigger, not ENABLE ALWAYS: a logical replication subscriber
-- must keep the versions and positions of the publisher.
CREATE TRIGGER sequence_event
	BEFORE INSERT ON es.events
	FOR EACH ROW EXECUTE FUNCTION es.sequence_event();

CREATE FUNCTION es.append(
	aggregate_type text,
	aggregate_id text,
	event_type text,
	data jsonb DEFAULT '{}',
	metadata jsonb DEFAULT NULL,
	expected_version bigint DEFAULT NULL,
	event_id uuid DEFAULT NULL,
	correlation_id text DEFAULT NULL,
	causation_id text DEFAULT NULL,
	source text DEFAULT NULL,
	occurred_at timestamptz DEFAULT NULL,
	schema_version integer DEFAULT 1
) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';

COMMENT ON FUNCTION es.append(text, text, text, jsonb, jsonb, bigint, uuid, text, text, text, timestamptz, integer)
	IS 'appends one event and returns its version';

CREATE FUNCTION es.append_events(
	aggregate_type text,
	aggregate_id text,
	events jsonb,
	expected_version bigint DEFAULT NULL,
	correlation_id text DEFAULT NULL,
	causation_id text DEFAULT NULL,
	source text DEFAULT NULL
) RETURNS TABLE ("position" bigint, version bigint, event_id uuid)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_events';

COMMENT ON FUNCTION es.append_events(text, text, jsonb, bigint, text, text, text)
	IS 'appends an array of events to one aggregate';

CREATE FUNCTION es.append_batch(
	events jsonb
) RETURNS TABLE ("position" bigint, aggregate_type text, aggregate_id text, version bigint, event_id uuid)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_batch';

COMMENT ON FUNCTION es.append_batch(jsonb)
	IS 'appends an array of events to any number of aggregates';
