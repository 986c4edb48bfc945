-- es.replay_keys(): some rows of a state table anew, in place.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

-- Rows of one aggregate each.
CREATE TABLE account (gone int, id text PRIMARY KEY, balance numeric NOT NULL CHECK (balance > -1000),
	twice numeric GENERATED ALWAYS AS (balance * 2) STORED, note text DEFAULT 'none');
ALTER TABLE account DROP COLUMN gone;
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Closed' THEN NULL ELSE
	ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric, NULL, NULL)::account END;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}', event_types => '{Deposited,Closed}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', n % 20, CASE WHEN n IN (195, 196) THEN 'Closed' WHEN n % 50 = 1 THEN 'Noted' ELSE 'Deposited' END, jsonb_build_object('amount', n)
FROM generate_series(1, 200) AS n;
CREATE TEMP TABLE right_rows AS TABLE account;
ALTER TABLE account DISABLE TRIGGER es_protect;
UPDATE account SET balance = 0 WHERE id IN ('1', '2', '3');
DELETE FROM account WHERE id = '4';
INSERT INTO account (id, balance) VALUES ('15', 1), ('stranger', 1);
ALTER TABLE account ENABLE ALWAYS TRIGGER es_protect;
SELECT key FROM es.verify_projection('account') ORDER BY key COLLATE "C";
CREATE TEMP TABLE places AS SELECT id, ctid AS place, xmin::text AS writer FROM account;
-- A wrong one, one that is missing, one too many, one that is right, one that is nowhere, one twice.
SELECT es.replay_keys('account', '{1,4,15,7,nowhere,1}');
SELECT key FROM es.verify_projection('account') ORDER BY key COLLATE "C";
-- Other rows, and the one that was right, are where they were.
SELECT id FROM account EXCEPT SELECT id FROM account JOIN places USING (id) WHERE (account.ctid, account.xmin::text) = (place, writer) ORDER BY id;
SELECT id, balance, twice FROM account WHERE id = '1';
-- What is wrong, and only that.
SELECT es.replay_keys('account', array_agg(key)) FROM es.verify_projection('account');
SELECT * FROM es.verify_projection('account');
SELECT count(*) FROM ((TABLE account EXCEPT ALL TABLE right_rows) UNION ALL (TABLE right_rows EXCEPT ALL TABLE account)) AS d;
SELECT es.replay_keys('account', '{}');
SELECT * FROM pg_temp.check_projections();

-- Triggers and foreign keys see it; what they do is the owner's.
CREATE TABLE card (account text REFERENCES account, number int);
INSERT INTO card VALUES ('1', 1);
CREATE TABLE seen (op text, id text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen VALUES (TG_OP, coalesce(new.id, old.id));
	RETURN NULL;
END $$;
CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON account FOR EACH ROW EXECUTE FUNCTION see();
ALTER TABLE account DISABLE TRIGGER es_protect;
ALTER TABLE account DISABLE TRIGGER see;
INSERT INTO account (id, balance) VALUES ('15', 1), ('16', 1);
DELETE FROM account WHERE id = '4';
UPDATE account SET balance = 0 WHERE id = '2';
INSERT INTO card VALUES ('16', 1);
ALTER TABLE account ENABLE TRIGGER see;
ALTER TABLE account ENABLE ALWAYS TRIGGER es_protect;
SELECT es.replay_keys('account', '{2,4,15}');
TABLE seen ORDER BY id;
SELECT pg_temp.try('SELECT es.replay_keys(''account'', ''{16}'')');
SELECT id FROM account WHERE id = '16';
DELETE FROM card;
SELECT es.replay_keys('account', '{16}');
DROP TRIGGER see ON account;

-- The function fails, now that it has been replaced; nothing is changed.
CREATE OR REPLACE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Closed' THEN NULL ELSE
	ROW(event.aggregate_id, 1 / (event.version - 3), NULL, NULL)::account END;
SELECT regexp_replace(pg_temp.try('SELECT es.replay_keys(''account'', ''{2,3}'')'), 'account/\d+|(position|event id) [-0-9a-f]+', '…', 'g');
CREATE OR REPLACE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Closed' THEN NULL ELSE
	ROW(event.aggregate_id, coalesce(state.balance, 0) - (event.data->>'amount')::numeric, NULL, NULL)::account END;
SELECT regexp_replace(pg_temp.try('SELECT es.replay_keys(''account'', ''{12}'')'), 'row contains.*', '…');
CREATE OR REPLACE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Closed' THEN NULL ELSE
	ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric, NULL, NULL)::account END;
SELECT * FROM es.verify_projection('account');

-- In a transaction that appends, before and after, rolled back too.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT es.replay_keys('account', '{1,2}');
SELECT es.append('account', '2', 'Deposited', '{"amount": 1}');
SELECT es.replay_keys('account', '{1,2}');
SAVEPOINT s;
SELECT es.append('account', '3', 'Closed');
SELECT es.replay_keys('account', '{3}');
ROLLBACK TO s;
SELECT * FROM es.verify_projection('account');
COMMIT;
SELECT * FROM es.verify_projection('account');

-- A unique value that goes from one row to another.
CREATE TABLE seat (number int PRIMARY KEY, guest text UNIQUE);
CREATE FUNCTION seat_apply(state seat, event es.events) RETURNS seat LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id::int, event.data->>'guest')::seat;
SELECT es.create_projection('seat', 'seat', 'seat_apply', aggregate_types => '{seat}');
SELECT es.append('seat', '1', 'Taken', '{"guest": "ada"}'), es.append('seat', '1', 'Left'), es.append('seat', '02', 'Taken', '{"guest": "ada"}'),
	es.append('seat', '3', 'Taken', '{"guest": "cid"}');
SELECT es.alter_projection('seat', protect => false);
DELETE FROM seat;
INSERT INTO seat VALUES (1, 'ada'), (2, NULL), (9, 'cid');
SELECT es.replay_keys('seat', '{9,3,+2,1,02}');
TABLE seat ORDER BY number;
SELECT pg_temp.try('SELECT es.replay_keys(''seat'', ''{one}'')');

-- Keys of several columns, fed by several aggregates, in parts.
CREATE TABLE total (day date, "currency of" char(5), amount numeric, n int, PRIMARY KEY (day, "currency of"));
CREATE FUNCTION total_apply(state total, event es.events) RETURNS total LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'day')::date, event.data->>'currency', coalesce(state.amount, 0) + 1, coalesce(state.n, 0) + 1)::total;
SET DateStyle = 'ISO';
SELECT es.create_projection('total', 'total', 'total_apply', key => '(data->>''day'')::date, data->>''currency''');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 't' || n % 3, n, 'Sold', jsonb_build_object('day', date '2026-01-01' + n % 700, 'currency', (ARRAY['EUR', 'U"S,D'])[n % 2 + 1]) FROM generate_series(1, 3000) AS n;
ALTER TABLE total DISABLE TRIGGER es_protect;
UPDATE total SET amount = 0 WHERE day < '2026-06-01';
DELETE FROM total WHERE day = '2026-01-02';
ALTER TABLE total ENABLE ALWAYS TRIGGER es_protect;
SELECT count(*) AS wrong, min(key) FROM es.verify_projection('total') \gset
SELECT :'min';
SELECT es.replay_keys('total', ARRAY[:'min', '(2026-01-02,"U""S,D")']);
SELECT :wrong - count(*) FROM es.verify_projection('total');
SET es.replay_memory = '64kB';
SELECT es.replay_keys('total', array_agg(key)) + 2 = :wrong AS all FROM es.verify_projection('total');
RESET es.replay_memory;
SELECT * FROM es.verify_projection('total');
SELECT pg_temp.try('SELECT es.replay_keys(''total'', ARRAY[''(2026-01-01,)''])');
SELECT pg_temp.try('SELECT es.replay_keys(''total'', ARRAY[''2026-01-01''])');
SELECT pg_temp.try('SELECT es.replay_keys(''total'', ARRAY[''(2026-01-01,EUR,1)''])');
RESET DateStyle;

-- More aggregates than the transaction can lock; rows of several don't need that.
SET es.max_aggregate_locks = 3;
SELECT pg_temp.try('SELECT es.replay_keys(''account'', ''{1,2,3,4}'')');
SELECT es.replay_keys('account', '{1,2,3}');
SELECT count(*) FROM (SELECT es.replay_keys('total', array_agg(ROW(day, "currency of")::text)) FROM total) AS t;
RESET es.max_aggregate_locks;

-- A disabled projection's rows are as of its checkpoint.
SELECT es.alter_projection('account', enabled => false);
SELECT es.append('account', '1', 'Deposited', '{"amount": 1000}');
ALTER TABLE account DISABLE TRIGGER es_protect;
UPDATE account SET balance = 0 WHERE id = '1';
ALTER TABLE account ENABLE ALWAYS TRIGGER es_protect;
SELECT es.replay_keys('account', '{1}');
SELECT * FROM es.verify_projection('account');
SELECT es.alter_projection('account', enabled => true);
SELECT * FROM es.verify_projection('account');

-- A partitioned table, some of whose columns are elsewhere in a partition.
CREATE TABLE part (id int PRIMARY KEY, note text, n int) PARTITION BY RANGE (id);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (5);
CREATE TABLE part_high (n int, id int NOT NULL, note text);
ALTER TABLE part ATTACH PARTITION part_high FOR VALUES FROM (5) TO (10);
CREATE FUNCTION part_apply(state part, event es.events) RETURNS part LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id::int, es.is_replaying(), coalesce(state.n, 0) + 1)::part;
SELECT es.create_projection('part', 'part', 'part_apply', aggregate_types => '{part}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'part', n, 'X' FROM generate_series(0, 9) AS n;
SELECT key, actual->'note' AS actual, expected->'note' AS expected FROM es.verify_projection('part') WHERE key IN ('1', '9');
SELECT es.replay_keys('part', '{1,9}');
SELECT * FROM part ORDER BY id;
ALTER TABLE part_high DISABLE TRIGGER es_protect;
DELETE FROM part_high WHERE id = 7;
SELECT es.replay_keys('part', array_agg(key)) FROM es.verify_projection('part');
SELECT * FROM es.verify_projection('part');
CREATE TABLE part_copy (LIKE part INCLUDING ALL);
SELECT es.replay_into('part', 'part_copy');
SELECT pg_temp.try('SELECT es.replay_into(''part'', ''part_low'')') LIKE 'SE%';
SELECT es.create_environment('parts', projections => '{part}');
SELECT count(*) FROM ((TABLE part_copy EXCEPT ALL TABLE parts.part) UNION ALL (TABLE part EXCEPT ALL TABLE parts.part)) AS d;

-- A trigger that appends during a replay makes history twice: it may not.
CREATE FUNCTION append() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es.append('note', '1', 'Changed');
	RETURN NULL;
END $$;
CREATE TRIGGER append AFTER UPDATE ON account FOR EACH ROW EXECUTE FUNCTION append();
ALTER TABLE account DISABLE TRIGGER es_protect, DISABLE TRIGGER append;
UPDATE account SET balance = 0 WHERE id = '1';
ALTER TABLE account ENABLE TRIGGER append;
SELECT pg_temp.try('SELECT es.replay_keys(''account'', ''{1}'')');
SELECT es.is_replaying();
DROP TRIGGER append ON account;
SELECT es.replay_keys('account', '{1}');

-- Other kinds; nulls, names, rights.
CREATE TABLE kept (id text PRIMARY KEY, n int);
SELECT es.create_projection('kept', 'kept');
SELECT pg_temp.try('SELECT es.replay_keys(''kept'', ''{1}'')');
SELECT pg_temp.try('SELECT es.replay_keys(''missing'', ''{1}'')');
SELECT pg_temp.try('SELECT es.replay_keys(NULL, ''{1}'')');
SELECT pg_temp.try('SELECT es.replay_keys(''account'', NULL)');
SELECT pg_temp.try('SELECT es.replay_keys(''account'', ''{1,NULL}'')');
BEGIN READ ONLY;
SELECT pg_temp.try('SELECT es.replay_keys(''account'', ''{1}'')');
ROLLBACK;
CREATE ROLE regress_es_analyst;
GRANT USAGE ON SCHEMA es TO regress_es_analyst;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_analyst;
GRANT ALL ON es.events, account TO regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.replay_keys(''account'', ''{1}'')');
RESET ROLE;

DROP OWNED BY regress_es_analyst;
DROP ROLE regress_es_analyst;
DROP TABLE account, card, seen, seat, total, kept, part, part_copy CASCADE;
DROP SCHEMA parts CASCADE;
DROP FUNCTION see, append;
DROP EXTENSION pg_eventsourcing CASCADE;
