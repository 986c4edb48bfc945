-- What hangs on a state table stays what it is when a replay swaps its storage.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET es.progress_interval = 0; -- no messages, however slow the machine is
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

-- A table with a dropped column, columns added later, toasted values and
-- indexes of all kinds.
CREATE SCHEMA swap;
CREATE TABLE swap.account (id text PRIMARY KEY, gone integer, body text, n integer NOT NULL CHECK (n >= 0), email text NOT NULL,
	list integer[], span int4range, doc jsonb);
ALTER TABLE swap.account DROP COLUMN gone;
ALTER TABLE swap.account ALTER body SET STORAGE EXTERNAL;
CREATE FUNCTION swap.account_apply(state swap.account, event es.events) RETURNS swap.account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' THEN
		RETURN NULL;
	END IF;
	state.id := event.aggregate_id;
	state.n := coalesce(state.n, 0) + 1;
	state.body := coalesce(state.body, '') || repeat(md5(event.aggregate_id), (event.data->>'length')::integer);
	state.email := event.aggregate_id || '@example.com';
	state.list := ARRAY[state.n, length(state.body)];
	state.span := int4range(event.aggregate_id::integer * 10, event.aggregate_id::integer * 10 + 1);
	state.doc := event.data;
	RETURN state;
END $$;
SELECT es.create_projection('account', 'swap.account', 'swap.account_apply', aggregate_types => '{account}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', i % 100, CASE WHEN i % 71 = 0 THEN 'Closed' ELSE 'Noted' END, jsonb_build_object('length', i % 40)
FROM generate_series(1, 1000) AS i;
ALTER TABLE swap.account ADD COLUMN later integer DEFAULT 77, ADD COLUMN twice integer GENERATED ALWAYS AS (n * 2) STORED;
CREATE OR REPLACE FUNCTION swap.account_apply(state swap.account, event es.events) RETURNS swap.account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.event_type = 'Closed' THEN
		RETURN NULL;
	END IF;
	state.id := event.aggregate_id;
	state.n := coalesce(state.n, 0) + 1;
	state.body := coalesce(state.body, '') || repeat(md5(event.aggregate_id), (event.data->>'length')::integer);
	state.email := event.aggregate_id || '@example.com';
	state.list := ARRAY[state.n, length(state.body)];
	state.span := int4range(event.aggregate_id::integer * 10, event.aggregate_id::integer * 10 + 1);
	state.doc := event.data;
	state.later := coalesce(state.later, 77);
	RETURN state;
END $$;
CREATE INDEX account_partial ON swap.account (n) WHERE n > 3;
CREATE INDEX account_expression ON swap.account (lower(email), (n + 1) DESC NULLS LAST) WITH (fillfactor = 70);
CREATE UNIQUE INDEX account_including ON swap.account (email) INCLUDE (n);
CREATE INDEX account_hash ON swap.account USING hash (email);
CREATE INDEX account_gin ON swap.account USING gin (list) WITH (fastupdate = off);
CREATE INDEX account_path ON swap.account USING gin (doc jsonb_path_ops);
CREATE INDEX account_gist ON swap.account USING gist (span);
CREATE INDEX account_brin ON swap.account USING brin (n) WITH (pages_per_range = 4);
CREATE INDEX account_spgist ON swap.account USING spgist (email);
CREATE INDEX account_row ON swap.account ((account IS NOT NULL));
CREATE UNIQUE INDEX account_identity ON swap.account (email, id);
ALTER TABLE swap.account ADD EXCLUDE USING gist (span WITH &&);
ALTER TABLE swap.account ADD UNIQUE (email, n) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE swap.account ADD UNIQUE NULLS NOT DISTINCT (email);
ALTER TABLE swap.account REPLICA IDENTITY USING INDEX account_identity;
ALTER INDEX swap.account_expression ALTER COLUMN 2 SET STATISTICS 99;
CLUSTER swap.account USING account_identity;
CREATE STATISTICS swap.account_statistics ON email, n FROM swap.account;
COMMENT ON INDEX swap.account_expression IS 'a comment';
ANALYZE swap.account;
SELECT * FROM pg_temp.check_projections();

-- All that the catalogs say, but for the storage itself.
CREATE FUNCTION swap.catalogs() RETURNS SETOF text LANGUAGE sql AS $$
WITH here AS (SELECT * FROM pg_class WHERE relnamespace = 'swap'::regnamespace),
storage AS (SELECT '{relfilenode,relpages,reltuples,relallvisible,relallfrozen,reltoastrelid,relfrozenxid,relminmxid}'::text[] AS columns)
SELECT 'class ' || (to_jsonb(c) - columns)::text FROM here AS c, storage
UNION ALL SELECT 'index ' || (to_jsonb(i) - 'indcheckxmin')::text FROM pg_index AS i WHERE indrelid = 'swap.account'::regclass
UNION ALL SELECT 'column ' || (to_jsonb(a) - 'atthasmissing' - 'attmissingval')::text FROM pg_attribute AS a JOIN here AS c ON c.oid = a.attrelid
UNION ALL SELECT 'depend ' || to_jsonb(d)::text FROM pg_depend AS d JOIN here AS c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
UNION ALL SELECT 'dependent ' || to_jsonb(d)::text FROM pg_depend AS d JOIN here AS c ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
	WHERE NOT EXISTS (SELECT FROM pg_class AS t WHERE t.oid = d.objid AND t.relkind = 't')
UNION ALL SELECT 'toast ' || (to_jsonb(t) - columns - 'oid' - 'reltype')::text FROM storage, here AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid
UNION ALL SELECT 'toast of ' || d.deptype::text || d.refobjid::regclass::text FROM here AS c JOIN pg_depend AS d ON d.objid = c.reltoastrelid
UNION ALL SELECT 'toast index ' || i.indexrelid::regclass::text FROM here AS c JOIN pg_index AS i ON i.indrelid = c.reltoastrelid
UNION ALL SELECT 'constraint ' || to_jsonb(c)::text FROM pg_constraint AS c WHERE conrelid = 'swap.account'::regclass
UNION ALL SELECT 'trigger ' || to_jsonb(t)::text FROM pg_trigger AS t WHERE tgrelid = 'swap.account'::regclass
UNION ALL SELECT 'relations ' || count(*) FROM pg_class UNION ALL SELECT 'columns ' || count(*) FROM pg_attribute
UNION ALL SELECT 'dependencies ' || count(*) FROM pg_depend UNION ALL SELECT 'types ' || count(*) FROM pg_type
$$;
CREATE TEMP TABLE before (what text);
CREATE TEMP VIEW changed AS
SELECT '-' AS sign, what FROM (TABLE before EXCEPT ALL SELECT swap.catalogs()) AS gone
UNION ALL
SELECT '+' AS sign, what FROM (SELECT swap.catalogs() EXCEPT ALL TABLE before) AS new(what);
INSERT INTO before SELECT swap.catalogs();
SELECT rows FROM es.replay('account');
SELECT * FROM changed;
SELECT * FROM pg_temp.check_projections();
SELECT count(*) FILTER (WHERE later IS NULL) AS nulls, bool_and(twice = n * 2) AS generated FROM swap.account;
SELECT count(*) FROM pg_attribute WHERE attrelid = 'swap.account'::regclass AND atthasmissing;

-- Several replays in one transaction, with subtransactions that roll back.
BEGIN;
SELECT rows FROM es.replay('account');
SAVEPOINT a;
SELECT es.append('account', '1', 'Noted', '{"length": 20}');
SELECT rows FROM es.replay('account');
SELECT es.append('account', '2', 'Noted', '{"length": 30}');
ROLLBACK TO a;
SELECT es.append('account', '3', 'Noted', '{"length": 20}');
SELECT rows FROM es.replay('account');
SAVEPOINT b;
SELECT rows FROM es.replay('account');
RELEASE b;
COMMIT;
SELECT * FROM pg_temp.check_projections();
BEGIN;
SAVEPOINT a;
SELECT rows FROM es.replay('account');
ROLLBACK TO a;
SELECT rows FROM es.replay('account');
SELECT es.append('account', '4', 'Noted', '{"length": 20}');
COMMIT;
BEGIN;
SELECT rows FROM es.replay('account');
SELECT es.append('account', '4', 'Noted', '{"length": 20}');
ROLLBACK;
SELECT * FROM pg_temp.check_projections();
DO $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			PERFORM es.replay('account');
			RAISE EXCEPTION 'undo';
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
SELECT * FROM changed;

-- Each index finds what a scan of the table finds.
SET enable_seqscan = off;
CREATE TEMP TABLE found AS
SELECT (SELECT count(*) FROM swap.account WHERE id >= '') AS pkey, (SELECT count(*) FROM swap.account WHERE email >= '') AS email,
	(SELECT count(*) FROM swap.account WHERE n > 3) AS n, (SELECT count(*) FROM swap.account WHERE lower(email) > '3') AS lower,
	(SELECT count(*) FROM swap.account WHERE list @> '{9}') AS list, (SELECT count(*) FROM swap.account WHERE doc @> '{"length": 10}') AS doc,
	(SELECT count(*) FROM swap.account WHERE span && '[1,500)') AS span, (SELECT count(*) FROM swap.account WHERE email = '7@example.com') AS hash;
RESET enable_seqscan;
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SET enable_indexonlyscan = off;
TABLE found EXCEPT
SELECT (SELECT count(*) FROM swap.account WHERE id >= ''), (SELECT count(*) FROM swap.account WHERE email >= ''),
	(SELECT count(*) FROM swap.account WHERE n > 3), (SELECT count(*) FROM swap.account WHERE lower(email) > '3'),
	(SELECT count(*) FROM swap.account WHERE list @> '{9}'), (SELECT count(*) FROM swap.account WHERE doc @> '{"length": 10}'),
	(SELECT count(*) FROM swap.account WHERE span && '[1,500)'), (SELECT count(*) FROM swap.account WHERE email = '7@example.com');
RESET enable_indexscan;
RESET enable_bitmapscan;
RESET enable_indexonlyscan;

-- The constraints are at work.
ALTER TABLE swap.account DISABLE TRIGGER es_protect;
SELECT pg_temp.try($$INSERT INTO swap.account (id, n, email, span) VALUES ('x', 1, 'x', '[70,71)')$$);
SELECT pg_temp.try($$INSERT INTO swap.account (id, n, email) VALUES ('x', 1, '7@example.com')$$);
SELECT pg_temp.try($$INSERT INTO swap.account (id, n, email) VALUES ('7', 1, 'x')$$);
ALTER TABLE swap.account ENABLE ALWAYS TRIGGER es_protect;

-- PostgreSQL's own commands go on with the new storage.
VACUUM swap.account;
ANALYZE swap.account;
VACUUM (FREEZE) swap.account;
SELECT age(c.relfrozenxid) BETWEEN 0 AND 1000 AS table, age(t.relfrozenxid) BETWEEN 0 AND 1000 AS toast
FROM pg_class AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid WHERE c.oid = 'swap.account'::regclass;
REINDEX TABLE swap.account;
CLUSTER swap.account;
VACUUM FULL swap.account;
SELECT rows FROM es.replay('account');
SELECT * FROM pg_temp.check_projections();

-- A replay is refused while the session uses the table.
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM swap.account ORDER BY id;
FETCH c;
SAVEPOINT a;
SELECT rows FROM es.replay('account');
ROLLBACK TO a;
FETCH c;
CLOSE c;
SELECT rows FROM es.replay('account');
COMMIT;
SELECT r.rows FROM swap.account, LATERAL es.replay('account') AS r;

-- Table, projection and replays in one transaction.
BEGIN;
CREATE TABLE swap.other (id text PRIMARY KEY, n integer, body text);
CREATE FUNCTION swap.other_apply(state swap.other, event es.events) RETURNS swap.other LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1, repeat(md5(event.aggregate_id), 1000))::swap.other;
SELECT es.create_projection('other', 'swap.other', 'swap.other_apply');
SELECT es.append('other', '1', 'Noted');
SELECT rows FROM es.replay('other');
CREATE INDEX ON swap.other (n);
SELECT rows FROM es.replay('other');
SELECT es.append('other', '1', 'Noted');
COMMIT;
SELECT * FROM pg_temp.check_projections();
SELECT relname FROM pg_class WHERE relname LIKE 'pg_temp_%' OR relname LIKE '%replay%' AND relnamespace = 'swap'::regnamespace;

DROP SCHEMA swap CASCADE;
DROP EXTENSION pg_eventsourcing CASCADE;
