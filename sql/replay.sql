-- es.replay(): the state table built anew from the log.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET es.progress_interval = 0; -- no messages, however slow the machine is
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

-- An empty log.
CREATE TABLE account (id text PRIMARY KEY, owner text, balance numeric NOT NULL CHECK (balance >= -1000),
	twice numeric GENERATED ALWAYS AS (balance * 2) STORED, note text DEFAULT 'none');
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' THEN
		RETURN NULL;
	ELSIF event.event_type = 'Opened' THEN
		state := ROW(event.aggregate_id, event.data->>'owner', 0, NULL, NULL);
	ELSIF event.event_type = 'Deposited' THEN
		state.balance := state.balance + (event.data->>'amount')::numeric;
	END IF;
	RETURN state;
END $$;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
SELECT projection, events, rows, up_to_position, elapsed >= '0' AS elapsed FROM es.replay('account');
SELECT * FROM es.replay(projection => 'account', apply => NULL, parallel_workers => 2) AS r (a, b, c, d, e) WHERE false;

-- The same as by the writers.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', n % 50, CASE WHEN n < 50 THEN 'Opened' WHEN n % 97 = 0 THEN 'Closed' WHEN n % 89 = 0 THEN 'Opened' ELSE 'Noted' END,
	jsonb_build_object('owner', n)
FROM generate_series(0, 499) AS n;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', id, 'Deposited', jsonb_build_object('amount', id::int + 0.5) FROM account ORDER BY id;
SELECT es.append('other', '1', 'Opened');
SELECT projection, events, rows, up_to_position = (SELECT max(position) FROM es.events) AS all FROM es.replay('account');
SELECT * FROM pg_temp.check_projections();

-- A damaged table is repaired.
ALTER TABLE account DISABLE TRIGGER es_protect;
UPDATE account SET balance = 0 WHERE id < '3';
DELETE FROM account WHERE id LIKE '4%';
INSERT INTO account (id, owner, balance) VALUES ('stranger', 'nobody', 1);
ALTER TABLE account ENABLE ALWAYS TRIGGER es_protect;
SELECT * FROM pg_temp.check_projections();
SELECT * FROM pg_temp.check_projections();

-- All that hangs on the table survives: views, indexes, foreign keys, grants,
-- triggers, comments, statistics, the OID.
CREATE VIEW rich AS SELECT id FROM account WHERE balance > 40;
CREATE MATERIALIZED VIEW rich_stored AS SELECT id FROM account WHERE balance > 40;
CREATE INDEX account_owner ON account (owner) WHERE balance > 10;
CREATE UNIQUE INDEX account_lower ON account (lower(id)) INCLUDE (balance);
CREATE STATISTICS account_statistics ON owner, balance FROM account;
CREATE TABLE card (account text REFERENCES account, number int);
INSERT INTO card VALUES ('1', 1), ('2', 2), (NULL, 3);
CREATE TABLE owner (owner text PRIMARY KEY);
INSERT INTO owner SELECT DISTINCT owner FROM account;
ALTER TABLE account ADD FOREIGN KEY (owner) REFERENCES owner;
CREATE ROLE regress_es_reader;
GRANT SELECT (id, balance), REFERENCES (id) ON account TO regress_es_reader;
COMMENT ON COLUMN account.balance IS 'euros';
ALTER TABLE account ALTER COLUMN owner SET STATISTICS 7, ALTER COLUMN note SET STORAGE EXTERNAL, SET (fillfactor = 90);
CREATE TABLE seen (n int, what text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen VALUES (1, TG_OP);
	RETURN NEW;
END $$;
CREATE TRIGGER see AFTER INSERT OR UPDATE ON account FOR EACH ROW EXECUTE FUNCTION see();
SET client_min_messages = error;
CREATE PUBLICATION es_publication FOR TABLE account;
SET client_min_messages = warning;
CLUSTER account USING account_pkey;
ANALYZE account;
SELECT 'account'::regclass::oid AS oid, pg_relation_filenode('account') AS node, count(*) AS statistics FROM pg_stats WHERE tablename = 'account' \gset
CREATE TEMP TABLE before AS
SELECT relname, relkind, relowner, relacl, reloptions, relhasindex, relhastriggers, relreplident, relispartition FROM pg_class WHERE oid = 'account'::regclass OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'account'::regclass);
CREATE TEMP TABLE before_attributes AS SELECT attnum, attname, atttypid, attstattarget, attstorage, attnotnull, atthasdef, attgenerated, attacl FROM pg_attribute WHERE attrelid = 'account'::regclass;
CREATE TEMP TABLE before_others AS
SELECT conname::text AS name, oid, pg_get_constraintdef(oid) AS what FROM pg_constraint WHERE 'account'::regclass IN (conrelid, confrelid)
UNION ALL SELECT tgname, oid, tgenabled::text FROM pg_trigger WHERE tgrelid = 'account'::regclass AND NOT tgisinternal
UNION ALL SELECT indexrelid::regclass::text, indexrelid, concat(indisvalid, indisprimary, indisclustered, pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = 'account'::regclass;
SELECT rows FROM es.replay('account');
SELECT 'account'::regclass::oid = :oid AS same_oid, pg_relation_filenode('account') <> :node AS new_storage;
TABLE before EXCEPT SELECT relname, relkind, relowner, relacl, reloptions, relhasindex, relhastriggers, relreplident, relispartition FROM pg_class WHERE oid = 'account'::regclass OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'account'::regclass);
SELECT count(*) FROM before_attributes b LEFT JOIN pg_attribute a ON a.attrelid = 'account'::regclass AND a.attnum = b.attnum
WHERE (a.attname, a.atttypid, a.attstattarget, a.attstorage, a.attnotnull, a.atthasdef, a.attgenerated, a.attacl) IS DISTINCT FROM
	(b.attname, b.atttypid, b.attstattarget, b.attstorage, b.attnotnull, b.atthasdef, b.attgenerated, b.attacl);
SELECT name, what FROM before_others EXCEPT (
SELECT conname::text AS name, pg_get_constraintdef(oid) AS what FROM pg_constraint WHERE 'account'::regclass IN (conrelid, confrelid)
UNION ALL SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = 'account'::regclass AND NOT tgisinternal
UNION ALL SELECT indexrelid::regclass::text, concat(indisvalid, indisprimary, indisclustered, pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = 'account'::regclass);
SELECT count(*) = :statistics AS same_statistics FROM pg_stats WHERE tablename = 'account';
SELECT count(*) FROM seen;
SELECT count(*) FROM rich;
SET enable_seqscan = off;
SELECT id, balance FROM account WHERE lower(id) = '7';
SELECT id FROM account WHERE owner = '7' AND balance > 10;
SELECT count(*) FROM account WHERE id >= '1';
RESET enable_seqscan;
SET ROLE regress_es_reader;
SELECT id, balance FROM account WHERE id = '7';
RESET ROLE;
SELECT es.append('account', '7', 'Deposited', '{"amount": 1}');
SELECT count(*) FROM seen;
SELECT pg_temp.try('INSERT INTO card VALUES (''none'', 4)') LIKE '23503: %';
SELECT * FROM pg_temp.check_projections();
-- Nothing is left beside the table.
SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%';

-- Foreign keys are checked: from the table and to it.
ALTER TABLE owner DISABLE TRIGGER ALL;
DELETE FROM owner WHERE owner = '7';
ALTER TABLE owner ENABLE TRIGGER ALL;
SELECT pg_temp.try('SELECT es.replay(''account'')');
INSERT INTO owner VALUES ('7');
ALTER TABLE card DISABLE TRIGGER ALL;
INSERT INTO card VALUES ('none', 4);
ALTER TABLE card ENABLE TRIGGER ALL;
SELECT pg_temp.try('SELECT es.replay(''account'')');
DELETE FROM card WHERE account = 'none';
SELECT rows FROM es.replay('account');

-- A new apply function that does not fit the table, or the key, or fails: the
-- table is as it was.
CREATE FUNCTION worse_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' THEN
		RETURN NULL;
	ELSIF event.event_type = 'Opened' THEN
		RETURN ROW(CASE event.data->>'owner' WHEN '12' THEN 'another' ELSE event.aggregate_id END, event.data->>'owner', 1::numeric, NULL::numeric, NULL::text);
	END IF;
	RETURN state;
END $$;
CREATE TEMP TABLE kept AS TABLE account;
SELECT apply FROM es.projections;
SELECT regexp_replace(pg_temp.try('SELECT es.replay(''account'', apply => ''worse_apply'')'), 'event id .{36}', 'event id ID');
CREATE OR REPLACE FUNCTION worse_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state := ROW(event.aggregate_id, '1', -1001, NULL, NULL);
	RETURN state;
END $$;
SELECT regexp_replace(pg_temp.try('SELECT es.replay(''account'', apply => ''worse_apply'')'), 'event id .{36}', 'event id ID');
CREATE OR REPLACE FUNCTION worse_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.version > 10 THEN
		RAISE EXCEPTION 'no more than ten';
	END IF;
	state := ROW(event.aggregate_id, '1', 1, NULL, NULL);
	RETURN state;
END $$;
SELECT regexp_replace(pg_temp.try('SELECT es.replay(''account'', apply => ''worse_apply'')'), 'event id .{36}', 'event id ID');
CREATE UNIQUE INDEX account_unique ON account (owner, balance);
CREATE OR REPLACE FUNCTION worse_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state := ROW(event.aggregate_id, '1', 1, NULL, NULL);
	RETURN state;
END $$;
SELECT regexp_replace(pg_temp.try('SELECT es.replay(''account'', apply => ''worse_apply'')'), 'event id .{36}', 'event id ID');
DROP INDEX account_unique;
SELECT pg_temp.try('SELECT es.replay(''account'', apply => ''missing'')');
SELECT pg_temp.try('SELECT es.replay(''account'', apply => '''')') NOT LIKE 'ok%';
SELECT count(*) FROM (TABLE account EXCEPT ALL TABLE kept) AS d;
SELECT apply FROM es.projections;
SELECT es.append('account', '7', 'Deposited', '{"amount": 1}');
SELECT * FROM pg_temp.check_projections();
-- One that fits is rolled out with its rows.
CREATE FUNCTION better_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state := account_apply(state, event);
	IF state.id IS NOT NULL THEN
		state.note := 'better';
	END IF;
	RETURN state;
END $$;
BEGIN;
SELECT rows FROM es.replay('account', apply => 'better_apply');
SELECT es.append('account', '7', 'Deposited', '{"amount": 1}');
SELECT note, count(*) FROM account GROUP BY note;
ROLLBACK;
SELECT note, count(*) FROM account GROUP BY note;
SELECT rows FROM es.replay('account', apply => 'better_apply(account, es.events)');
SELECT es.append('account', '7', 'Deposited', '{"amount": 1}');
SELECT note, count(*) FROM account GROUP BY note;
SELECT name, apply FROM es.projections;
SELECT * FROM pg_temp.check_projections();
SELECT rows FROM es.replay('account', apply => 'account_apply');
SELECT pg_temp.try('DROP FUNCTION account_apply') LIKE '2BP01%', pg_temp.try('DROP FUNCTION better_apply(account, es.events)');

-- Within a transaction that appends, before and after; rolled back, too.
BEGIN;
SELECT es.append('account', '7', 'Deposited', '{"amount": 1}');
SELECT es.append('account', 'new', 'Opened', '{"owner": "7"}');
SELECT rows FROM es.replay('account');
SELECT es.append('account', 'new', 'Deposited', '{"amount": 1}');
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT rows FROM es.replay('account');
SELECT * FROM pg_temp.check_projections();
COMMIT;
SELECT * FROM pg_temp.check_projections();
BEGIN;
SAVEPOINT s;
SELECT es.append('account', '7', 'Closed');
SELECT es.append('account', 'new', 'Deposited', '{"amount": 1}');
SELECT rows FROM es.replay('account');
ROLLBACK TO s;
SELECT balance FROM account WHERE id = 'new';
SELECT es.append('account', 'new', 'Deposited', '{"amount": 2}');
SAVEPOINT t;
SELECT rows FROM es.replay('account');
RELEASE t;
SELECT es.append('account', 'new', 'Deposited', '{"amount": 4}');
COMMIT;
SELECT balance FROM account WHERE id = 'new';
SELECT * FROM pg_temp.check_projections();
DO $$
BEGIN
	PERFORM es.append('account', 'new', 'Deposited', '{"amount": 8}');
	BEGIN
		PERFORM es.replay('account');
		RAISE EXCEPTION 'undo';
	EXCEPTION WHEN raise_exception THEN
		PERFORM es.replay('account');
	END;
	PERFORM es.append('account', 'new', 'Deposited', '{"amount": 16}');
END $$;
SELECT balance FROM account WHERE id = 'new';
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT rows FROM es.replay('account');
SELECT es.append('account', 'new', 'Deposited', '{"amount": 32}');
COMMIT;
SELECT * FROM pg_temp.check_projections();

-- The table is in use, in the way; names and rights.
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM account;
FETCH 1 FROM c \g /dev/null
SELECT pg_temp.try('SELECT es.replay(''account'')');
CLOSE c;
SELECT rows FROM es.replay('account');
COMMIT;
SELECT pg_temp.try('SELECT count(*) FROM account, es.replay(''account'')');
SELECT pg_temp.try('SELECT es.replay(''missing'')');
SELECT pg_temp.try('SELECT es.replay(NULL)');
SELECT pg_temp.try('SELECT es.replay('''')');
SELECT left(pg_temp.try('SELECT es.replay(repeat(''x'', 100000))'), 30);
SELECT pg_temp.try('SELECT es.replay(''account'', parallel_workers => -1)');
SELECT left(pg_temp.try('SET es.replay_memory = ''1kB'''), 6), left(pg_temp.try('SET es.replay_memory = 0'), 6);
BEGIN READ ONLY;
SELECT pg_temp.try('SELECT es.replay(''account'')');
ROLLBACK;
GRANT USAGE ON SCHEMA es TO regress_es_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_reader;
SET ROLE regress_es_reader;
SELECT pg_temp.try('SELECT es.replay(''account'')');
SELECT pg_temp.try('SELECT es.replay(''account'', apply => ''account_apply'')');
RESET ROLE;
DROP PUBLICATION es_publication;
DROP TABLE account, card, owner, seen CASCADE;
REVOKE USAGE ON SCHEMA es FROM regress_es_reader;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA es FROM regress_es_reader;
DROP ROLE regress_es_reader;

-- More keys than fit into memory: the log is read in parts.
CREATE TABLE counter (id text PRIMARY KEY, n int, first int, last int, log text);
CREATE FUNCTION counter_apply(state counter, event es.events) RETURNS counter LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Removed' THEN NULL ELSE
	ROW(event.aggregate_id, coalesce(state.n, 0) + 1, coalesce(state.first, (event.data->>'i')::int), (event.data->>'i')::int,
		left(concat(event.data->>'i', ' ', state.log), 30))::counter END;
SELECT es.create_projection('counter', 'counter', 'counter_apply', aggregate_types => '{counter}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'counter', i % 20000, CASE WHEN i % 7 = 0 THEN 'Removed' ELSE 'Counted' END, jsonb_build_object('i', i) FROM generate_series(1, 50000) AS i;
CREATE TEMP TABLE counted AS TABLE counter;
SELECT count(*), sum(n), sum(first), sum(last) FROM counter;
SET es.replay_memory = '64kB';
SELECT events, rows FROM es.replay('counter');
SELECT count(*) FROM ((TABLE counter EXCEPT ALL TABLE counted) UNION ALL (TABLE counted EXCEPT ALL TABLE counter)) AS d;
SET es.replay_memory = '500kB';
SELECT events, rows FROM es.replay('counter');
SELECT count(*) FROM ((TABLE counter EXCEPT ALL TABLE counted) UNION ALL (TABLE counted EXCEPT ALL TABLE counter)) AS d;
RESET es.replay_memory;

-- Events whose place in es.events is not in the order of their positions: the
-- space of a rolled-back INSERT is filled again.  The fold minds the order, and
-- fails where an event comes before its predecessor.
CREATE TABLE chain (id text PRIMARY KEY, version bigint, hash text);
CREATE FUNCTION chain_apply(state chain, event es.events) RETURNS chain LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.version <> coalesce(state.version, 0) + 1 THEN
		RAISE EXCEPTION 'version % after %', event.version, state.version;
	END IF;
	RETURN ROW(event.aggregate_id, event.version, md5(concat(state.hash, event.position)));
END $$;
CREATE TABLE chains (number int PRIMARY KEY, n bigint, hash text);
CREATE FUNCTION chains_apply(state chains, event es.events) RETURNS chains LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id::int % 3, coalesce(state.n, 0) + 1, md5(concat(state.hash, event.position)))::chains;
SELECT es.create_projection('chain', 'chain', 'chain_apply', aggregate_types => '{chain}');
SELECT es.create_projection('chains', 'chains', 'chains_apply', key => 'aggregate_id::int % 3', aggregate_types => '{chain}');
ALTER TABLE es.events SET (autovacuum_enabled = off);
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'chain', i % 10, 'X' FROM generate_series(1, 100) AS i;
BEGIN;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'chain', i % 10, 'X' FROM generate_series(1, 3000) AS i;
ROLLBACK;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'chain', i % 10, 'X' FROM generate_series(1, 200) AS i;
VACUUM es.events;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) SELECT 'chain', i % 12, 'X' FROM generate_series(1, 1000) AS i;
SELECT bool_or(a.ctid < b.ctid) AS misordered FROM es.events AS a JOIN es.events AS b ON a.position > b.position AND a.aggregate_type = 'chain'
	AND b.aggregate_type = 'chain' AND a.aggregate_id = b.aggregate_id;
SELECT * FROM pg_temp.check_projections('chain%');
SET es.replay_memory = '64kB';
SELECT * FROM pg_temp.check_projections('chain%');
RESET es.replay_memory;
-- An error that the order does not explain names the first event that fails.
CREATE FUNCTION strict_apply(state chain, event es.events) RETURNS chain LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state := chain_apply(state, event);
	IF state.version > 75 AND state.id = '7' THEN
		RAISE EXCEPTION 'too many';
	END IF;
	RETURN state;
END $$;
SELECT substring(pg_temp.try('SELECT es.replay(''chain'', apply => ''strict_apply'')') FROM '.*chain/7, version \d+');
SELECT * FROM pg_temp.check_projections('chain%');

DROP TABLE counter, chain, chains CASCADE;
DROP FUNCTION see;
DROP EXTENSION pg_eventsourcing;
