-- Subscriptions: named, durable readers of the log.  The rows of these tables are
-- changed by the functions below only.

CREATE TABLE es.subscription (
	name            text COLLATE "C" NOT NULL,
	owner           es.role NOT NULL,
	aggregate_types text[],
	event_types     text[],
	sources         text[],
	partitions      integer NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
	max_attempts    integer CHECK (max_attempts >= 1),
	after_park      text    NOT NULL CHECK (after_park IN ('continue', 'wait')),
	created_at      timestamptz NOT NULL,
	CONSTRAINT subscription_pkey PRIMARY KEY (name)
);
SELECT pg_catalog.pg_extension_config_dump('es.subscription', '');

COMMENT ON TABLE es.subscription IS
'Subscriptions; read it through the view es.subscriptions';

-- What is read of a subscription, each with a checkpoint and a lease of its own: a
-- partition of the live log, a partition of a playback (up to up_to, with filters of
-- its own), and the events of a partition that are delivered once more.  No event
-- has a row: a fetch changes one row here, an ack changes it once more.  The room
-- in the pages lets the rows change within them, without touching an index.

CREATE SEQUENCE es.subscription_stream_seq AS integer;

CREATE TABLE es.subscription_stream (
	stream          integer NOT NULL,
	subscription    text COLLATE "C" NOT NULL,
	partition       integer NOT NULL,
	kind            text COLLATE "C" NOT NULL, -- 'live', 'retry', 'playback'
	checkpoint      bigint  NOT NULL,
	up_to           bigint,
	aggregate_types text[],
	event_types     text[],
	sources         text[],
	aggregate_ids   text[],
	lease_id        bigint  NOT NULL,
	lease_until     timestamptz,
	leased_at       timestamptz,
	consumer        text,
	leased_count    integer NOT NULL,
	leased_up_to    bigint  NOT NULL,
	retried_up_to   bigint  NOT NULL,
	attempt         integer NOT NULL,
	expired         integer NOT NULL,
	error           text,
	error_position  bigint,
	CONSTRAINT subscription_stream_pkey PRIMARY KEY (stream)
) WITH (fillfactor = 20);
CREATE INDEX subscription_stream_subscription_idx ON es.subscription_stream (subscription, stream);
SELECT pg_catalog.pg_extension_config_dump('es.subscription_stream', '');
SELECT pg_catalog.pg_extension_config_dump('es.subscription_stream_seq', '');

COMMENT ON TABLE es.subscription_stream IS
'How far the subscriptions are, and who reads; read it through the view es.subscription_streams';

-- Events that were put aside (held), and those on their way back (not held): told to
-- be retried, or later ones of an aggregate whose events wait for one that was put aside.
-- One that is finished with stays (done) until the stream that has put it aside has
-- passed its position: the stream would deliver it again.

CREATE TABLE es.subscription_parked (
	subscription   text COLLATE "C" NOT NULL,
	partition      integer NOT NULL,
	replayed       boolean NOT NULL,
	position       bigint  NOT NULL,
	stream         integer NOT NULL,
	aggregate_type text COLLATE "C" NOT NULL,
	aggregate_id   text COLLATE "C" NOT NULL,
	held           boolean NOT NULL,
	done           boolean NOT NULL,
	attempts       integer NOT NULL,
	lease_id       bigint,
	reason         text,
	parked_at      timestamptz NOT NULL,
	CONSTRAINT subscription_parked_pkey PRIMARY KEY (subscription, partition, replayed, position)
);
CREATE INDEX subscription_parked_aggregate_idx
	ON es.subscription_parked (subscription, partition, replayed, aggregate_type, aggregate_id, position);
CREATE INDEX subscription_parked_waiting_idx
	ON es.subscription_parked (subscription, partition, position) WHERE NOT held AND NOT done;
SELECT pg_catalog.pg_extension_config_dump('es.subscription_parked', '');

COMMENT ON TABLE es.subscription_parked IS
'Events put aside by subscriptions; read it through the view es.parked_events';

CREATE FUNCTION es.create_subscription(name text, aggregate_types text[] DEFAULT NULL,
	event_types text[] DEFAULT NULL, sources text[] DEFAULT NULL, start_after bigint DEFAULT 0,
	partitions integer DEFAULT 1, max_attempts integer DEFAULT 10, after_park text DEFAULT 'continue')
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_create_subscription';

COMMENT ON FUNCTION es.create_subscription(text, text[], text[], text[], bigint, integer, integer, text) IS
'Creates a durable reader of the log, from the events after a position on (null: those not settled yet). So many consumers as partitions can read at once; an event is put aside after max_attempts (null: never), and the later events of its aggregate go on or wait (after_park: continue, wait)';

CREATE FUNCTION es.drop_subscription(name text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_drop_subscription';

COMMENT ON FUNCTION es.drop_subscription(text) IS
'Removes a subscription with its checkpoints and parked events; leases on it are lost';

CREATE FUNCTION es.seek(subscription text, to_position bigint)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_seek';

COMMENT ON FUNCTION es.seek(text, bigint) IS
'Moves a subscription, back or forth: the events after the position come next (null: those not settled yet). Leases on it are lost; parked events stay parked';

CREATE FUNCTION es.playback(subscription text, after_position bigint DEFAULT 0,
	up_to_position bigint DEFAULT NULL, aggregate_types text[] DEFAULT NULL,
	aggregate_ids text[] DEFAULT NULL, event_types text[] DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_playback';

COMMENT ON FUNCTION es.playback(text, bigint, bigint, text[], text[], text[]) IS
'Has events of the past (null: up to the high-water mark) delivered again, marked as replayed, beside the live ones; returns how many there are';

CREATE FUNCTION es.fetch(subscription text, max_count integer DEFAULT 100, consumer text DEFAULT NULL,
	lease interval DEFAULT '30s', wait interval DEFAULT '0s')
RETURNS TABLE (lease_id bigint, partition integer, attempt integer, replayed boolean,
	"position" bigint, version bigint, recorded_at timestamptz, occurred_at timestamptz,
	event_id uuid, schema_version integer, aggregate_type text, aggregate_id text,
	event_type text, source text, correlation_id text, causation_id text,
	data jsonb, metadata jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100
AS 'MODULE_PATHNAME', 'es_fetch';

COMMENT ON FUNCTION es.fetch(text, integer, text, interval, interval) IS
'Returns the next events of one partition that nobody else reads, in order, and leases it to the caller; waits for events if there are none';

CREATE FUNCTION es.ack(lease_id bigint, up_to_position bigint DEFAULT NULL)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_ack';

COMMENT ON FUNCTION es.ack(bigint, bigint) IS
'Says that the fetched events are done, up to and including a position, and with all of them (null) gives the lease back; in the transaction that did the work: exactly once';

CREATE FUNCTION es.nack(lease_id bigint, at_position bigint, reason text DEFAULT NULL,
	park boolean DEFAULT false)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_nack';

COMMENT ON FUNCTION es.nack(bigint, bigint, text, boolean) IS
'Says that a fetched event could not be handled, and gives the lease back: what was not acknowledged is delivered again. The event is put aside after max_attempts, or at once (park)';

CREATE FUNCTION es.extend_lease(lease_id bigint, lease interval DEFAULT '30s')
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_extend_lease';

COMMENT ON FUNCTION es.extend_lease(bigint, interval) IS
'Makes a lease run out so long from now';

CREATE FUNCTION es.retry_parked(subscription text, at_position bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_retry_parked';

COMMENT ON FUNCTION es.retry_parked(text, bigint) IS
'Has an event that was put aside, or all of them (null), delivered to the subscription again; of an async projection of this name, applies them in order to its rows as they are now. Returns how many there were';

CREATE FUNCTION es.discard_parked(subscription text, at_position bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_discard_parked';

COMMENT ON FUNCTION es.discard_parked(text, bigint) IS
'Forgets an event that a subscription or projection of this name has put aside, or all of them (null); returns how many there were';

CREATE VIEW es.parked_events AS
SELECT p.subscription,
       p.projection,
       p.position,
       e.event_type,
       e.aggregate_type,
       e.aggregate_id,
       e.version,
       e.event_id,
       p.reason,
       p.attempts,
       p.replayed,
       p.parked_at
  FROM (SELECT j.projection AS subscription, j.projection, j.position, j.reason, NULL::integer AS attempts,
               false AS replayed, j.parked_at
          FROM es.projection_parked AS j
         UNION ALL
        SELECT s.subscription, NULL, s.position, s.reason, s.attempts, s.replayed, s.parked_at
          FROM es.subscription_parked AS s
         WHERE s.held) AS p
  JOIN es.events AS e ON e.position = p.position;

COMMENT ON VIEW es.parked_events IS
'Events put aside because a consumer of a subscription, or an async projection (then projection is given as well), failed on them, with the reason';

CREATE VIEW es.subscription_streams AS
SELECT s.name,
       t.partition,
       t.kind,
       t.checkpoint,
       t.up_to,
       CASE WHEN t.kind = 'playback' THEN t.up_to - t.checkpoint
            WHEN t.kind = 'live' AND (NOT pg_catalog.pg_is_in_recovery() OR
                 (SELECT m.is_called FROM es.published_mark_seq AS m))
            THEN greatest((SELECT m - greatest(t.checkpoint, m >> 48 << 48)
                             FROM es.high_water_mark() AS m), 0)
       END AS lag,
       CASE WHEN t.lease_until IS NOT NULL THEN t.consumer END AS consumer,
       CASE WHEN t.lease_until IS NOT NULL THEN t.lease_id END AS lease_id,
       t.lease_until,
       t.attempt AS attempts,
       t.error AS last_error,
       t.error_position AS last_error_position,
       (SELECT count(*) FROM es.subscription_parked AS p
         WHERE p.subscription = t.subscription AND p.partition = t.partition
           AND p.replayed = (t.kind = 'playback') AND p.held) AS parked,
       s.owner::pg_catalog.text AS owner,
       s.partitions,
       s.max_attempts,
       s.after_park,
       CASE WHEN t.kind = 'playback' THEN t.aggregate_types ELSE s.aggregate_types END AS aggregate_types,
       t.aggregate_ids,
       CASE WHEN t.kind = 'playback' THEN t.event_types ELSE s.event_types END AS event_types,
       s.sources,
       s.created_at
  FROM es.subscription AS s
  JOIN es.subscription_stream AS t ON t.subscription = s.name
 WHERE t.kind <> 'retry'
    OR t.lease_until IS NOT NULL
    OR EXISTS (SELECT FROM es.subscription_parked AS p
                WHERE p.subscription = t.subscription AND p.partition = t.partition
                  AND NOT p.held AND NOT p.done)
 ORDER BY s.name, t.partition, t.kind;

COMMENT ON VIEW es.subscription_streams IS
'What is read of the partitions of subscriptions (kind: live, then playback, and retry: events that are delivered once more), up to where it is done, and who reads; lag is in positions';

CREATE VIEW es.subscriptions AS
SELECT s.name,
       s.partition,
       s.checkpoint,
       s.lag,
       s.consumer,
       s.lease_until,
       s.attempts,
       s.lease_id,
       s.last_error,
       s.last_error_position,
       s.parked,
       s.owner,
       s.partitions,
       s.max_attempts,
       s.after_park,
       s.aggregate_types,
       s.event_types,
       s.sources,
       s.created_at
  FROM es.subscription_streams AS s
 WHERE s.kind = 'live'
 ORDER BY s.name, s.partition;

COMMENT ON VIEW es.subscriptions IS
'The partitions of subscriptions: up to where each has read the log, and who reads it; lag is in positions';
