-- Requests that pass through a gateway to services, as events.
--
-- Run it in an empty database: psql -X -q < requests.sql
-- It explains itself; requests.out holds what it prints.

\pset footer off
\set ON_ERROR_STOP on

\echo '== 1. The idea'
\echo
\echo 'A shop has a gateway: it receives each request, calls the services that it needs (prices,'
\echo 'stock, payment) and answers. When something goes wrong, people ask: what happened to'
\echo 'this request? Which service is slow? What fails, and how often?'
\echo
\echo 'Here all of them write down what they do as events: facts that are added to one log and'
\echo 'never changed. Tables that answer the questions keep themselves up to date with it.'
\echo

CREATE EXTENSION pg_eventsourcing;

\echo '== 2. What an event says'
\echo
\echo 'Each event belongs to one thing, called its aggregate, and is numbered within it. There are'
\echo 'two kinds of things here: a request, and a call to a service. Besides, an event says who'
\echo 'has written it (source) and which request it is about (correlation_id). The'
\echo 'correlation id is what ties a request and its calls together.'
\echo
\echo 'The first request: somebody buys a book.'
\echo

\set ECHO queries
SELECT es.append('request', 'r1', 'RequestReceived', '{"path": "/buy/book"}',
	source => 'gateway', correlation_id => 'r1', occurred_at => '2026-03-02 10:00:00.000Z');
SELECT es.append('call', 'r1-price', 'ServiceCalled', '{"service": "prices"}',
	source => 'gateway', correlation_id => 'r1', occurred_at => '2026-03-02 10:00:00.002Z');
SELECT es.append('call', 'r1-price', 'ServiceAnswered', '{"status": 200, "ms": 10}',
	source => 'prices', correlation_id => 'r1', occurred_at => '2026-03-02 10:00:00.012Z');
SELECT es.append('call', 'r1-payment', 'ServiceCalled', '{"service": "payment"}',
	source => 'gateway', correlation_id => 'r1', occurred_at => '2026-03-02 10:00:00.015Z');
SELECT es.append('call', 'r1-payment', 'ServiceAnswered', '{"status": 200, "ms": 120}',
	source => 'payment', correlation_id => 'r1', occurred_at => '2026-03-02 10:00:00.135Z');
SELECT es.append('request', 'r1', 'RequestCompleted', '{"status": 200}',
	source => 'gateway', correlation_id => 'r1', occurred_at => '2026-03-02 10:00:00.140Z');
\set ECHO none

\echo 'Each call has returned the number of the event within its aggregate.'
\echo
\echo '== 3. One row per request'
\echo
\echo 'The first table says how each request is doing:'
\echo

\set ECHO queries
CREATE TABLE request (
	id       text PRIMARY KEY,
	path     text,
	state    text NOT NULL,
	calls    integer NOT NULL,
	answers  integer NOT NULL,
	received timestamptz,
	ms       integer
);
\set ECHO none

\echo
\echo 'A function says what an event does to a row: it gets the row as it was (NULL: there is'
\echo 'none yet) and the event, and returns the row as it is afterwards.'
\echo

\set ECHO queries
CREATE FUNCTION request_apply(state request, event es.events) RETURNS request
LANGUAGE sql IMMUTABLE
RETURN ROW(event.correlation_id,
	CASE event.event_type WHEN 'RequestReceived' THEN event.data->>'path' ELSE state.path END,
	CASE event.event_type
		WHEN 'RequestCompleted' THEN 'completed'
		WHEN 'RequestFailed' THEN 'failed: ' || (event.data->>'reason')
		ELSE coalesce(state.state, 'open')
	END,
	coalesce(state.calls, 0) + (event.event_type = 'ServiceCalled')::integer,
	coalesce(state.answers, 0) + (event.event_type = 'ServiceAnswered')::integer,
	CASE event.event_type WHEN 'RequestReceived' THEN event.occurred_at ELSE state.received END,
	CASE WHEN event.event_type IN ('RequestCompleted', 'RequestFailed')
		THEN 1000 * extract(epoch FROM event.occurred_at - state.received)
		ELSE state.ms
	END)::request;
\set ECHO none

\echo
\echo 'A projection makes the table follow the events. Usually a row belongs to one aggregate.'
\echo 'Here the key says that events of many aggregates, the request and all its calls, go'
\echo 'into the row of their correlation id. The events of the first request are older than the'
\echo 'table; it starts with what they add up to.'
\echo

\set ECHO queries
SELECT es.create_projection('request', 'request', 'request_apply', key => 'correlation_id',
	aggregate_types => '{request, call}') \g /dev/null
SELECT id, path, state, calls, answers, ms FROM request;
\set ECHO none

\echo '== 4. Totals by type and by source'
\echo
\echo 'The same events, counted in two more tables. The key of the one is the type of the event,'
\echo 'that of the other its source. An event without a source has no key there, so it is left out.'
\echo

\set ECHO queries
CREATE TABLE by_type (
	event_type text PRIMARY KEY,
	events     bigint NOT NULL
);

CREATE FUNCTION by_type_apply(state by_type, event es.events) RETURNS by_type
LANGUAGE sql IMMUTABLE
RETURN ROW(event.event_type, coalesce(state.events, 0) + 1)::by_type;

SELECT es.create_projection('by_type', 'by_type', 'by_type_apply', key => 'event_type') \g /dev/null

CREATE TABLE by_source (
	source     text PRIMARY KEY,
	events     bigint NOT NULL,
	answers    bigint NOT NULL,
	errors     bigint NOT NULL,
	total_ms   bigint NOT NULL,
	slowest_ms integer
);

CREATE FUNCTION by_source_apply(state by_source, event es.events) RETURNS by_source
LANGUAGE sql IMMUTABLE
RETURN ROW(event.source,
	coalesce(state.events, 0) + 1,
	coalesce(state.answers, 0) + (event.event_type = 'ServiceAnswered')::integer,
	coalesce(state.errors, 0) + (event.event_type = 'ServiceAnswered' AND (event.data->>'status')::integer >= 500)::integer,
	coalesce(state.total_ms, 0) + CASE event.event_type WHEN 'ServiceAnswered' THEN (event.data->>'ms')::integer ELSE 0 END,
	CASE event.event_type WHEN 'ServiceAnswered'
		THEN greatest(state.slowest_ms, (event.data->>'ms')::integer)
		ELSE state.slowest_ms
	END)::by_source;

SELECT es.create_projection('by_source', 'by_source', 'by_source_apply', key => 'source') \g /dev/null

CREATE VIEW service AS
	SELECT source AS service, answers, errors, round(total_ms::numeric / answers) AS average_ms, slowest_ms
	FROM by_source
	WHERE answers > 0;
\set ECHO none

\echo
\echo '(Everybody who writes an event waits for a moment for the row it counts in. Where thousands'
\echo 'of events come in every second, a row per hour and source, or a count made when somebody'
\echo 'asks, is the better choice.)'
\echo
\echo '== 5. A busy minute'
\echo
\echo 'Requests overlap: while one waits for a service, the next one comes in. In life these'
\echo 'events come one by one, from several programs. Here a single INSERT adds them: the same'
\echo 'rules hold for it, and it changes all three tables in the same transaction.'
\echo

\set ECHO queries
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, source, correlation_id, occurred_at, data) VALUES
	('request', 'r2',         'RequestReceived',  'gateway', 'r2', '2026-03-02 10:01:00.000Z', '{"path": "/buy/lamp"}'),
	('call',    'r2-stock',   'ServiceCalled',    'gateway', 'r2', '2026-03-02 10:01:00.001Z', '{"service": "stock"}'),
	('request', 'r3',         'RequestReceived',  'gateway', 'r3', '2026-03-02 10:01:00.010Z', '{"path": "/show/lamp"}'),
	('call',    'r3-price',   'ServiceCalled',    'gateway', 'r3', '2026-03-02 10:01:00.011Z', '{"service": "prices"}'),
	('call',    'r2-stock',   'ServiceAnswered',  'stock',   'r2', '2026-03-02 10:01:00.031Z', '{"status": 200, "ms": 30}'),
	('call',    'r2-payment', 'ServiceCalled',    'gateway', 'r2', '2026-03-02 10:01:00.033Z', '{"service": "payment"}'),
	('call',    'r3-price',   'ServiceAnswered',  'prices',  'r3', '2026-03-02 10:01:00.035Z', '{"status": 200, "ms": 24}'),
	('request', 'r3',         'RequestCompleted', 'gateway', 'r3', '2026-03-02 10:01:00.036Z', '{"status": 200}'),
	('request', 'r4',         'RequestReceived',  'gateway', 'r4', '2026-03-02 10:01:00.400Z', '{"path": "/buy/pen"}'),
	('call',    'r4-stock',   'ServiceCalled',    'gateway', 'r4', '2026-03-02 10:01:00.401Z', '{"service": "stock"}'),
	('call',    'r2-payment', 'ServiceAnswered',  'payment', 'r2', '2026-03-02 10:01:00.933Z', '{"status": 503, "ms": 900}'),
	('request', 'r2',         'RequestFailed',    'gateway', 'r2', '2026-03-02 10:01:00.935Z', '{"reason": "payment does not work"}');
\set ECHO none

\echo
\echo '== 6. The answers'
\echo
\echo 'How are the requests doing?'
\echo

\set ECHO queries
SELECT id, path, state, calls, answers, ms FROM request ORDER BY id;
\set ECHO none

\echo 'r2 has failed. r4 is still open: a call has not been answered. Which one?'
\echo

\set ECHO queries
SELECT called.correlation_id AS request, called.data->>'service' AS service
FROM request
	JOIN es.events called ON called.correlation_id = request.id AND called.event_type = 'ServiceCalled'
WHERE request.state = 'open'
	AND NOT EXISTS (
		SELECT FROM es.read_aggregate('call', called.aggregate_id) answered
		WHERE answered.event_type = 'ServiceAnswered');
\set ECHO none

\echo 'What happened to r2? Everything that was written about it, by whomever, in order:'
\echo

\set ECHO queries
SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'HH24:MI:SS.MS') AS "when", source, event_type, aggregate_id, data
FROM es.read_correlation('r2');
\set ECHO none

\echo 'Which service is slow, which fails?'
\echo

\set ECHO queries
SELECT * FROM service ORDER BY service;
\set ECHO none

\echo 'What happens how often?'
\echo

\set ECHO queries
SELECT * FROM by_type ORDER BY event_type;
SELECT source, events FROM by_source ORDER BY source;
\set ECHO none

\echo '== 7. Reading the log by type and by source'
\echo
\echo 'Whoever wants the events themselves can ask for some types only, or for some sources. Both'
\echo 'are found through an index, however long the log is.'
\echo

\set ECHO queries
SELECT correlation_id, data->>'reason' AS reason FROM es.read_all(event_types => '{RequestFailed}');
SELECT correlation_id, event_type, data FROM es.read_all(sources => '{payment}');
\set ECHO none

\echo 'A program that works on the events as they come, here one that tells somebody about'
\echo 'failures, remembers how far it has read. It asks for what is new and moves its mark in'
\echo 'one statement. If only one such program runs at a time, it gets each event exactly once:'
\echo 'es.read_all() never goes past an event whose writer has not finished yet.'
\echo

\set ECHO queries
CREATE TABLE alarm (seen bigint NOT NULL);
INSERT INTO alarm VALUES (0);

PREPARE new_failures AS
WITH new AS MATERIALIZED (
	SELECT * FROM es.read_all((SELECT seen FROM alarm), event_types => '{RequestFailed}')
), mark AS (
	UPDATE alarm SET seen = (SELECT max(position) FROM new) WHERE EXISTS (SELECT FROM new)
)
SELECT correlation_id, data->>'reason' AS reason FROM new ORDER BY position;

EXECUTE new_failures;
\set ECHO none

\echo 'Now the stock service gives up on r4:'
\echo

\set ECHO queries
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, source, correlation_id, occurred_at, data) VALUES
	('call',    'r4-stock', 'ServiceAnswered', 'stock',   'r4', '2026-03-02 10:01:01.301Z', '{"status": 504, "ms": 900}'),
	('request', 'r4',       'RequestFailed',   'gateway', 'r4', '2026-03-02 10:01:01.303Z', '{"reason": "stock took too long"}');
EXECUTE new_failures;
EXECUTE new_failures;
\set ECHO none

\echo 'It is told once; the second time there is nothing new. And the tables have followed:'
\echo

\set ECHO queries
SELECT id, state, calls, answers, ms FROM request WHERE id = 'r4';
SELECT * FROM service WHERE service = 'stock';
\set ECHO none

\echo '== 8. A question nobody has thought of before'
\echo
\echo 'Every event is still there. So a table that is invented today knows about yesterday. Somebody'
\echo 'wants to see the failures minute by minute; the key can be any expression over the event:'
\echo

\set ECHO queries
CREATE TABLE by_minute (
	minute   timestamp PRIMARY KEY,
	received integer NOT NULL,
	failed   integer NOT NULL
);

CREATE FUNCTION by_minute_apply(state by_minute, event es.events) RETURNS by_minute
LANGUAGE sql IMMUTABLE
RETURN ROW(date_trunc('minute', event.occurred_at AT TIME ZONE 'UTC'),
	coalesce(state.received, 0) + (event.event_type = 'RequestReceived')::integer,
	coalesce(state.failed, 0) + (event.event_type = 'RequestFailed')::integer)::by_minute;

SELECT es.create_projection('by_minute', 'by_minute', 'by_minute_apply',
	key => $$date_trunc('minute', occurred_at AT TIME ZONE 'UTC')$$,
	event_types => '{RequestReceived, RequestFailed}') \g /dev/null
SELECT * FROM by_minute ORDER BY minute;
\set ECHO none

\echo 'And nobody has to believe a total: the events can always be counted again. How many rows'
\echo 'of the two tables of section 4 differ from such a count?'
\echo

\set ECHO queries
WITH type AS (
	SELECT event_type, count(*) FROM es.events GROUP BY event_type
), source AS (
	SELECT source, count(*) FROM es.events WHERE source IS NOT NULL GROUP BY source
)
SELECT 'by_type' AS "table", count(*) AS different_rows FROM (
	(TABLE by_type EXCEPT ALL TABLE type) UNION ALL (TABLE type EXCEPT ALL TABLE by_type)) AS d
UNION ALL
SELECT 'by_source', count(*) FROM (
	(SELECT source, events FROM by_source EXCEPT ALL TABLE source) UNION ALL
	(TABLE source EXCEPT ALL SELECT source, events FROM by_source)) AS d
ORDER BY 1;
\set ECHO none

\echo 'None. Should that ever be different, after a mistake in a function for instance, es.replay()'
\echo 'builds a table anew from the events:'
\echo

\set ECHO queries
SELECT projection, events, rows FROM es.replay('request');
SELECT id, path, state, calls, answers, ms FROM request ORDER BY id;
\set ECHO none
