-- Partitioned state tables: range, list, hash, two levels, a default partition,
-- columns in another order, and what becomes of them in DDL.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

-- By list, on a text key.  Each partition has its columns in another place.
CREATE TABLE account (id text, owner text, balance numeric NOT NULL DEFAULT 0, gone int, twice numeric GENERATED ALWAYS AS (balance * 2) STORED)
	PARTITION BY LIST (id);
ALTER TABLE account DROP COLUMN gone;
ALTER TABLE account ADD PRIMARY KEY (id);
CREATE TABLE account_a PARTITION OF account FOR VALUES IN ('a', 'A');
CREATE TABLE account_b (twice numeric GENERATED ALWAYS AS (balance * 2) STORED, balance numeric NOT NULL, lost int, owner text, id text NOT NULL);
ALTER TABLE account_b DROP COLUMN lost;
ALTER TABLE account ATTACH PARTITION account_b FOR VALUES IN ('b');
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' THEN RETURN NULL; END IF;
	state.id := event.aggregate_id;
	state.owner := coalesce(event.data->>'owner', state.owner);
	state.balance := coalesce(state.balance, 0) + coalesce((event.data->>'amount')::numeric, 0);
	RETURN state;
END $$;
INSERT INTO account VALUES ('a', 'left from before', 1);
SELECT es.append('account', 'a', 'Opened', '{"owner": "Ada", "amount": 1}');
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
SELECT es.append('account', 'b', 'Opened', '{"owner": "Bob", "amount": 10}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', id, 'Deposited', jsonb_build_object('amount', n) FROM unnest('{a,b,A}'::text[]) AS id, generate_series(1, 3) AS n;
SELECT tableoid::regclass, * FROM account ORDER BY id COLLATE "C";
SELECT es.append('account', 'A', 'Closed');
SELECT * FROM pg_temp.check_projections();

-- No partition: the append fails, and names it.
SELECT pg_temp.try($$SELECT es.append('account', 'c', 'Opened')$$) LIKE 'SE008: projection "account" failed: no partition of relation "account" found for row | % account/c,%';
\set VERBOSITY terse
SELECT count(*) FROM es.events WHERE aggregate_id = 'c';
-- A default partition; a partition taken out of it while events go on.
CREATE TABLE account_rest PARTITION OF account DEFAULT;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', id, 'Opened', '{"amount": 5}' FROM unnest('{c,d}'::text[]) AS id;
SELECT tableoid::regclass, id, owner, balance, twice FROM account ORDER BY id;
-- A column added with a default: old rows of a partition have it without having it.
ALTER TABLE account ADD COLUMN note text;
ALTER TABLE account ALTER COLUMN note SET DEFAULT 'none';
ALTER TABLE account ADD COLUMN extra int DEFAULT 7;
SELECT es.append('account', 'a', 'Deposited', '{"amount": 1}');
SELECT es.append('account', 'b', 'Deposited', '{"amount": 1}');
SELECT id, balance, extra FROM account ORDER BY id;
ALTER TABLE account DROP COLUMN extra;

-- Direct writes are refused, wherever they come in.
CREATE TABLE attempt (n serial, statement text);
INSERT INTO attempt (statement) VALUES
	('INSERT INTO account (id) VALUES (''c'')'), ('UPDATE account SET balance = 0'), ('DELETE FROM account'), ('TRUNCATE account'),
	('COPY account FROM ''/dev/null'''), ('INSERT INTO account_a (id) VALUES (''a'')'), ('UPDATE account_a SET balance = 0'),
	('UPDATE ONLY account_b SET balance = 0 WHERE false'), ('DELETE FROM account_rest'), ('TRUNCATE account_a'),
	('COPY account_b FROM ''/dev/null'''), ('MERGE INTO account_a USING (VALUES (''a'')) AS v (v) ON v = id WHEN MATCHED THEN DELETE');
SELECT statement, pg_temp.try(statement) FROM attempt ORDER BY n;
SET session_replication_role = replica;
SELECT pg_temp.try('DELETE FROM account_a');
RESET session_replication_role;
SELECT es.alter_projection('account', protect => false);
BEGIN;
UPDATE account_a SET balance = 1000;
SELECT es.append('account', 'a', 'Deposited', '{"amount": 1}');
SELECT * FROM account_a;
ROLLBACK;
SELECT tgrelid::regclass, tgenabled FROM pg_trigger WHERE tgname = 'es_protect' ORDER BY 1;
CREATE TABLE account_e PARTITION OF account FOR VALUES IN ('e');
SELECT es.alter_projection('account', protect => true);
SELECT tgrelid::regclass, tgenabled FROM pg_trigger WHERE tgname = 'es_protect' ORDER BY 1;
SELECT * FROM pg_temp.check_projections();

-- Partitions come and go.
SELECT es.append('account', 'e', 'Opened', '{"amount": 1}');
CREATE TABLE account_f PARTITION OF account FOR VALUES IN ('f') PARTITION BY LIST (id);
CREATE TABLE account_f1 PARTITION OF account_f FOR VALUES IN ('f');
SELECT pg_temp.try('UPDATE account_f SET balance = 0'), pg_temp.try('UPDATE account_f1 SET balance = 0');
SELECT es.append('account', 'f', 'Opened', '{"amount": 1}');
SELECT * FROM pg_temp.check_projections();
-- One that is detached is an ordinary table; its rows come back with it.
ALTER TABLE account DETACH PARTITION account_e;
SELECT pg_temp.try('UPDATE account_e SET owner = ''Eve''');
SELECT es.append('account', 'e', 'Deposited', '{"amount": 1}');
SELECT tableoid::regclass, id, balance FROM account WHERE id = 'e';
SELECT pg_temp.try('ALTER TABLE account ATTACH PARTITION account_e FOR VALUES IN (''e'')');
SELECT es.append('account', 'e', 'Closed');
ALTER TABLE account ATTACH PARTITION account_e FOR VALUES IN ('e');
SELECT pg_temp.try('UPDATE account_e SET owner = ''Eve''');
SELECT es.append('account', 'e', 'Deposited', '{"amount": 1}');
SELECT id, owner, balance FROM account_e;
SELECT events > 0, rows FROM es.replay('account');
SELECT id, owner, balance FROM account_e;
ALTER TABLE account DETACH PARTITION account_f;
SELECT pg_temp.try('UPDATE account_f SET balance = 0'), pg_temp.try('UPDATE account_f1 SET balance = 0');
DROP TABLE account_f;
SELECT es.append('account', 'f', 'Deposited', '{"amount": 1}');
SELECT tableoid::regclass, id, balance FROM account WHERE id = 'f';
SELECT es.replay('account') IS NOT NULL;
SELECT * FROM pg_temp.check_projections();
-- Dropping one drops its rows; their events are still there, and have no place to go.
DROP TABLE account_rest;
SELECT count(*) FROM account WHERE id IN ('c', 'd');
SELECT left(pg_temp.try('SELECT es.replay(''account'')'), 84);
SELECT es.append('account', 'a', 'Deposited', '{"amount": 1}');
CREATE TABLE account_rest PARTITION OF account DEFAULT;
SELECT events > 0 FROM es.replay('account');
SELECT * FROM pg_temp.check_projections();
-- Names are followed.
ALTER TABLE account RENAME TO konto;
ALTER TABLE account_a RENAME TO konto_a;
ALTER TABLE konto RENAME COLUMN owner TO holder;
ALTER TABLE konto RENAME COLUMN holder TO owner;
SELECT es.append('account', 'a', 'Deposited', '{"amount": 1}');
SELECT pg_temp.try('DELETE FROM konto_a');
SELECT * FROM pg_temp.check_projections();

-- What cannot be a partition, or a state table.
CREATE UNLOGGED TABLE unlogged (LIKE account_e INCLUDING ALL);
SELECT pg_temp.try('ALTER TABLE konto ATTACH PARTITION unlogged FOR VALUES IN (''u'')');
SELECT pg_temp.try('CREATE UNLOGGED TABLE u PARTITION OF konto FOR VALUES IN (''u'')');
CREATE FUNCTION konto_a_apply(state konto_a, event es.events) RETURNS konto_a LANGUAGE sql IMMUTABLE RETURN state;
SELECT pg_temp.try('SELECT es.create_projection(''part'', ''konto_a'', ''konto_a_apply'')');
CREATE TABLE above (LIKE konto INCLUDING GENERATED) PARTITION BY LIST (id);
SELECT pg_temp.try('ALTER TABLE above ATTACH PARTITION konto DEFAULT');
DROP TABLE above, unlogged;
-- An ordinary table again.
SELECT es.drop_projection('account');
SELECT count(*) FROM pg_trigger WHERE tgname = 'es_protect';
UPDATE konto_a SET balance = 0;
DROP TABLE konto, attempt CASCADE;

-- By range at two levels, on a composite key over many aggregates; constraints, triggers, toasted values.
CREATE TABLE turnover (day date, currency text, amount numeric NOT NULL CONSTRAINT amount_check CHECK (amount >= 0), note text, PRIMARY KEY (currency, day))
	PARTITION BY RANGE (day);
CREATE TABLE turnover_2025 PARTITION OF turnover FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE turnover_2026 (currency text NOT NULL, note text, amount numeric NOT NULL CONSTRAINT amount_check CHECK (amount >= 0), day date NOT NULL) PARTITION BY HASH (currency);
CREATE TABLE turnover_2026_0 PARTITION OF turnover_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE turnover_2026_1 (note text, day date NOT NULL, dropped int, currency text NOT NULL, amount numeric NOT NULL CONSTRAINT amount_check CHECK (amount >= 0));
ALTER TABLE turnover_2026_1 DROP COLUMN dropped;
ALTER TABLE turnover_2026 ATTACH PARTITION turnover_2026_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
ALTER TABLE turnover ATTACH PARTITION turnover_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE changes (n serial, tab text, op text, day date, currency text);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO changes (tab, op, day, currency) VALUES (TG_TABLE_NAME, TG_OP, coalesce(NEW.day, OLD.day), coalesce(NEW.currency, OLD.currency));
	RETURN NULL;
END $$;
CREATE TRIGGER note_change AFTER INSERT OR UPDATE OR DELETE ON turnover FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE FUNCTION turnover_apply(state turnover, event es.events) RETURNS turnover LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Forgotten' THEN NULL
	ELSE ROW((event.data->>'day')::date, event.data->>'currency', coalesce(state.amount, 0) + (event.data->>'amount')::numeric,
		coalesce(event.data->>'note', state.note))::turnover END;
SELECT es.create_projection('turnover', 'turnover', 'turnover_apply', key => 'data->>''currency'', (data->>''day'')::date', aggregate_types => '{sale}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'sale', n::text, 'Sold', jsonb_build_object('day', date '2025-11-01' + n % 100, 'currency', (ARRAY['eur', 'usd', 'gbp', 'chf'])[1 + n % 4], 'amount', n)
FROM generate_series(1, 1000) AS n;
SELECT tableoid::regclass, count(*), sum(amount) FROM turnover GROUP BY 1 ORDER BY 1;
SELECT tab, op, count(*) FROM changes GROUP BY 1, 2 ORDER BY 1, 2;
SELECT es.append('sale', '1', 'Sold', jsonb_build_object('day', '2026-02-01', 'currency', 'usd', 'amount', 1, 'note', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n)));
SELECT es.append('sale', '2', 'Sold', jsonb_build_object('day', '2026-02-01', 'currency', 'eur', 'amount', 1, 'note', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n)));
SELECT es.append('sale', '1', 'Sold', '{"day": "2026-02-01", "currency": "usd", "amount": 1}');
SELECT es.append('sale', '2', 'Sold', '{"day": "2026-02-01", "currency": "eur", "amount": 1}');
SELECT currency, amount, length(note) FROM turnover WHERE day = '2026-02-01' AND note IS NOT NULL ORDER BY 1;
SELECT pg_temp.try($$SELECT es.append('sale', '1', 'Sold', '{"day": "2026-02-01", "currency": "usd", "amount": -10}')$$) LIKE 'SE008: %violates check constraint "amount_check"%';
SELECT pg_temp.try($$SELECT es.append('sale', '1', 'Sold', '{"day": "2027-02-01", "currency": "usd", "amount": 10}')$$) LIKE 'SE008: %no partition of relation "turnover" found for row%';
SELECT pg_temp.try(format('DELETE FROM %s', t)) FROM unnest('{turnover,turnover_2025,turnover_2026,turnover_2026_1}'::text[]) AS t;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'sale', n::text, 'Forgotten', jsonb_build_object('day', date '2025-11-01' + n, 'currency', c)
FROM generate_series(1, 80) AS n, unnest('{eur,usd,chf}'::text[]) AS c;
SELECT * FROM pg_temp.check_projections();
-- The past, and what differs from the log.
SELECT count(*) FROM es.verify_projection('turnover');
SELECT es.alter_projection('turnover', protect => false);
UPDATE turnover_2025 SET amount = 0 WHERE day < '2025-11-11';
DELETE FROM turnover_2026_0 WHERE note IS NULL;
SELECT count(*) FILTER (WHERE actual IS NULL) > 0 AS lost, count(*) FILTER (WHERE actual->>'amount' = '0') > 0 AS changed FROM es.verify_projection('turnover');
SELECT es.alter_projection('turnover', protect => true);
CREATE TABLE turnover_copy (LIKE turnover);
SELECT es.replay_into('turnover', 'turnover_copy');
SELECT events > 0 FROM es.replay('turnover');
SELECT count(*) FROM es.verify_projection('turnover');
SELECT count(*) FROM (TABLE turnover EXCEPT ALL TABLE turnover_copy) AS d;
SELECT es.create_environment('before');
SELECT count(*) FROM (TABLE turnover EXCEPT ALL TABLE before.turnover) AS d;
DROP SCHEMA before CASCADE;
DROP TABLE turnover_copy;
-- A replay that needs several passes; foreign keys from and to the table are checked.
SET es.replay_memory = '64kB';
SELECT * FROM pg_temp.check_projections();
RESET es.replay_memory;
CREATE TABLE currency (currency text PRIMARY KEY) PARTITION BY LIST (currency);
CREATE TABLE currency_eur PARTITION OF currency FOR VALUES IN ('eur');
CREATE TABLE currency_rest PARTITION OF currency DEFAULT;
INSERT INTO currency VALUES ('eur'), ('usd'), ('gbp'), ('chf');
ALTER TABLE turnover ADD FOREIGN KEY (currency) REFERENCES currency;
CREATE TABLE audit (day date, currency text, FOREIGN KEY (day, currency) REFERENCES turnover (day, currency));
INSERT INTO audit VALUES ('2026-02-01', 'usd');
SELECT rows FROM es.replay('turnover');
SELECT es.append('sale', '1', 'Sold', '{"day": "2026-02-01", "currency": "yen", "amount": 1}');
SELECT left(pg_temp.try($$SELECT es.append('sale', '1', 'Forgotten', '{"day": "2026-02-01", "currency": "usd"}')$$), 64);
-- All rows of a partition go, in a replay with another function too.
CREATE FUNCTION turnover_2025(state turnover, event es.events) RETURNS turnover LANGUAGE sql IMMUTABLE
RETURN CASE WHEN event.data->>'day' >= '2026' THEN NULL
	ELSE ROW((event.data->>'day')::date, event.data->>'currency', 1, NULL)::turnover END;
TRUNCATE changes;
SELECT rows FROM es.replay('turnover', apply => 'turnover_2025');
DROP TABLE audit;
SELECT rows FROM es.replay('turnover', apply => 'turnover_2025');
SELECT count(*) FROM changes;
SELECT tableoid::regclass, count(*) FROM turnover GROUP BY 1;
SELECT es.append('sale', '1', 'Sold', '{"day": "2026-02-01", "currency": "usd", "amount": 10}');
SELECT rows FROM es.replay('turnover', apply => 'turnover_apply');
SELECT tableoid::regclass, count(*) FROM turnover GROUP BY 1 ORDER BY 1;
DROP TABLE turnover, changes, currency CASCADE;
SELECT name FROM es.projections;

-- By hash, on a key of another type; no partitions at all; a primary key that a partition lacks.
CREATE TABLE counter (n int, total int NOT NULL, PRIMARY KEY (n)) PARTITION BY HASH (n);
CREATE FUNCTION counter_apply(state counter, event es.events) RETURNS counter LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'n')::int, coalesce(state.total, 0) + 1)::counter;
SELECT es.create_projection('counter', 'counter', 'counter_apply', key => '(data->>''n'')::int', aggregate_types => '{thing}');
SELECT pg_temp.try($$SELECT es.append('thing', 'x', 'X', '{"n": 1}')$$) LIKE 'SE008: projection "counter" failed: no partition of relation "counter" found for row%';
SELECT rows FROM es.replay('counter');
DO $$
BEGIN
	FOR n IN 0..6 LOOP
		EXECUTE format('CREATE TABLE counter_%s PARTITION OF counter FOR VALUES WITH (MODULUS 7, REMAINDER %1$s)', n);
	END LOOP;
END $$;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'thing', (i % 10)::text, 'X', jsonb_build_object('n', i % 101) FROM generate_series(1, 2000) AS i;
SELECT count(*), sum(total) FROM counter;
SELECT count(DISTINCT tableoid) FROM counter;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT es.append('thing', 'x', 'X', '{"n": 1}');
COMMIT;
SELECT * FROM pg_temp.check_projections();
SELECT es.alter_projection('counter', enabled => false);
SELECT es.append('thing', 'x', 'X', '{"n": 2}');
SELECT es.alter_projection('counter', enabled => true);
SELECT * FROM pg_temp.check_projections();
ALTER TABLE counter DROP CONSTRAINT counter_pkey;
SELECT pg_temp.try($$SELECT es.append('thing', 'x', 'X', '{"n": 1}')$$) LIKE 'SE008: projection "counter" failed: state table "counter" has no primary key%';
ALTER TABLE ONLY counter ADD PRIMARY KEY (n);
SELECT pg_temp.try($$SELECT es.append('thing', 'x', 'X', '{"n": 1}')$$) ~ '^SE008: projection "counter" failed: .*primary key';
ALTER TABLE counter DROP CONSTRAINT counter_pkey, ADD PRIMARY KEY (n);
SELECT es.append('thing', 'x', 'X', '{"n": 1}');
SELECT * FROM pg_temp.check_projections();
DROP TABLE counter CASCADE;

-- Statements and batches.
CREATE TABLE visits (page text, n int NOT NULL, PRIMARY KEY (page)) PARTITION BY LIST (page);
CREATE TABLE visits_home PARTITION OF visits FOR VALUES IN ('home');
CREATE TABLE visits_rest PARTITION OF visits DEFAULT;
SELECT es.create_projection('visits', 'visits', aggregate_types => '{visit}');
SELECT es.set_handler('visits', 'Visited', $$INSERT INTO visits AS v VALUES (event.data->>'page', 1) ON CONFLICT (page) DO UPDATE SET n = v.n + 1$$);
SELECT es.set_handler('visits', 'Reset', $$DELETE FROM visits_home$$);
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'visit', n::text, 'Visited', jsonb_build_object('page', (ARRAY['home', 'news', 'shop'])[1 + n % 3]) FROM generate_series(1, 10) AS n;
SELECT es.append('visit', '1', 'Reset');
SELECT es.append('visit', '1', 'Visited', '{"page": "home"}');
SELECT tableoid::regclass, * FROM visits ORDER BY page;
SELECT pg_temp.try('DELETE FROM visits'), pg_temp.try('DELETE FROM visits_home');
SELECT events, rows FROM es.replay('visits', in_place => true);
SELECT tableoid::regclass, * FROM visits ORDER BY page;
CREATE TABLE visits_blog PARTITION OF visits FOR VALUES IN ('blog');
SELECT pg_temp.try('DELETE FROM visits_blog');
SELECT es.set_handler('visits', 'Visited', NULL), es.set_handler('visits', 'Reset', NULL);
SELECT es.set_batch_handler('visits', $$INSERT INTO visits AS v SELECT data->>'page', count(*) FROM events WHERE event_type = 'Visited' GROUP BY 1 ORDER BY 1 ON CONFLICT (page) DO UPDATE SET n = v.n + excluded.n$$);
SELECT es.append('visit', '1', 'Visited', '{"page": "blog"}');
SELECT events, rows FROM es.replay('visits', in_place => true);
SELECT tableoid::regclass, * FROM visits ORDER BY page;
SELECT es.drop_projection('visits');
DELETE FROM visits_home;
DROP TABLE visits;

DROP EXTENSION pg_eventsourcing CASCADE;
