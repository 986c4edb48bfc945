-- es.replay_into(): a projection's rows as of a moment, in another table.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

-- A state table with a column that was dropped, a generated one and a default.
CREATE TABLE account (gone int, id text PRIMARY KEY, "the Owner" text, balance numeric NOT NULL CHECK (balance >= -1000),
	twice numeric GENERATED ALWAYS AS (balance * 2) STORED, note text DEFAULT 'none');
ALTER TABLE account DROP COLUMN gone;
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
	WHEN 'Opened' THEN ROW(event.aggregate_id, event.data->>'owner', 0, NULL, NULL)::account
	WHEN 'Deposited' THEN ROW(state.id, state."the Owner", state.balance + (event.data->>'amount')::numeric, NULL, state.note)::account
	WHEN 'Closed' THEN NULL
	ELSE state
END;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
CREATE TABLE same (LIKE account INCLUDING ALL);

-- An empty log.
SELECT es.replay_into('account', 'same');
SELECT es.replay_into('account', 'same', as_of_position => 0), es.replay_into('account', 'same', as_of => 'infinity');

SELECT es.append('account', 'ada', 'Opened', '{"owner": "Ada"}');          -- 1
SELECT es.append('account', 'bob', 'Opened', '{"owner": "Bob"}');          -- 2
SELECT es.append('account', 'ada', 'Deposited', '{"amount": 100}', event_id => '00000000-0000-7000-8000-000000000003');
SELECT es.append('account', 'bob', 'Deposited', '{"amount": 50}');         -- 4
SELECT es.append('other', 'bob', 'Opened');                                -- 5
SELECT es.append('account', 'ada', 'Deposited', '{"amount": -30}', event_id => '00000000-0000-7000-8000-000000000006');
SELECT es.append('account', 'bob', 'Closed');                              -- 7
SELECT es.append('account', 'cid', 'Opened', '{"owner": "Cid"}');          -- 8

-- Now: what the state table holds, and what the transaction has appended.
SELECT es.replay_into('account', 'same');
TABLE same ORDER BY id;
(TABLE same EXCEPT ALL TABLE account) UNION ALL (TABLE account EXCEPT ALL TABLE same);
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''same'')');
TRUNCATE same;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT es.append('account', 'dan', 'Opened', '{"owner": "Dan"}');
SELECT es.replay_into('account', 'same');
SELECT id FROM same EXCEPT SELECT 'ada' ORDER BY id;
ROLLBACK;

-- As of each position: as the table was after that event.
CREATE TABLE history (moment bigint, LIKE account);
CREATE TEMP TABLE moment (LIKE account INCLUDING GENERATED);
DO $$
BEGIN
	FOR p IN 0..8 LOOP
		TRUNCATE moment;
		PERFORM es.replay_into('account', 'moment', as_of_position => p);
		INSERT INTO history SELECT p, * FROM moment;
	END LOOP;
END $$;
TABLE history ORDER BY moment, id;
-- The rows do not depend on the isolation level, nor on the memory.
TRUNCATE moment;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es.events WHERE position <= 8;
SET LOCAL es.replay_memory = '64kB';
SELECT es.replay_into('account', 'moment', as_of_position => 4);
SELECT id, balance FROM moment ORDER BY id;
ROLLBACK;

-- As of a time; with a position, both count.
SELECT recorded_at AS fourth FROM es.events WHERE position = 4 \gset
SELECT es.replay_into('account', 'moment', as_of => :'fourth');
SELECT id, balance FROM moment ORDER BY id;
TRUNCATE moment;
SELECT es.replay_into('account', 'moment', as_of => :'fourth', as_of_position => 3);
SELECT id, balance FROM moment ORDER BY id;
TRUNCATE moment;
SELECT es.replay_into('account', 'moment', as_of => '-infinity'), es.replay_into('account', 'moment', as_of => '1999-01-01');
SELECT es.replay_into('account', 'moment', as_of => 'tomorrow');
TRUNCATE moment;

-- A moment that is not there, or not yet.
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''moment'', as_of_position => -1)');
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''moment'', as_of_position => 1000000)') LIKE '22023: %';
BEGIN;
SELECT es.append('account', 'dan', 'Opened', '{"owner": "Dan"}');
SELECT regexp_replace(pg_temp.try(format('SELECT es.replay_into(''account'', ''moment'', as_of_position => %s)', max(position))), '\d+ is not.*position \d+', '# is not … #') FROM es.events;
SELECT es.replay_into('account', 'moment', as_of_position => 8);
ROLLBACK;

-- With another function, and without some events.
CREATE SCHEMA "Lab";
CREATE FUNCTION "Lab".fee_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state := account_apply(state, event);
	IF event.event_type = 'Deposited' AND (event.data->>'amount')::numeric < 0 THEN
		state.balance := state.balance - 1;
	END IF;
	RETURN state;
END $$;
SELECT es.replay_into('account', 'moment', apply => '"Lab".fee_apply');
SELECT id, balance, twice FROM moment ORDER BY id;
TRUNCATE moment;
SELECT es.replay_into('account', 'moment', exclude_event_ids => '{00000000-0000-7000-8000-000000000006}');
SELECT id, balance FROM moment ORDER BY id;
TRUNCATE moment;
SELECT es.replay_into('account', 'moment', exclude_event_ids =>
	'{{00000000-0000-7000-8000-000000000006,00000000-0000-7000-8000-000000000003},{00000000-0000-7000-8000-000000000006,00000000-0000-7000-8000-000000000003}}');
SELECT id, balance FROM moment ORDER BY id;
TRUNCATE moment;
SELECT es.replay_into('account', 'moment', exclude_event_ids => array_agg(event_id)) FROM es.events WHERE event_type = 'Closed';
TRUNCATE moment;
SELECT es.replay_into('account', 'moment', exclude_event_ids => '{}');
TRUNCATE moment;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''moment'', exclude_event_ids => ''{00000000-0000-7000-8000-000000000099}'')');
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''moment'', exclude_event_ids => ''{NULL}'')');
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''moment'', apply => ''missing'')') LIKE 'SE007: %';
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''moment'', apply => ''pg_catalog.lower'')') LIKE 'SE007: %';
SELECT apply FROM es.projections;
-- A function that fails, and an event without which it does not.
CREATE FUNCTION picky_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event.position = 6 THEN
		RAISE EXCEPTION 'not six';
	END IF;
	RETURN account_apply(state, event);
END $$;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''moment'', apply => ''picky_apply'')');
SELECT es.replay_into('account', 'moment', apply => 'picky_apply', exclude_event_ids => '{00000000-0000-7000-8000-000000000006}');
TRUNCATE moment;
SELECT es.replay_into('account', 'moment', apply => 'picky_apply', as_of_position => 5);
TRUNCATE moment;

-- Tables that fit: unlogged, partitioned, without a key, with more columns, with
-- columns in another order, with plain columns for generated ones.
CREATE UNLOGGED TABLE more (note text, id text, number int GENERATED ALWAYS AS IDENTITY, "the Owner" text COLLATE "C",
	day date DEFAULT '2026-01-01', twice numeric, free text, balance numeric(10, 1), thrice numeric GENERATED ALWAYS AS (balance * 3) STORED);
SELECT es.replay_into('account', 'more');
SELECT id, "the Owner", balance, twice, note, number > 0 AS number, day, free, thrice FROM more ORDER BY id;
CREATE TABLE parts (LIKE account INCLUDING GENERATED) PARTITION BY LIST (id);
CREATE TABLE part_ada PARTITION OF parts FOR VALUES IN ('ada');
CREATE TABLE part_other PARTITION OF parts DEFAULT;
SELECT es.replay_into('account', 'parts');
SELECT tableoid::regclass, id FROM parts ORDER BY id;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''parts'')');
CREATE TABLE without_generated (id text, "the Owner" text, balance numeric, note text);
SELECT es.replay_into('account', 'without_generated');
TABLE without_generated ORDER BY id;

-- The table's own rules hold: constraints, triggers.
CREATE TABLE rich (LIKE account, CHECK (balance > 50));
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''rich'')') LIKE '23514: %';
CREATE FUNCTION only_rich() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE WHEN new.balance > 50 THEN new END;
END $$;
CREATE FUNCTION count_rich() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE 'inserted % rows', (SELECT count(*) FROM inserted);
	RETURN NULL;
END $$;
CREATE TRIGGER only_rich BEFORE INSERT ON rich FOR EACH ROW EXECUTE FUNCTION only_rich();
CREATE TRIGGER count_rich AFTER INSERT ON rich REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION count_rich();
SET client_min_messages = notice;
SELECT es.replay_into('account', 'rich');
SET client_min_messages = warning;

-- Tables that do not fit.
CREATE TABLE lacks (id text, balance numeric, twice numeric, note text);
CREATE TABLE other_type (id text, "the Owner" text, balance int, twice numeric, note text);
CREATE TABLE is_generated (id text, "the Owner" text, balance numeric, note text GENERATED ALWAYS AS (id) STORED);
CREATE TABLE needs_more (LIKE account, more int NOT NULL);
CREATE TABLE narrow (LIKE account);
ALTER TABLE narrow ALTER "the Owner" TYPE varchar(2), ALTER id TYPE varchar(2);
CREATE VIEW account_view AS TABLE account;
CREATE SEQUENCE account_sequence;
SELECT t, regexp_replace(pg_temp.try(format('SELECT es.replay_into(''account'', %L)', t)), 'row contains.*', '…')
FROM unnest('{lacks,other_type,is_generated,needs_more,narrow,account_view,account_sequence,account,es.events,es.projection}'::text[]) AS t;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''missing'')');
SELECT pg_temp.try('SELECT es.replay_into(''account'', 4294967295::oid::regclass)');
SELECT pg_temp.try('SELECT es.replay_into(''account'', NULL)');
SELECT pg_temp.try('SELECT es.replay_into(NULL, ''moment'')');
SELECT pg_temp.try('SELECT es.replay_into(''missing'', ''moment'')');
SELECT pg_temp.try('SELECT es.replay_into('''', ''moment'')');
BEGIN READ ONLY;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''same'')') LIKE '25006: %';
SELECT es.replay_into('account', 'moment');
ROLLBACK;
CREATE TABLE kept (id text PRIMARY KEY, n int);
SELECT es.create_projection('kept', 'kept');
CREATE TABLE kept_copy (LIKE kept);
SELECT pg_temp.try('SELECT es.replay_into(''kept'', ''kept_copy'')');

-- Composite keys, by events of several aggregates; a name that needs quotes.
CREATE SCHEMA "Odd ""Schema""";
CREATE TABLE "Odd ""Schema"""."Tab""le" ("Key" text, day date, n int, PRIMARY KEY ("Key", day));
CREATE FUNCTION pair_apply(state "Odd ""Schema"""."Tab""le", event es.events) RETURNS "Odd ""Schema"""."Tab""le" LANGUAGE sql IMMUTABLE
RETURN ROW(event.event_type, '2026-01-01', coalesce(state.n, 0) + 1)::"Odd ""Schema"""."Tab""le";
SELECT es.create_projection('a "pair"', '"Odd ""Schema"""."Tab""le"', 'pair_apply', key => 'event_type, date ''2026-01-01''');
CREATE TABLE "Pair""s" (LIKE "Odd ""Schema"""."Tab""le" INCLUDING ALL);
SELECT es.replay_into('a "pair"', '"Pair""s"', as_of_position => 6);
TABLE "Pair""s" ORDER BY 1;
SELECT es.alter_projection('a "pair"', enabled => false);
SELECT es.append('account', 'dan', 'Opened', '{"owner": "Dan"}');
TRUNCATE "Pair""s";
SELECT es.replay_into('a "pair"', '"Pair""s"');
SELECT p."Key", s.n AS disabled, p.n AS now FROM "Pair""s" AS p JOIN "Odd ""Schema"""."Tab""le" AS s USING ("Key", day) WHERE s.n <> p.n;

-- Rights.  The fold runs as the owner, the INSERT as the caller.
CREATE ROLE regress_es_owner;
CREATE ROLE regress_es_analyst;
GRANT USAGE ON SCHEMA es TO regress_es_owner, regress_es_analyst;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_owner, regress_es_analyst;
GRANT CREATE ON SCHEMA public TO regress_es_analyst;
SET ROLE regress_es_analyst;
CREATE TEMP TABLE mine (id text, "the Owner" text, balance numeric, note text);
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''mine'')');
RESET ROLE;
GRANT SELECT ON es.events TO regress_es_owner, regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''mine'')');
RESET ROLE;
GRANT SELECT (id, balance) ON account TO regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''mine'')');
RESET ROLE;
GRANT SELECT ON account TO regress_es_analyst;
ALTER TABLE account OWNER TO regress_es_owner;
CREATE FUNCTION whoami_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.aggregate_id, current_user::text, 0::numeric, NULL::numeric, NULL::text);
END $$;
GRANT INSERT ON es.events TO regress_es_owner;
SET ROLE regress_es_owner;
SELECT rows FROM es.replay('account', apply => 'whoami_apply');
SET ROLE regress_es_analyst;
ALTER TABLE mine ADD who text DEFAULT current_user;
SELECT es.replay_into('account', 'mine');
SELECT DISTINCT "the Owner", who FROM mine;
TRUNCATE mine;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''mine'', apply => ''account_apply'')');
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''same'')');
RESET ROLE;
GRANT INSERT (id) ON same TO regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''same'')');
RESET ROLE;
-- Row-level security of the table filled is obeyed; that of what is read is a refusal.
GRANT INSERT ON same TO regress_es_analyst;
ALTER TABLE same ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON same FOR INSERT TO regress_es_analyst WITH CHECK (id <> 'cid');
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''same'')');
SELECT es.replay_into('account', 'same', as_of_position => 7);
RESET ROLE;
ALTER TABLE account ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.replay_into(''account'', ''mine'')');
RESET ROLE;
ALTER TABLE account DISABLE ROW LEVEL SECURITY;

DROP TABLE mine;
DROP OWNED BY regress_es_owner, regress_es_analyst CASCADE;
DROP ROLE regress_es_owner, regress_es_analyst;
DROP SCHEMA "Odd ""Schema""", "Lab" CASCADE;
DROP TABLE "Pair""s", same, history, moment, more, parts, without_generated, rich, lacks, other_type, is_generated, needs_more, narrow,
	kept, kept_copy CASCADE;
DROP SEQUENCE account_sequence;
DROP FUNCTION only_rich, count_rich;
DROP EXTENSION pg_eventsourcing CASCADE;
