-- Projections that run behind the writers.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = notice;

CREATE TABLE account (id text PRIMARY KEY, owner text,
	balance numeric NOT NULL DEFAULT 0 CHECK (balance >= 0));
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
         WHEN 'AccountOpened' THEN ROW(event.aggregate_id, event.data->>'owner', 0)::account
         WHEN 'Deposited'     THEN ROW(state.id, state.owner, state.balance + (event.data->>'amount')::numeric)::account
         WHEN 'AccountClosed' THEN NULL
         ELSE state
       END;
CREATE FUNCTION deposit(id text, amount text) RETURNS bigint LANGUAGE sql
RETURN es.append('account', id, 'Deposited', jsonb_build_object('amount', amount));
CREATE VIEW progress AS
SELECT name, kind, mode, on_error, status, checkpoint, lag, last_error, last_error_position AS at, parked
  FROM es.projections ORDER BY name;

-- What exists is folded when the projection is created, what comes later when it is run.
SELECT es.append('account', 'a', 'AccountOpened', '{"owner": "Ada"}');
SELECT es.create_projection('account', 'account', 'account_apply', mode => 'async');
TABLE account;
SELECT deposit('a', '10');
SELECT es.append('account', 'b', 'AccountOpened', '{"owner": "Bob"}');
SELECT deposit('b', '1');
TABLE account;
TABLE progress;
SELECT es.run_projections('account', 1);
TABLE account;
TABLE progress;
SELECT es.run_projections();
SELECT es.run_projections();
TABLE account ORDER BY id;
TABLE progress;

-- The own transaction's events are not settled before it commits.
BEGIN;
SELECT deposit('a', '5');
SELECT es.run_projections();
SELECT balance FROM account WHERE id = 'a';
COMMIT;
BEGIN;
SELECT es.run_projections();
SELECT balance FROM account WHERE id = 'a';
ROLLBACK;
SELECT balance FROM account WHERE id = 'a';
SELECT es.run_projections();
SELECT balance FROM account WHERE id = 'a';

-- Waiting for a position.
SELECT deposit('a', '1');
SELECT es.wait_for('account', 6, '0s'), es.wait_for('account', 5, '0s');
SELECT es.wait_for('account', 6, '-1 day'), es.wait_for('account', 6, '30 ms');
SELECT es.run_projections();
SELECT es.wait_for('account', 6, NULL), es.wait_for(projection => 'account', at_position => 6);

-- It is protected as any other.
UPDATE account SET balance = 0;

-- An event that fails stops the projection there; what comes before is applied.
SELECT deposit('b', '2');
SELECT deposit('b', 'many');
SELECT deposit('a', '4');
SELECT deposit('b', '-1000');
SELECT deposit('b', '8');
SELECT es.run_projections();
TABLE account ORDER BY id;
TABLE progress;
-- Then it goes on only when it is told to.
SELECT es.run_projections();
SELECT es.run_projections('account');
SELECT es.alter_projection('account', enabled => true);
SELECT status, last_error, at FROM progress;
SELECT es.run_projections();
TABLE progress;

-- Parking.
SELECT es.alter_projection('account', on_error => 'park');
SELECT es.run_projections('account');
TABLE account ORDER BY id;
TABLE progress;
SELECT projection, position, event_type, aggregate_id, version, reason FROM es.parked_events ORDER BY position;
SELECT es.retry_parked('account');
SELECT es.retry_parked('account', 9);
SELECT es.discard_parked('account', 8);
-- The events now belong to rows that can take them.
SELECT deposit('b', '5000');
SELECT es.run_projections();
SELECT last_error, at, parked FROM progress;
SELECT es.retry_parked('account', 10);
SELECT last_error, at, parked FROM progress;
TABLE account ORDER BY id;
SELECT es.retry_parked('account'), es.discard_parked('account');

-- A replay builds it from the settled events and forgets what was wrong.
CREATE OR REPLACE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
         WHEN 'AccountOpened' THEN ROW(event.aggregate_id, event.data->>'owner', 0)::account
         WHEN 'Deposited'     THEN ROW(state.id, state.owner,
                                       greatest(state.balance + CASE WHEN event.data->>'amount' <> 'many' THEN (event.data->>'amount')::numeric ELSE 0 END, 0))::account
         WHEN 'AccountClosed' THEN NULL
         ELSE state
       END;
SELECT events, rows, up_to_position FROM es.replay('account');
TABLE account ORDER BY id;
TABLE progress;

-- From one mode to the other, and disabled in between.
SELECT deposit('a', '100');
SELECT es.alter_projection('account', mode => 'inline');
TABLE progress;
SELECT balance FROM account WHERE id = 'a';
SELECT deposit('a', '100');
SELECT balance FROM account WHERE id = 'a';
SELECT es.wait_for('account', 13, '0s'), es.wait_for('account', 14, '0s');
SELECT es.run_projections('account');
SELECT es.alter_projection('account', mode => 'async');
SELECT deposit('a', '100');
SELECT es.alter_projection('account', enabled => false);
SELECT deposit('a', '100');
TABLE progress;
SELECT es.run_projections();
SELECT es.run_projections('account');
SELECT events, rows, up_to_position FROM es.replay('account');
TABLE progress;
SELECT deposit('a', '100');
SELECT es.alter_projection('account', enabled => true, on_error => 'stop');
SELECT balance FROM account WHERE id = 'a';
SELECT es.run_projections();
SELECT balance FROM account WHERE id = 'a';
BEGIN;
SELECT deposit('a', '1');
SELECT es.alter_projection('account', mode => 'inline');
SELECT balance FROM account WHERE id = 'a';
SELECT es.alter_projection('account', mode => 'async');
SELECT deposit('a', '1');
ROLLBACK;
SELECT deposit('a', '1');
SELECT es.run_projections();
SELECT balance FROM account WHERE id = 'a';

-- From now on only.
CREATE TABLE late (id text PRIMARY KEY, n integer NOT NULL);
CREATE FUNCTION late_apply(state late, event es.events) RETURNS late
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::late;
SELECT es.create_projection('late', 'late', 'late_apply', mode => 'async', populate => false);
SELECT es.run_projections('late');
SELECT deposit('a', '1');
SELECT es.run_projections();
TABLE late;

-- Statements: from the beginning of the log.
CREATE TABLE deposits (position bigint PRIMARY KEY, amount numeric NOT NULL);
SELECT es.create_projection('deposits', 'deposits', event_types => '{Deposited}', mode => 'async');
SELECT es.run_projections('deposits');
SELECT es.set_handler('deposits', 'Deposited',
	'INSERT INTO deposits VALUES (event.position, (event.data->>''amount'')::numeric)');
SELECT es.run_projections('deposits');
TABLE deposits ORDER BY position;
SELECT es.alter_projection('deposits', on_error => 'park');
SELECT es.run_projections('deposits', 3);
SELECT es.run_projections('deposits');
SELECT count(*), max(position) FROM deposits;
SELECT projection, position, reason FROM es.parked_events;

-- Batches: the event to blame is found.
CREATE TABLE totals (id text PRIMARY KEY, total numeric NOT NULL, batches integer NOT NULL);
SELECT es.create_projection('totals', 'totals', event_types => '{Deposited}', mode => 'async', on_error => 'park');
SELECT es.set_batch_handler('totals', $$
	INSERT INTO totals AS t
	SELECT aggregate_id, sum((data->>'amount')::numeric), 1 FROM events GROUP BY aggregate_id
	ON CONFLICT (id) DO UPDATE SET total = t.total + excluded.total, batches = t.batches + 1$$);
SELECT es.run_projections('totals');
SELECT id, total FROM totals ORDER BY id;
SELECT projection, position, reason FROM es.parked_events WHERE projection = 'totals';
SELECT deposit('b', '1'), deposit('b', '1'), deposit('b', '1');
SELECT batches FROM totals WHERE id = 'b' \gset before_
SELECT es.run_projections('totals');
SELECT total, batches - :before_batches AS batches FROM totals WHERE id = 'b';
TABLE progress;

-- What can't be done.
SELECT es.run_projections('nobody');
SELECT es.run_projections(max_events => -1);
SELECT es.run_projections('account', 0);
SELECT es.wait_for('nobody', 1);
SELECT es.wait_for(NULL, 1);
SELECT es.wait_for('account', NULL);
SELECT es.retry_parked(NULL);
SELECT es.discard_parked('nobody');
SELECT es.retry_parked('account', 1);
SELECT es.discard_parked('account', 1);
SELECT es.alter_projection('account', mode => 'later');
SELECT es.alter_projection('account', on_error => 'ignore');
SELECT es.create_projection('x', 'late', mode => 'behind');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es.run_projections();
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT es.wait_for('account', 1);
ROLLBACK;
BEGIN READ ONLY;
SELECT es.wait_for('account', 1);
SELECT es.run_projections();
ROLLBACK;

-- A row that can't be written is folded from many events: which one is to blame is found soon.
CREATE TABLE stock (id text PRIMARY KEY, n integer NOT NULL CHECK (n >= 0));
CREATE FUNCTION stock_apply(state stock, event es.events) RETURNS stock
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + (event.data->>'n')::integer)::stock;
SELECT es.create_projection('stock', 'stock', 'stock_apply', aggregate_types => '{stock}', mode => 'async', on_error => 'park');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'stock', '1', 'Moved', jsonb_build_object('n', CASE WHEN g IN (1, 5000) THEN -1000000 ELSE 1 END)
  FROM generate_series(1, 30000) AS g;
SELECT es.run_projections('stock');
TABLE stock;
SELECT version, reason FROM es.parked_events WHERE projection = 'stock' ORDER BY version;
-- So it is if they are there when it is created: the first run builds it.
CREATE TABLE later (LIKE stock INCLUDING ALL);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + (event.data->>'n')::integer)::later;
INSERT INTO later VALUES ('old', 1);
SELECT es.create_projection('later', 'later', 'later_apply', aggregate_types => '{stock}', mode => 'async');
TABLE later;
SELECT es.create_projection('later', 'later', 'later_apply', aggregate_types => '{stock}', mode => 'async', on_error => 'park');
TABLE later;
SELECT status, checkpoint FROM progress WHERE name = 'later';
SELECT es.run_projections('later');
TABLE later;
SELECT version FROM es.parked_events WHERE projection = 'later' ORDER BY version;
SELECT * FROM es.verify_projection('later');
DROP TABLE later CASCADE;
-- Where nothing searches for it, no other event is named.
SELECT es.alter_projection('stock', mode => 'inline', enabled => false);
SELECT es.append('stock', '2', 'Moved', '{"n": -1}'), es.append('stock', '1', 'Moved', '{"n": 1}'), es.append('else', '1', 'Moved');
DO $$
DECLARE
	detail text;
BEGIN
	PERFORM es.alter_projection('stock', enabled => true);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE NOTICE '%: %', SQLERRM, detail;
END $$;
SELECT es.drop_projection('stock');
DROP TABLE stock CASCADE;

-- Many events that fail in one run cost no memory.
CREATE TABLE memory (id text PRIMARY KEY, bytes bigint);
CREATE FUNCTION memory_apply(state memory, event es.events) RETURNS memory LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Fails' THEN
		RAISE 'no';
	END IF;
	RETURN ROW(event.aggregate_id, (SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts));
END $$;
SELECT es.create_projection('memory', 'memory', 'memory_apply', aggregate_types => '{memory}', mode => 'async', on_error => 'park');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type)
SELECT 'memory', g::text, CASE WHEN g % 1000 < 10 THEN 'Looks' ELSE 'Fails' END FROM generate_series(1, 2009) AS g;
SET client_min_messages = error;
SELECT es.run_projections('memory');
RESET client_min_messages;
SELECT max(bytes) FILTER (WHERE id::integer >= 2000) - max(bytes) FILTER (WHERE id::integer < 10) < 2000000 AS flat FROM memory;
SELECT es.drop_projection('memory');
DROP TABLE memory CASCADE;

-- Another projection that fails is not taken for this one; the definitions may change meanwhile.
CREATE TABLE outside (id text PRIMARY KEY);
CREATE FUNCTION outside_apply(state outside, event es.events) RETURNS outside LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Fails' THEN
		RAISE 'no';
	END IF;
	RETURN ROW(event.aggregate_id);
END $$;
CREATE TABLE inside (id text PRIMARY KEY CHECK (id <> 'c'));
CREATE FUNCTION inside_apply(state inside, event es.events) RETURNS inside LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id)::inside;
SELECT es.create_projection('outside', 'outside', 'outside_apply', aggregate_types => '{outside}', mode => 'async', on_error => 'park');
SELECT es.create_projection('inside', 'inside', 'inside_apply', aggregate_types => '{inside}');
CREATE FUNCTION append_inside() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE es.projection SET name = name;
	PERFORM es.append('inside', NEW.id, 'Appended');
	RETURN NEW;
END $$;
CREATE TRIGGER append_inside AFTER INSERT ON outside FOR EACH ROW EXECUTE FUNCTION append_inside();
SELECT es.append('outside', 'a', 'Fails'), es.append('outside', 'b', 'Works'), es.append('outside', 'c', 'Works'), es.append('outside', 'd', 'Works'),
	es.append('outside', 'e', 'Fails'), es.append('outside', 'f', 'Works'), es.append('outside', 'g', 'Fails');
SELECT es.run_projections('outside');
SELECT es.run_projections('outside');
SELECT * FROM outside ORDER BY id;
SELECT aggregate_id, reason FROM es.parked_events WHERE projection = 'outside' ORDER BY 1;
SELECT es.drop_projection('outside'), es.drop_projection('inside');
DROP TABLE outside, inside CASCADE;
DROP FUNCTION append_inside;

-- Only the owner's: others run, and park, nothing.
CREATE ROLE regress_es_async;
GRANT USAGE ON SCHEMA es TO regress_es_async;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_async;
SET ROLE regress_es_async;
SELECT es.run_projections();
SELECT es.run_projections('account');
SELECT es.retry_parked('totals');
SELECT es.discard_parked('totals');
SELECT es.wait_for('account', 1);
RESET ROLE;
DROP OWNED BY regress_es_async;
DROP ROLE regress_es_async;

-- Nothing stays behind of a projection that goes.
SELECT es.drop_projection('totals');
DROP TABLE account, late CASCADE;
SELECT es.drop_projection('deposits');
SELECT count(*) FROM es.projection_checkpoint;
SELECT count(*) FROM es.projection_parked;

DROP TABLE deposits, totals;
DROP FUNCTION deposit;
DROP VIEW progress;
DROP EXTENSION pg_eventsourcing;
