-- State tables in the life of a database: protection, DDL on the table and the
-- functions, constraints and triggers, rights.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

CREATE SCHEMA bank;
CREATE TABLE bank.account (id text PRIMARY KEY, balance numeric NOT NULL);
CREATE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Closed' THEN NULL
	ELSE ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric)::bank.account END;
SELECT es.create_projection('account', 'bank.account', 'bank.account_apply', aggregate_types => '{account}');
SELECT es.append('account', '1', 'Deposited', '{"amount": 10}');

-- Direct writes are refused, to the superuser too; the table of the error says so.
CREATE TABLE attempt (n serial, statement text);
INSERT INTO attempt (statement) VALUES
	('INSERT INTO bank.account VALUES (''2'', 0)'),
	('INSERT INTO bank.account VALUES (''1'', 0) ON CONFLICT (id) DO UPDATE SET balance = 0'),
	('INSERT INTO bank.account SELECT WHERE false'),
	('UPDATE bank.account SET balance = 0'),
	('UPDATE bank.account SET balance = 0 WHERE false'),
	('DELETE FROM bank.account'),
	('TRUNCATE bank.account'),
	('COPY bank.account FROM ''/dev/null'''),
	('MERGE INTO bank.account a USING (VALUES (''1'')) AS v (id) ON v.id = a.id WHEN MATCHED THEN UPDATE SET balance = 0'),
	('MERGE INTO bank.account a USING (VALUES (''2'')) AS v (id) ON v.id = a.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, 0)'),
	('WITH d AS (DELETE FROM bank.account RETURNING 1) SELECT count(*) FROM d'),
	('SELECT count(*) FROM (SELECT FROM bank.account FOR UPDATE) AS locked');
SELECT statement, left(pg_temp.try(statement), 69) FROM attempt ORDER BY n;
SET session_replication_role = replica;
SELECT statement, left(pg_temp.try(statement), 6) FROM attempt ORDER BY n LIMIT 4;
RESET session_replication_role;
SELECT pg_temp.try('DELETE FROM bank.account');
SELECT * FROM pg_temp.check_projections();

-- protect => false: rows may be changed by anybody who has the right.
CREATE TABLE bank.open (LIKE bank.account INCLUDING ALL);
CREATE FUNCTION bank.open_apply(state bank.open, event es.events) RETURNS bank.open LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric)::bank.open;
SELECT es.create_projection('open', 'bank.open', 'bank.open_apply', protect => false);
UPDATE bank.open SET balance = 1000;
SELECT es.append('account', '1', 'Deposited', '{"amount": 10}');
TABLE bank.open;
DELETE FROM bank.open;
SELECT es.append('account', '1', 'Deposited', '{"amount": 10}');
TABLE bank.open;
SELECT * FROM pg_temp.check_projections();
DROP TABLE bank.open CASCADE;

-- DDL on the table.  A function that names its columns in SQL is kept up by PostgreSQL.
ALTER TABLE bank.account ADD COLUMN note text;
ALTER TABLE bank.account ALTER COLUMN note SET DEFAULT 'new';
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT es.append('account', '2', 'Deposited', '{"amount": 2}');
TABLE bank.account ORDER BY id;
CREATE OR REPLACE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' THEN RETURN NULL; END IF;
	state.id := event.aggregate_id;
	state.balance := coalesce(state.balance, 0) + (event.data->>'amount')::numeric;
	state.note := coalesce(event.data->>'note', state.note);
	RETURN state;
END $$;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1, "note": "one"}');
SELECT es.append('account', '2', 'Deposited', '{"amount": 2}');
ALTER TABLE bank.account ADD COLUMN extra int;
ALTER TABLE bank.account ADD CONSTRAINT positive CHECK (balance >= 0);
CREATE INDEX ON bank.account (balance);
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1000}');
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1}');
SELECT * FROM pg_temp.check_projections();
ALTER TABLE bank.account DROP COLUMN extra;
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1}');
ALTER TABLE bank.account RENAME COLUMN note TO remark;
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1}');
CREATE OR REPLACE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' THEN RETURN NULL; END IF;
	state.id := event.aggregate_id;
	state.balance := coalesce(state.balance, 0) + (event.data->>'amount')::numeric;
	state.remark := coalesce(event.data->>'note', state.remark);
	RETURN state;
END $$;
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1}');
ALTER TABLE bank.account ALTER COLUMN balance TYPE integer;
-- PL/pgSQL keeps plans for the old type of a parameter's column until the function changes.
ALTER FUNCTION bank.account_apply COST 99;
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1}');
SELECT * FROM pg_temp.check_projections();
TABLE bank.account ORDER BY id;

-- The primary key goes, comes back, and another one comes.
ALTER TABLE bank.account DROP CONSTRAINT account_pkey;
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1}');
SELECT pg_temp.try('SELECT es.replay(''account'')');
ALTER TABLE bank.account ADD PRIMARY KEY (balance);
SELECT es.append('account', 'x', 'Withdrawn', '{"amount": 1}');
ALTER TABLE bank.account DROP CONSTRAINT account_pkey, ADD PRIMARY KEY (id);
SELECT es.append('account', '1', 'Withdrawn', '{"amount": -1}');
SELECT * FROM pg_temp.check_projections();

-- Renames are followed: the table, the function, the schema; also in a session
-- that knew the old names.
PREPARE deposit AS SELECT es.append('account', $1, 'Deposited', '{"amount": 3}');
EXECUTE deposit('1');
ALTER TABLE bank.account RENAME TO "Account";
EXECUTE deposit('1');
ALTER FUNCTION bank.account_apply RENAME TO "Apply";
EXECUTE deposit('1');
ALTER FUNCTION bank."Apply" SET SCHEMA public;
EXECUTE deposit('1');
ALTER TABLE bank."Account" SET SCHEMA public;
EXECUTE deposit('1');
ALTER SCHEMA bank RENAME TO money;
ALTER TABLE "Account" SET SCHEMA money;
ALTER FUNCTION "Apply" SET SCHEMA money;
EXECUTE deposit('1');
\c -
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
SELECT es.append('account', '1', 'Deposited', '{"amount": 3}');
SELECT name, target, apply FROM es.projections;
-- Another function of the old name is not mistaken for it.
CREATE FUNCTION money.account_apply(state money."Account", event es.events) RETURNS money."Account" LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, -1, 'wrong')::money."Account";
SELECT es.append('account', '1', 'Deposited', '{"amount": 3}');
SELECT * FROM pg_temp.check_projections();
ALTER TABLE money."Account" RENAME TO account;
DROP FUNCTION money.account_apply;
ALTER FUNCTION money."Apply" RENAME TO account_apply;

-- A function that is made unfit is noticed at the next append.
ALTER FUNCTION money.account_apply VOLATILE;
SELECT es.append('account', '1', 'Deposited', '{"amount": 3}');
ALTER FUNCTION money.account_apply IMMUTABLE STRICT;
SELECT es.append('account', '1', 'Deposited', '{"amount": 3}');
ALTER FUNCTION money.account_apply CALLED ON NULL INPUT;
SELECT es.append('account', '1', 'Deposited', '{"amount": 3}');

-- Dropping what a projection uses; rolled back, too.
RESET client_min_messages;
\set VERBOSITY default
DROP FUNCTION money.account_apply;
DROP TABLE money.account;
BEGIN;
DROP FUNCTION money.account_apply CASCADE;
SELECT name FROM es.projections;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1000}');
UPDATE money.account SET balance = 0;
ROLLBACK;
SELECT pg_temp.try('UPDATE money.account SET balance = 0');
BEGIN;
SAVEPOINT s;
SELECT es.drop_projection('account');
SELECT es.append('account', '1', 'Deposited', '{"amount": 2000}');
UPDATE money.account SET balance = 0;
ROLLBACK TO s;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
COMMIT;
SELECT * FROM pg_temp.check_projections();
DROP TRIGGER es_protect ON money.account;
BEGIN;
DROP TRIGGER es_protect ON money.account CASCADE;
SELECT count(*) FROM es.projections;
ROLLBACK;
SELECT es.drop_projection('account');
SELECT es.append('account', '1', 'Deposited', '{"amount": 5}');
SELECT es.create_projection('account', 'money.account', 'money.account_apply', aggregate_types => '{account}');
SELECT * FROM pg_temp.check_projections();
BEGIN;
SELECT es.create_projection('gone', 'attempt', 'money.account_apply');
ROLLBACK;
DROP FUNCTION money.account_apply CASCADE;
SELECT name FROM es.projections;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
DROP SCHEMA money CASCADE;
-- Also where the event trigger does not see it go.
CREATE TABLE unseen (id text PRIMARY KEY);
CREATE FUNCTION unseen_apply(state unseen, event es.events) RETURNS unseen LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id)::unseen;
SELECT es.create_projection('unseen', 'unseen', 'unseen_apply');
ALTER EVENT TRIGGER es_forget_dropped DISABLE;
DROP TABLE unseen CASCADE;
ALTER EVENT TRIGGER es_forget_dropped ENABLE ALWAYS;
\set VERBOSITY terse
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT es.replay('unseen');
\set VERBOSITY default
SELECT es.drop_projection('unseen');
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');

-- Constraints, generated and identity columns, foreign keys, triggers of the user's.
SET client_min_messages = warning;
\set VERBOSITY terse
CREATE TABLE kind (kind text PRIMARY KEY);
INSERT INTO kind VALUES ('person'), ('firm');
CREATE TABLE customer (id text PRIMARY KEY, kind text REFERENCES kind, email text UNIQUE,
	orders int NOT NULL CHECK (orders < 5), twice int GENERATED ALWAYS AS (orders * 2) STORED, serial bigint GENERATED ALWAYS AS IDENTITY);
CREATE TABLE visit (customer text REFERENCES customer, at int);
CREATE TABLE audit (n serial, operation text, id text, orders text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audit (operation, id, orders) VALUES (TG_OP, coalesce(NEW.id, OLD.id), concat_ws(' to ', OLD.orders, NEW.orders));
	RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON customer FOR EACH ROW EXECUTE FUNCTION audit();
CREATE FUNCTION customer_apply(state customer, event es.events) RETURNS customer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Left' THEN RETURN NULL; END IF;
	state.id := event.aggregate_id;
	state.kind := coalesce(event.data->>'kind', state.kind);
	state.email := coalesce(event.data->>'email', state.email);
	-- what it sees of a generated column does not depend on how events are batched
	state.orders := coalesce(state.orders, 0) + coalesce((event.data->>'orders')::int, 0) + coalesce(state.twice, 0);
	state.serial := event.version;
	RETURN state;
END $$;
SELECT es.create_projection('customer', 'customer', 'customer_apply', aggregate_types => '{customer}');
SELECT es.append('customer', 'a', 'Came', '{"kind": "person", "email": "a@x"}');
SELECT es.append('customer', 'a', 'Ordered', '{"orders": 1}');
SELECT es.append('customer', 'a', 'Ordered', '{"orders": 1}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES
	('customer', 'b', 'Came', '{"kind": "firm", "email": "b@x"}'), ('customer', 'b', 'Ordered', '{"orders": 1}'), ('customer', 'b', 'Ordered', '{"orders": 1}');
TABLE customer ORDER BY id;
SELECT es.append('customer', 'c', 'Came', '{"kind": "alien"}');
SELECT es.append('customer', 'c', 'Came', '{"kind": "firm", "email": "a@x"}');
SELECT es.append('customer', 'a', 'Ordered', '{"orders": 3}');
INSERT INTO visit VALUES ('a', 1);
SELECT es.append('customer', 'a', 'Left');
SELECT pg_temp.try('DELETE FROM kind');
-- One statement that moves a unique value from one row to another.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES
	('customer', 'a', 'Changed', '{"email": "a2@x"}'), ('customer', 'd', 'Came', '{"kind": "person", "email": "a@x"}'),
	('customer', 'b', 'Left', '{}'), ('customer', 'e', 'Came', '{"kind": "person", "email": "b@x"}');
SELECT id, email FROM customer ORDER BY id;
SELECT n - min(n) OVER () AS n, operation, id, orders FROM audit ORDER BY n;
SELECT * FROM pg_temp.check_projections();
TABLE customer ORDER BY id;

-- A trigger on the state table may append; it may not in the middle of another append.
CREATE FUNCTION welcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es.append('mail', NEW.id, 'Welcome');
	PERFORM es.append('customer', NEW.id, 'Welcomed');
	RETURN NULL;
END $$;
CREATE TRIGGER welcome AFTER INSERT ON customer FOR EACH ROW EXECUTE FUNCTION welcome();
SELECT es.append('customer', 'f', 'Came', '{"kind": "person"}');
SELECT event_type FROM es.events WHERE aggregate_id = 'f' ORDER BY position;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'customer', 'f', 'Copied' || es.append('customer', 'f', 'Inner');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'other', 'f', 'Copied' || es.append('customer', 'f', 'Inner') FROM generate_series(1, 2);
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'customer', 'f', 'Copied' || es.append('customer', 'f', 'Inner') FROM generate_series(1, 2);
SELECT event_type FROM es.events WHERE aggregate_id = 'f' ORDER BY position;
SELECT * FROM pg_temp.check_projections();
DROP TABLE customer, kind, visit, audit, attempt CASCADE;

-- Rights.  The appender has none on the state table; the projection acts as its owner.
CREATE ROLE regress_es_owner;
CREATE ROLE regress_es_appender;
CREATE ROLE regress_es_nobody;
GRANT USAGE ON SCHEMA es TO regress_es_owner, regress_es_appender;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_owner, regress_es_appender;
GRANT SELECT, TRIGGER ON es.events TO regress_es_owner;
GRANT INSERT ON es.events TO regress_es_appender;
CREATE SCHEMA vault AUTHORIZATION regress_es_owner;
SET ROLE regress_es_owner;
SET search_path = vault;
CREATE TABLE secret (id text PRIMARY KEY, who text, n int);
CREATE FUNCTION next(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE FUNCTION secret_apply(state secret, event es.events) RETURNS secret LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, current_user::text, next(coalesce(state.n, 0)));
END $$;
REVOKE ALL ON FUNCTION next(int), secret_apply FROM public;
SELECT es.create_projection('secret', 'secret', 'secret_apply', aggregate_types => '{secret}');
RESET search_path;
SET ROLE regress_es_appender;
SELECT es.append('secret', '1', 'X');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('secret', '1', 'X');
SELECT current_user;
SELECT pg_temp.try('TABLE vault.secret');
SELECT pg_temp.try('SELECT es.replay(''secret'')');
SELECT pg_temp.try('SELECT es.drop_projection(''secret'')');
SELECT pg_temp.try('TABLE es.projections');
CREATE TEMP TABLE mine (id text PRIMARY KEY);
RESET ROLE;
CREATE TABLE public.mine (id text PRIMARY KEY);
ALTER TABLE public.mine OWNER TO regress_es_appender;
CREATE FUNCTION mine_apply(state public.mine, event es.events) RETURNS public.mine LANGUAGE sql IMMUTABLE RETURN state;
SET ROLE regress_es_appender;
SELECT pg_temp.try('SELECT es.create_projection(''mine'', ''public.mine'', ''mine_apply'')');
SELECT pg_temp.try('SELECT es.create_projection(''other'', ''vault.secret'', ''mine_apply'')');
SET ROLE regress_es_nobody;
SELECT pg_temp.try('SELECT es.append(''secret'', ''1'', ''X'')');
SELECT pg_temp.try('SELECT es.replay(''secret'')');
SELECT pg_temp.try('SELECT es.create_projection(''mine'', ''public.mine'', ''mine_apply'')');
RESET ROLE;
TABLE vault.secret;
SET ROLE regress_es_owner;
SELECT events, rows FROM es.replay('secret');
TABLE vault.secret;
RESET ROLE;
-- A writer's temporary objects are not taken for the owner's.
CREATE DOMAIN vault.amount AS numeric;
CREATE TABLE vault.total (id text PRIMARY KEY, n numeric);
ALTER TABLE vault.total OWNER TO regress_es_owner;
SET search_path = vault;
CREATE FUNCTION total_apply(state total, event es.events) RETURNS total LANGUAGE sql IMMUTABLE AS $$
	SELECT ROW(event.aggregate_id, coalesce(state.n, 0) + (event.data->>'n')::amount)::total
$$;
CREATE FUNCTION total_called(state total, event es.events) RETURNS total LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + (event.data->>'n')::amount)::total;
END $$;
GRANT USAGE ON TYPE amount TO regress_es_owner;
SELECT es.create_projection('total', 'total', 'total_apply', aggregate_types => '{total}');
RESET search_path;
SET ROLE regress_es_appender;
SELECT es.append('total', '1', 'X', '{"n": 1.5}');
CREATE DOMAIN pg_temp.amount AS numeric(3, 0);
CREATE TEMP TABLE total (id text, n text);
SELECT es.append('total', '1', 'X', '{"n": 1.6}');
RESET ROLE;
SELECT rows FROM es.replay('total', apply => 'vault.total_called');
SET ROLE regress_es_appender;
SELECT es.append('total', '1', 'X', '{"n": 1.7}');
RESET ROLE;
TABLE vault.total;
SELECT rows FROM es.replay('total');
TABLE vault.total;
SELECT es.drop_projection('total');
-- The owner loses a right that the projection needs.
REVOKE ALL ON FUNCTION vault.secret_apply FROM regress_es_owner;
SELECT es.append('secret', '1', 'X');
GRANT EXECUTE ON FUNCTION vault.secret_apply TO regress_es_owner;
SELECT es.append('secret', '1', 'X');
SET ROLE regress_es_owner;
SELECT es.drop_projection('secret');
RESET ROLE;
DROP TABLE public.mine CASCADE;
DROP SCHEMA vault CASCADE;
DROP OWNED BY regress_es_owner, regress_es_appender;
DROP ROLE regress_es_owner, regress_es_appender, regress_es_nobody;

-- The extension goes with its projections, and comes again in the same session.
CREATE TABLE last (id text PRIMARY KEY);
CREATE FUNCTION last_apply(state last, event es.events) RETURNS last LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id)::last;
SELECT es.create_projection('last', 'last', 'last_apply');
SELECT pg_temp.try('DROP EXTENSION pg_eventsourcing') LIKE '2BP01: %';
DROP EXTENSION pg_eventsourcing CASCADE;
SELECT * FROM last ORDER BY id;
INSERT INTO last VALUES ('free');
CREATE EXTENSION pg_eventsourcing;
CREATE FUNCTION last_apply(state last, event es.events) RETURNS last LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id)::last;
SELECT es.create_projection('last', 'last', 'last_apply');
SELECT es.append('a', '1', 'X');
TABLE last;
DROP TABLE last CASCADE;
DROP FUNCTION audit, welcome;
-- A table that a dump of parts has brought without its projection, but with the trigger.
CREATE TABLE part (id text PRIMARY KEY, n integer) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF part DEFAULT;
CREATE TRIGGER es_protect BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON part FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();
CREATE TRIGGER es_protect BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON part_1 FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_direct_write();
CREATE FUNCTION part_apply(state part, event es.events) RETURNS part LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 1)::part;
SELECT es.create_projection('part', 'part', 'part_apply', aggregate_types => '{part}');
SELECT tgrelid::regclass, tgenabled FROM pg_trigger WHERE tgname = 'es_protect' AND tgrelid IN ('part'::regclass, 'part_1'::regclass) ORDER BY 1;
SELECT es.append('part', '1', 'X');
TABLE part;
SELECT es.drop_projection('part');
INSERT INTO part VALUES ('2', 2);
-- (One of that name that is somebody's own stays.)
CREATE TRIGGER es_protect BEFORE INSERT ON part FOR EACH STATEMENT EXECUTE FUNCTION suppress_redundant_updates_trigger();
SELECT es.create_projection('part', 'part', 'part_apply', aggregate_types => '{part}');
DROP TABLE part CASCADE;

-- Tables of the extension with columns that somebody has added, or a later version.
DO $$
DECLARE
	t regclass;
BEGIN
	FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'es'::regnamespace AND relkind = 'r' LOOP
		FOR n IN 1 .. 40 LOOP
			EXECUTE format('ALTER TABLE %s ADD COLUMN more_%s text', t, n);
		END LOOP;
	END LOOP;
END $$;
CREATE TABLE more (id text PRIMARY KEY);
SELECT es.create_projection('more', 'more', event_types => '{More}');
SELECT es.set_handler('more', 'More', 'INSERT INTO more VALUES (event.aggregate_id)');
SELECT es.append('more', '1', 'More');
SELECT es.alter_projection('more', mode => 'async');
SELECT es.run_projections('more');
SELECT es.create_subscription('more', event_types => '{More}');
SELECT aggregate_id FROM es.fetch('more');
SELECT es.nack(lease_id, (SELECT max(position) FROM es.events), 'no', true) FROM es.subscriptions WHERE name = 'more';
SELECT es.retry_parked('more');
SELECT name, status FROM es.projections WHERE name = 'more';
TABLE more;
SELECT es.drop_projection('more'), es.drop_subscription('more');
DROP TABLE more;

DROP EXTENSION pg_eventsourcing;
