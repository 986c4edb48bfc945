-- Keys of state tables: every kind of type that has a B-tree operator class.
-- Values that are equal in the type's eyes are one row, whatever they look like.

\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/oracle.sql'
CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
\set ECHO none
\i :oracle
\set ECHO all

-- Makes a projection whose primary key is of the type, found by the aggregate's
-- id, and one whose key is of a domain over it, found by an expression.  Each
-- value makes events in one statement and one by one, and its row goes and comes
-- again.  Tells whether all is as it must be, and in how many rows the values result.
CREATE FUNCTION pg_temp.try_key(type text, vals text[], OUT result text) LANGUAGE plpgsql AS $$
DECLARE
	cast_to text; key text; seen text; value text; kind text; numbers bigint[]; keys text[];
BEGIN
	EXECUTE 'CREATE DOMAIN k_domain AS ' || type;
	FOREACH key IN ARRAY ARRAY[NULL, '(data->>''value'')::k_domain'] LOOP
		cast_to := CASE WHEN key IS NULL THEN regexp_replace(type, ' COLLATE .*', '') ELSE 'k_domain' END;
		EXECUTE format('CREATE TABLE k_table (log text NOT NULL, id %s PRIMARY KEY)',
			CASE cast_to WHEN 'k_domain' THEN cast_to ELSE type END);
		EXECUTE format($f$CREATE FUNCTION k_apply(state k_table, event es.events) RETURNS k_table LANGUAGE plpgsql IMMUTABLE AS '
			BEGIN
				IF event.event_type = ''gone'' THEN RETURN NULL; END IF;
				state.id := (event.data->>''value'')::%s;
				state.log := concat(state.log, event.version, event.event_type);
				RETURN state;
			END' $f$, cast_to);
		kind := concat_ws(' ', type, cast_to, key);
		PERFORM es.create_projection('k', 'k_table', 'k_apply', aggregate_types => ARRAY[kind], key => key);
		INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
		SELECT kind, v, 'a', jsonb_build_object('value', v) FROM generate_series(1, 2), unnest(vals) AS v;
		FOREACH value IN ARRAY vals LOOP
			PERFORM es.append(kind, value, 'b', jsonb_build_object('value', value));
		END LOOP;
		PERFORM es.append(kind, vals[1], 'gone', jsonb_build_object('value', vals[1]));
		INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
		SELECT kind, v, 'c', jsonb_build_object('value', v) FROM unnest(vals) AS v;
		SELECT concat_ws(', ', 'state ' || nullif(c.state, 'right'), 'replayed ' || nullif(c.replayed, 'right')), numbers || c.rows
		INTO STRICT seen, numbers FROM pg_temp.check_projections() AS c;
		result := concat_ws(', ', result, nullif(seen, ''), (SELECT 'verify ' || min(v::text) FROM es.verify_projection('k') AS v));
		EXECUTE 'SELECT array_agg(id::text) FROM k_table' INTO keys;
		PERFORM es.replay_keys('k', keys);
		SELECT concat_ws(', ', result, 'replayed by key ' || nullif(c.state, 'right')) INTO STRICT result FROM pg_temp.check_projections() AS c;
		DROP TABLE k_table CASCADE;
	END LOOP;
	DROP DOMAIN k_domain;
	result := concat(coalesce(nullif(result, '') || ', ', ''), (SELECT string_agg(DISTINCT n::text, ' or ') FROM unnest(numbers) AS n));
END $$;

CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE COLLATION ignore_accents (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
CREATE TYPE colour AS ENUM ('red', 'green', 'Red');
CREATE TYPE pair AS (n numeric, word text);
CREATE TYPE nocase_pair AS (word text COLLATE ignore_case, n integer);
CREATE TYPE nested AS (p pair, words text[]);
CREATE TYPE price AS (amount money, rate numeric);
CREATE TYPE spread AS RANGE (subtype = price);
-- A type with an order of its own, and no hash function: half of it doesn't count.
CREATE TYPE half AS (counts integer, not_so text);
CREATE FUNCTION half_cmp(half, half) RETURNS integer LANGUAGE sql IMMUTABLE STRICT RETURN sign($1.counts - $2.counts);
CREATE FUNCTION half_lt(half, half) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1.counts < $2.counts;
CREATE FUNCTION half_le(half, half) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1.counts <= $2.counts;
CREATE FUNCTION half_eq(half, half) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1.counts = $2.counts;
CREATE FUNCTION half_ge(half, half) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1.counts >= $2.counts;
CREATE FUNCTION half_gt(half, half) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1.counts > $2.counts;
CREATE OPERATOR < (LEFTARG = half, RIGHTARG = half, FUNCTION = half_lt);
CREATE OPERATOR <= (LEFTARG = half, RIGHTARG = half, FUNCTION = half_le);
CREATE OPERATOR = (LEFTARG = half, RIGHTARG = half, FUNCTION = half_eq, MERGES);
CREATE OPERATOR >= (LEFTARG = half, RIGHTARG = half, FUNCTION = half_ge);
CREATE OPERATOR > (LEFTARG = half, RIGHTARG = half, FUNCTION = half_gt);
CREATE OPERATOR CLASS half_ops DEFAULT FOR TYPE half USING btree AS
	OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 half_cmp(half, half);

SELECT type, rows, nullif(pg_temp.try_key(type, vals), rows::text) AS wrong FROM (VALUES
	(1, 'smallint', 2, '{1,01,-1}'::text[]),
	(2, 'integer', 2, '{7,007,-7}'),
	(3, 'bigint', 2, '{9223372036854775807,09223372036854775807,0}'),
	(4, 'numeric', 4, '{1,1.0,1.00,NaN,nan,0,-0,1e3,1000}'),
	(5, 'numeric(6,2)', 2, '{1.234,1.23,1.230,2}'),
	(6, 'real', 3, '{0,-0,NaN,1.5,1.50}'),
	(7, 'double precision', 4, '{0,-0,infinity,-infinity,NaN,nan}'),
	(8, 'money', 2, '{1,1.00,2}'),
	(9, 'boolean', 2, '{t,true,yes,f,0}'),
	(10, '"char"', 2, '{a,b}'),
	(11, 'name', 2, '{n,N}'),
	(12, 'text', 3, '{a,A,"a "}'),
	(13, 'text COLLATE "C"', 3, '{a,A,"a "}'),
	(14, 'text COLLATE ignore_case', 2, '{a,A,á,Á}'),
	(15, 'text COLLATE ignore_accents', 1, '{a,A,á,Á}'),
	(16, 'varchar(3)', 2, '{abc,ab}'),
	(17, 'varchar(3) COLLATE ignore_case', 1, '{abc,ABC}'),
	(18, 'char(5)', 2, '{a,"a ","a    ",b}'),
	(19, 'char(5) COLLATE ignore_case', 1, '{a,"A "}'),
	(20, 'bytea', 3, E'{\\\\x00,\\\\x0001,\\\\x00ff,\\\\x00FF}'),
	(21, 'uuid', 1, '{A0000000-0000-0000-0000-000000000001,a0000000000000000000000000000001}'),
	(22, 'date', 3, '{2026-01-01,20260101,infinity,-infinity}'),
	(23, 'time', 1, '{12:00,12:00:00.000}'),
	(24, 'time(0)', 2, '{12:00,12:00:00.3,12:00:01}'),
	(25, 'timetz', 2, '{12:00+00,12:00:00+00,13:00+01}'),
	(26, 'timestamp', 1, '{2026-01-01 00:00,2026-01-01T00:00:00.000}'),
	(27, 'timestamptz', 2, '{2026-01-01 00:00+00,2026-01-01 01:00+01,2026-01-01 00:00-08}'),
	(28, 'timestamptz(0)', 1, '{2026-01-01 00:00+00,2026-01-01 00:00:00.4+00}'),
	(29, 'interval', 2, '{1 day,24 hours,1 mon,30 days,29 days 24 hours}'),
	(30, 'inet', 3, '{10.0.0.1,10.0.0.1/32,10.0.0.1/24,::1}'),
	(31, 'cidr', 2, '{10.0.0.0/8,10/8,10.0.0.0/16}'),
	(32, 'macaddr', 1, '{08:00:2b:01:02:03,08002B010203}'),
	(33, 'macaddr8', 1, '{08:00:2b:01:02:03:04:05,08002B0102030405}'),
	(34, 'bit(3)', 2, '{101,111}'),
	(35, 'varbit', 3, '{101,1010,0}'),
	(36, 'oid', 2, '{1,01,4294967295}'),
	(37, 'tid', 2, '{"(0,1)","( 0,1)","(1,0)"}'),
	(38, 'pg_lsn', 1, '{0/A,0/0A,0/a}'),
	(39, 'xid8', 1, '{7,07}'),
	(40, 'oidvector', 2, '{1 2,"1  2",1}'),
	(41, 'tsvector', 2, '{a b,b a,a:1 b}'),
	(42, 'tsquery', 2, '{a & b,a&b,b}'),
	(43, 'jsonb', 3, '{1,1.0,"{\"a\":1,\"b\":2}","{\"b\":2,\"a\":1.0}","null"}'),
	(44, 'colour', 3, '{red,Red,green}'),
	(45, 'integer[]', 3, '{"{1,2}","{ 1, 2}","[0:1]={1,2}","{2}"}'),
	(46, 'numeric[]', 2, '{"{1.0,NULL}","{1.00,NULL}","{NULL}"}'),
	(47, 'text[] COLLATE ignore_case', 1, '{"{a,b}","{A,B}"}'),
	(48, 'money[]', 1, '{"{1}","{1.00}"}'),
	(49, 'pair[]', 1, '{"{\"(1.0,a)\"}","{\"(1.00,a)\"}"}'),
	(50, 'int4range', 2, '{"[1,2]","[1,3)",empty,"(1,1)"}'),
	(51, 'numrange', 2, '{"[1.0,2)","[1.00,2.0)","[1,)"}'),
	(52, 'tstzrange', 1, '{"[2026-01-01 00:00+00,)","[2026-01-01 01:00+01,)"}'),
	(53, 'nummultirange', 1, '{"{[1,2),[2,3)}","{[1.0,3.0)}"}'),
	(54, 'pair', 4, '{"(1.0,a)","(1.00,a)","(1,b)","(,)","(1,)","(1.0,)"}'),
	(55, 'nocase_pair', 1, '{"(a,1)","(A,1)"}'),
	(56, 'nested', 1, '{"(\"(1.0,a)\",{x})","(\"(1.00,a)\",{x})"}'),
	(57, 'price', 2, '{"(1,1.0)","(1.00,1.00)","(1,2)"}'),
	(58, 'spread', 1, '{"[\"(1,1.0)\",\"(2,1)\")","[\"(1,1)\",\"(2,1.0)\")"}'),
	(59, 'half', 2, '{"(1,a)","(1,b)","(2,a)"}')) AS v (n, type, rows, vals)
ORDER BY n;

-- The row keeps what apply makes of the key, last spelling included.
CREATE TABLE spelt (id numeric PRIMARY KEY, log text);
CREATE FUNCTION spelt_apply(state spelt, event es.events) RETURNS spelt LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'n')::numeric, concat(state.log, ' ' || (event.data->>'n')))::spelt;
SELECT es.create_projection('spelt', 'spelt', 'spelt_apply', key => $$(data->>'n')::numeric$$, aggregate_types => '{spelt}');
SELECT es.append('spelt', '1', 'x', '{"n": 1}'), es.append('spelt', '2', 'x', '{"n": 1.0}');
TABLE spelt;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES ('spelt', '1', 'x', '{"n": 1.000}'), ('spelt', '2', 'x', '{"n": 1.00}');
TABLE spelt;
SELECT * FROM pg_temp.check_projections();
DROP TABLE spelt CASCADE;

-- A key that the column can't hold is refused, not cut to fit, so that it can't
-- be the row of another aggregate.
CREATE TABLE short (id varchar(3) PRIMARY KEY, log text);
CREATE FUNCTION short_apply(state short, event es.events) RETURNS short LANGUAGE sql IMMUTABLE AS $$
	SELECT ROW(event.aggregate_id, concat(state.log, event.version))::short
$$;
SELECT es.create_projection('short', 'short', 'short_apply', aggregate_types => '{short}');
SELECT es.append('short', 'abc', 'x');
\set VERBOSITY terse
SELECT es.append('short', 'abcd', 'x');
-- SQL lets a length cut off spaces.
SELECT es.append('short', 'abc ', 'x');
TABLE short;
SELECT es.drop_projection('short');
CREATE DOMAIN three AS varchar(3);
ALTER TABLE short ALTER COLUMN id TYPE three;
SELECT es.create_projection('short', 'short', 'short_apply', aggregate_types => '{short}');
SELECT es.append('short', 'abcd', 'x');
SELECT * FROM pg_temp.check_projections();
SELECT es.drop_projection('short');
TRUNCATE short;
ALTER TABLE short ALTER COLUMN id TYPE numeric(3,1) USING 0;
CREATE OR REPLACE FUNCTION short_apply(state short, event es.events) RETURNS short LANGUAGE sql IMMUTABLE AS $$
	SELECT ROW(event.aggregate_id::numeric, concat(state.log, event.version))::short
$$;
SELECT es.create_projection('short', 'short', 'short_apply', aggregate_types => '{number}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('number', '1.04', 'x'), ('number', '1', 'x'), ('number', '1.06', 'x');
SELECT es.append('number', '100', 'x');
SELECT pg_temp.try($$SELECT es.append('number', 'one', 'x')$$) LIKE 'SE008: projection "short" failed: invalid input syntax for type numeric: "one" | Event %' AS named;
\set VERBOSITY default
TABLE short ORDER BY id;
SELECT * FROM pg_temp.check_projections();
DROP TABLE short CASCADE;

-- Several columns of all sorts; one is null: no row.
CREATE TABLE mixed (day date, who text COLLATE ignore_case, n numeric, "Kind" colour, tags text[], log text,
	PRIMARY KEY (who, n, day, tags, "Kind") INCLUDE (log));
CREATE FUNCTION mixed_apply(state mixed, event es.events) RETURNS mixed LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state.day := event.occurred_at AT TIME ZONE 'UTC';
	state.who := coalesce(state.who, event.data->>'who');
	state.n := event.data->>'n';
	state."Kind" := event.event_type;
	state.tags := ARRAY(SELECT jsonb_array_elements_text(event.data->'tags'));
	state.log := concat(state.log, event.aggregate_id);
	RETURN state;
END $$;
CREATE FUNCTION tags(jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE RETURN ARRAY(SELECT jsonb_array_elements_text($1));
SELECT es.create_projection('mixed', 'mixed', 'mixed_apply', aggregate_types => '{mixed}',
	key => $$data->>'who', (data->>'n')::numeric, (occurred_at AT TIME ZONE 'UTC')::date, tags(data->'tags'), event.event_type::colour$$);
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, occurred_at, data)
SELECT 'mixed', n, CASE n % 2 WHEN 0 THEN 'red' ELSE 'green' END, '2026-01-01 12:00Z'::timestamptz + (n % 3) * interval '1 hour',
	jsonb_build_object('who', CASE WHEN n % 11 <> 0 THEN CASE WHEN n % 4 < 2 THEN 'Ada' ELSE 'ADA' END END,
		'n', CASE WHEN n % 5 < 3 THEN 1.0 ELSE 1.00 END, 'tags', CASE WHEN n % 7 = 0 THEN '["a", "b"]' ELSE '[]' END::jsonb)
FROM generate_series(1, 40) AS n;
SELECT es.append('mixed', '41', 'red', '{"who": "aDA", "n": 1}', occurred_at => '2026-01-01 23:59:59.99Z');
SELECT es.append('mixed', '42', 'red', '{"who": "aDA", "n": 1, "tags": []}', occurred_at => '2026-01-01 23:59:59.99Z');
SELECT * FROM mixed ORDER BY "Kind", tags;
SELECT * FROM pg_temp.check_projections();
DROP TABLE mixed CASCADE;
DROP FUNCTION tags;

-- Many keys that have no hash function, and less memory than they need.
CREATE TABLE priced (id price PRIMARY KEY, n bigint);
CREATE FUNCTION priced_apply(state priced, event es.events) RETURNS priced LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id::price, coalesce(state.n, 0) + 1)::priced;
SELECT es.create_projection('priced', 'priced', 'priced_apply', aggregate_types => '{priced}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type)
SELECT 'priced', format('(%s,%s)', n, f), 'x' FROM generate_series(1, 700) AS n, unnest('{1.0,1.00}'::text[]) AS f;
SELECT n, count(*) FROM priced GROUP BY n;
SET es.replay_memory = '64kB';
SELECT rows FROM es.replay('priced');
RESET es.replay_memory;
SELECT n, count(*) FROM priced GROUP BY n;
DROP TABLE priced CASCADE;

-- A generated column can't be a key, an identity column can.
CREATE TABLE generated (id text, upper_id text GENERATED ALWAYS AS (upper(id)) STORED PRIMARY KEY);
CREATE FUNCTION generated_apply(state generated, event es.events) RETURNS generated LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, upper(event.aggregate_id))::generated;
SELECT es.create_projection('generated', 'generated', 'generated_apply');
DROP TABLE generated CASCADE;
CREATE TABLE serial_key (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, log text);
CREATE FUNCTION serial_key_apply(state serial_key, event es.events) RETURNS serial_key LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id::bigint, concat(state.log, event.event_type))::serial_key;
SELECT es.create_projection('serial_key', 'serial_key', 'serial_key_apply', aggregate_types => '{serial}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('serial', '10', 'a'), ('serial', '9', 'b'), ('serial', '010', 'c');
TABLE serial_key ORDER BY id;
SELECT * FROM pg_temp.check_projections();
DROP TABLE serial_key CASCADE;

DROP TYPE spread, price, nested, pair, nocase_pair, colour;
DROP DOMAIN three;
DROP TYPE half CASCADE;
DROP COLLATION ignore_case, ignore_accents;
DROP EXTENSION pg_eventsourcing;
