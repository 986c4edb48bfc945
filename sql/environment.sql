-- es.create_environment(): the state tables as of a moment, in a new schema.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all
\set VERBOSITY terse

-- No projection, an empty log.
SELECT es.create_environment('nothing');
SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'nothing';
DROP SCHEMA nothing;

-- Two folds that must fit together: money goes from one row to another, and
-- is summed up. One of the tables has all that a table can have.
CREATE SCHEMA "Bank";
CREATE TABLE "Bank"."Account" (gone int, id text PRIMARY KEY, balance numeric NOT NULL DEFAULT 0 CHECK (balance > -1000),
	"twice the" numeric GENERATED ALWAYS AS (balance * 2) STORED, number int GENERATED ALWAYS AS IDENTITY, note text);
ALTER TABLE "Bank"."Account" ALTER note SET STORAGE EXTERNAL;
ALTER TABLE "Bank"."Account" DROP COLUMN gone;
CREATE UNIQUE INDEX account_lower ON "Bank"."Account" (lower(id)) INCLUDE (balance);
CREATE INDEX ON "Bank"."Account" (balance) WHERE balance < 0;
CREATE STATISTICS account_statistics ON id, balance FROM "Bank"."Account";
COMMENT ON TABLE "Bank"."Account" IS 'it''s money';
COMMENT ON COLUMN "Bank"."Account".balance IS 'euros';
CREATE FUNCTION "Bank".account_apply(state "Bank"."Account", event es.events) RETURNS "Bank"."Account" LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric, NULL, 7, NULL)::"Bank"."Account";
SELECT es.create_projection('account', '"Bank"."Account"', '"Bank".account_apply', aggregate_types => '{account}');
CREATE TABLE total (day date, currency text, amount numeric, n int, PRIMARY KEY (day, currency));
CREATE FUNCTION total_apply(state total, event es.events) RETURNS total LANGUAGE sql IMMUTABLE
RETURN ROW('2026-01-01', coalesce(event.source, 'EUR'), coalesce(state.amount, 0) + (event.data->>'amount')::numeric, coalesce(state.n, 0) + 1)::total;
SELECT es.create_projection('total', 'total', 'total_apply', key => 'date ''2026-01-01'', coalesce(source, ''EUR'')', aggregate_types => '{account}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', n % 10, 'Moved', jsonb_build_object('amount', n) FROM generate_series(1, 100) AS n;
SELECT recorded_at AS then, position AS fifty FROM es.events WHERE position = (SELECT min(position) + 49 FROM es.events) \gset
CREATE TEMP TABLE account_now AS TABLE "Bank"."Account";

SELECT es.create_environment('As "of" 50', as_of_position => :fifty);
SELECT tablename, tableowner = current_user AS own FROM pg_tables WHERE schemaname = 'As "of" 50' ORDER BY 1;
SELECT obj_description('"As ""of"" 50"'::regnamespace, 'pg_namespace');
SELECT sum(balance), count(*), sum("twice the") FROM "As ""of"" 50"."Account";
SELECT * FROM "As ""of"" 50".total;
\d "As ""of"" 50"."Account"
SELECT obj_description('"As ""of"" 50"."Account"'::regclass), col_description('"As ""of"" 50"."Account"'::regclass, 2);
SELECT attname, attstorage FROM pg_attribute WHERE attrelid = '"As ""of"" 50"."Account"'::regclass AND attname = 'note';
SELECT count(*) FROM pg_trigger WHERE tgrelid = '"As ""of"" 50"."Account"'::regclass;
-- It is nobody's projection: writes go through, appends don't reach it.
UPDATE "As ""of"" 50"."Account" SET balance = 1 WHERE id = '1';
SELECT es.append('account', '2', 'Moved', '{"amount": 1000}');
SELECT sum(balance) FROM "As ""of"" 50"."Account" WHERE id <> '1';
SELECT pg_temp.try('SELECT es.create_environment(''As "of" 50'')');
SELECT * FROM pg_temp.check_projections();

-- As of a time, and now.
SELECT es.create_environment('back', as_of => :'then');
SELECT (SELECT sum(balance) FROM back."Account"), (SELECT amount FROM back.total);
BEGIN;
SELECT es.append('account', 'mine', 'Moved', '{"amount": 5}');
SELECT es.create_environment('now');
SELECT count(*) FROM ((TABLE now."Account" EXCEPT ALL TABLE "Bank"."Account") UNION ALL (TABLE "Bank"."Account" EXCEPT ALL TABLE now."Account")) AS d;
SELECT count(*) FROM ((TABLE now.total EXCEPT ALL TABLE total) UNION ALL (TABLE total EXCEPT ALL TABLE now.total)) AS d;
ROLLBACK;
SELECT count(*) FROM pg_namespace WHERE nspname = 'now';
BEGIN ISOLATION LEVEL SERIALIZABLE;
SET LOCAL es.replay_memory = '64kB';
SELECT es.create_environment('now', projections => '{total,total}');
SELECT count(*) FROM pg_class WHERE relnamespace = 'now'::regnamespace AND relkind = 'r';
ROLLBACK;

-- Projections of other kinds, and of one name in two schemas.
CREATE TABLE kept (id text PRIMARY KEY, n int);
SELECT es.create_projection('kept', 'kept');
SET client_min_messages = notice;
SELECT es.create_environment('now');
SELECT relname FROM pg_class WHERE relnamespace = 'now'::regnamespace AND relkind = 'r' ORDER BY 1;
SET client_min_messages = warning;
DROP SCHEMA now CASCADE;
SELECT pg_temp.try('SELECT es.create_environment(''now'', projections => ''{total,kept}'')');
DROP SCHEMA now CASCADE;
SELECT pg_temp.try('SELECT es.create_environment(''now'', projections => ''{total,missing}'')');
SELECT pg_temp.try('SELECT es.create_environment(''now'', projections => ''{total,NULL}'')');
SELECT pg_temp.try('SELECT es.create_environment(NULL)');
SELECT pg_temp.try('SELECT es.create_environment('''')'), pg_temp.try('SELECT es.create_environment(''pg_x'')') LIKE '42939: %';
SELECT pg_temp.try('SELECT es.create_environment(''now'', as_of_position => 1000000)') LIKE '22023: %';
BEGIN READ ONLY;
SELECT pg_temp.try('SELECT es.create_environment(''now'')');
ROLLBACK;
SELECT es.create_environment('now', projections => '{}');
DROP SCHEMA now;
CREATE TABLE "Bank".total (LIKE total INCLUDING ALL);
CREATE FUNCTION "Bank".total_apply(state "Bank".total, event es.events) RETURNS "Bank".total LANGUAGE sql IMMUTABLE RETURN state;
SELECT es.create_projection('total of the bank', '"Bank".total', '"Bank".total_apply', key => 'date ''2026-01-01'', event_type');
SELECT pg_temp.try('SELECT es.create_environment(''now'')');
SELECT es.create_environment('now', projections => '{account,total of the bank}');
SELECT relname FROM pg_class WHERE relnamespace = 'now'::regnamespace AND relkind = 'r' ORDER BY 1;
DROP SCHEMA now CASCADE;
SELECT count(*) FROM pg_namespace WHERE nspname = 'now';

-- Rights: on the database, the log, the tables.
CREATE ROLE regress_es_analyst;
GRANT USAGE ON SCHEMA es, "Bank" TO regress_es_analyst;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA es TO regress_es_analyst;
SELECT current_database() AS database \gset
GRANT SELECT ON es.events, total TO regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT pg_temp.try('SELECT es.create_environment(''now'')');
SELECT pg_temp.try('SELECT es.create_environment(''now'', projections => ''{total}'')') LIKE '42501: %database%';
RESET ROLE;
GRANT CREATE ON DATABASE :"database" TO regress_es_analyst;
SET ROLE regress_es_analyst;
SELECT es.create_environment('now', projections => '{total}');
SELECT nspowner::regrole, (SELECT relowner::regrole FROM pg_class WHERE oid = 'now.total'::regclass) FROM pg_namespace WHERE nspname = 'now';
RESET ROLE;
DROP OWNED BY regress_es_analyst CASCADE;
DROP ROLE regress_es_analyst;
DROP SCHEMA "Bank", "As ""of"" 50", back CASCADE;
DROP TABLE total, kept CASCADE;
DROP EXTENSION pg_eventsourcing CASCADE;
