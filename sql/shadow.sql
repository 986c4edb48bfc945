-- Names of the extension's own SQL can't be shadowed, whatever search_path is, and
-- whoever has planted operators, functions, types and temporary tables in it.

CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;

-- A schema in which everything of pg_catalog that has plain arguments is there
-- again, and tells when it is used.
CREATE SCHEMA shadow;
CREATE FUNCTION pg_temp.plain(types oid[]) RETURNS boolean LANGUAGE sql
RETURN types <@ '{bool,int2,int4,int8,float8,numeric,text,name,oid,oidvector,regclass,regtype,regproc,regprocedure,regrole,regnamespace,char,"\"char\"",jsonb,json,uuid,timestamptz,interval,text[],name[],int8[],oid[],uuid[],anyelement,anyarray,anynonarray,anycompatible,anycompatiblearray}'::regtype[]::oid[];
DO $$
DECLARE
	p record;
BEGIN
	FOR p IN
		SELECT oid, proname, proretset, prorettype::regtype AS result,
			   (SELECT coalesce(string_agg(format_type(t, NULL), ', ' ORDER BY n), '') FROM unnest(proargtypes) WITH ORDINALITY AS a (t, n)) AS args
		  FROM pg_proc
		 WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND provariadic = 0 AND proallargtypes IS NULL
		   AND pg_temp.plain(proargtypes::oid[] || prorettype)
	LOOP
		EXECUTE format('CREATE FUNCTION shadow.%I(%s) RETURNS %s %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L', p.proname, p.args,
			CASE WHEN p.proretset THEN 'SETOF' END, p.result, format('BEGIN RAISE EXCEPTION ''shadow.%s(%s) is used''; END', p.proname, p.args));
	END LOOP;
	FOR p IN
		SELECT oprname, oprleft::regtype AS l, oprright::regtype AS r, oprcode::oid::regprocedure AS code, proname,
			   nullif(format_type(nullif(oprleft, 0), NULL), '???') AS lt, format_type(oprright, NULL) AS rt
		  FROM pg_operator JOIN pg_proc AS f ON f.oid = oprcode
		 WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b' AND pg_temp.plain(ARRAY[oprleft, oprright, oprresult])
	LOOP
		BEGIN
			EXECUTE format('CREATE OPERATOR shadow.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = shadow.%I)', p.oprname, p.l, p.r, p.proname);
		EXCEPTION WHEN undefined_function THEN
			NULL;
		END;
	END LOOP;
	FOR p IN
		SELECT oid::regtype AS type, typname FROM pg_type
		 WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typcategory <> 'A'
		   AND pg_temp.plain(ARRAY[oid])
	LOOP
		EXECUTE format('CREATE DOMAIN shadow.%I AS pg_catalog.%I CHECK (false)', p.typname, p.typname);
	END LOOP;
END $$;
CREATE AGGREGATE shadow.count(*) (SFUNC = pg_catalog.int8inc, STYPE = pg_catalog.int8, INITCOND = '1000');
CREATE AGGREGATE shadow.min(pg_catalog.text) (SFUNC = pg_catalog.textcat, STYPE = pg_catalog.text);
CREATE AGGREGATE shadow.max(pg_catalog.int8) (SFUNC = pg_catalog.int8pl, STYPE = pg_catalog.int8);
CREATE AGGREGATE shadow.bool_or(pg_catalog.bool) (SFUNC = pg_catalog.booland_statefunc, STYPE = pg_catalog.bool);
CREATE AGGREGATE shadow.string_agg(pg_catalog.text, pg_catalog.text) (SFUNC = shadow.replace, STYPE = pg_catalog.text);
CREATE AGGREGATE shadow.array_agg(anynonarray) (SFUNC = pg_catalog.array_agg_transfn, STYPE = internal, FINALFUNC = pg_catalog.array_agg_finalfn, FINALFUNC_EXTRA);
SELECT count(*) > 1000 AS many FROM pg_proc WHERE pronamespace = 'shadow'::regnamespace;
SELECT count(*) > 100 AS many FROM pg_operator WHERE oprnamespace = 'shadow'::regnamespace;
SELECT count(*) > 20 AS many FROM pg_type WHERE typnamespace = 'shadow'::regnamespace AND typtype = 'd';

-- Tables and projections of all kinds, made under an ordinary search_path.
CREATE TABLE account (id text PRIMARY KEY, n numeric NOT NULL);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + (event.data->>'n')::numeric)::account;
CREATE FUNCTION account_apply_2(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(lower(event.aggregate_id), coalesce(state.n, 0) + (event.data->>'n')::numeric);
END $$;
CREATE TABLE later (LIKE account INCLUDING ALL);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(lower(event.aggregate_id), coalesce(state.n, 0) + (event.data->>'n')::numeric);
END $$;
CREATE TABLE kind (type text, month date, n bigint NOT NULL, PRIMARY KEY (type, month)) PARTITION BY LIST (type);
CREATE TABLE kind_a PARTITION OF kind FOR VALUES IN ('account');
CREATE TABLE kind_b PARTITION OF kind DEFAULT;
CREATE FUNCTION kind_apply(state kind, event es.events) RETURNS kind LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_type, date_trunc('month', event.occurred_at AT TIME ZONE 'UTC')::date, coalesce(state.n, 0) + 1)::kind;
CREATE TABLE line (position bigint PRIMARY KEY, n numeric);
CREATE TABLE total (id text PRIMARY KEY, n numeric NOT NULL);
SELECT es.create_projection('account', 'account', 'account_apply'),
	   es.create_projection('later', 'later', 'later_apply', mode => 'async', on_error => 'park'),
	   es.create_projection('kind', 'kind', 'kind_apply', key => $$aggregate_type, date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date$$),
	   es.create_projection('line', 'line'), es.create_projection('total', 'total');
SELECT es.set_handler('line', NULL, $$INSERT INTO line VALUES (event.position, (event.data->>'n')::numeric + 0)$$),
	   es.set_batch_handler('total', $$INSERT INTO total AS t SELECT aggregate_id, sum((data->>'n')::numeric) FROM events GROUP BY 1
		ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n$$);
CREATE TABLE copy (LIKE account INCLUDING ALL);
CREATE ROLE regress_es_shadow;

-- All of it under a search_path that has the shadows first, and pg_catalog last,
-- with temporary tables of every name that matters.
CREATE TEMP TABLE events (aggregate_id text);
CREATE TEMP TABLE projection (name text);
CREATE TEMP TABLE account (id text);
CREATE TEMP TABLE pg_class (oid oid);
CREATE TEMP TABLE pg_depend (oid oid);
CREATE TEMP TABLE pg_proc (oid oid);
CREATE TEMP TABLE pg_roles (oid oid);
CREATE TEMP TABLE pg_trigger (oid oid);
SET search_path = shadow, pg_temp, public, pg_catalog;

SELECT es.append('account', '1', 'X', '{"n": 1}'), es.append('account', '1', 'X', '{"n": 2}', expected_version => 1,
	event_id => '00000000-0000-0000-0000-000000000001', occurred_at => '2026-01-01 00:00+00');
SELECT es.append('account', '1', 'X', '{"n": 2}', event_id => '00000000-0000-0000-0000-000000000001');
SELECT version FROM es.append_events('account', '2', '[{"event_type": "X", "data": {"n": 3}}, {"event_type": "X", "data": {"n": 4}, "occurred_at": "2026-01-01 00:00+00", "event_id": "00000000-0000-0000-0000-000000000002"}]');
SELECT version FROM es.append_batch('[{"aggregate_type": "account", "aggregate_id": "3", "event_type": "X", "data": {"n": 5}}, {"aggregate_type": "b", "aggregate_id": "3", "event_type": "X", "data": {"n": 6}}]');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES ('account', '4', 'X', '{"n": 7}');
COPY es.events (aggregate_type, aggregate_id, event_type, data) FROM stdin;
account	5	X	{"n": 8}
\.
SELECT es.current_version('account', '1');
SELECT version FROM es.read_aggregate('account', '1', 1, 5);
SELECT version FROM es.read_aggregate('account', '1', backwards => true);
SELECT version FROM es.read_correlation('x');
SELECT version FROM es.read_all(0, 2);
SELECT version FROM es.read_all(0, 2, '{account}', '{X}', NULL);
SELECT version FROM es.read_all(0, 2, NULL, NULL, '{X}');
SELECT aggregate_type, aggregate_id, version FROM es.aggregates();
SELECT aggregate_type, aggregate_id, version FROM es.aggregates('account', '2', 2);
SELECT es.run_projections();
SELECT es.wait_for('later', 3);
SELECT name, kind, status, lag FROM es.projections ORDER BY 1;
SELECT projection, kind FROM es.projection_handlers ORDER BY 1;
SELECT * FROM es.parked_events;
SELECT * FROM es.replay_progress;
SELECT count FROM (SELECT 1 AS count FROM es.subscriptions) AS s;
SELECT (es.load(NULL::public.account, 'account', '1')).n;
-- A function that the caller names runs as the caller, under his settings.
\set SHOW_CONTEXT never
SELECT (es.load(NULL::public.account, 'account', '1', 'public.account_apply_2')).n;
SELECT events, rows FROM es.replay('account');
SELECT events, rows FROM es.replay('account', 'public.account_apply_2');
SELECT events, rows FROM es.replay('kind', parallel_workers => 1);
SELECT events, rows FROM es.replay('line');
SELECT rows FROM es.replay('total');
SELECT events, rows FROM es.replay('later');
SELECT * FROM es.verify_projection('account');
SELECT * FROM es.verify_projection('kind');
SELECT es.replay_keys('account', '{1,2}');
SELECT es.replay_keys('kind', '{"(account,2026-01-01)"}');
SELECT es.replay_into('account', 'public.copy', as_of_position => 3);
SELECT es.create_environment('past', as_of_position => 3);
SELECT es.alter_projection('account', enabled => false), es.alter_projection('account', enabled => true);
SELECT es.alter_projection('kind', protect => false), es.alter_projection('kind', protect => true);
SELECT es.alter_projection('later', mode => 'inline'), es.alter_projection('later', mode => 'async');
SELECT es.set_handler('line', 'Y', 'INSERT INTO public.line VALUES (event.position, 0)');
SELECT es.create_subscription('s', '{account}', partitions => 2);
SELECT position FROM es.fetch('s', 1);
SELECT es.nack(l, p, 'reason', park => true) FROM (SELECT lease_id, position FROM es.fetch('s', 1) LIMIT 1) AS f (l, p);
SELECT es.ack(l), es.extend_lease(l) FROM (SELECT lease_id FROM es.fetch('s', 1) LIMIT 1) AS f (l) WHERE false;
SELECT subscription FROM es.parked_events;
SELECT es.retry_parked('s'), es.discard_parked('s');
SELECT es.playback('s');
SELECT es.seek('s', 0);
SELECT DISTINCT name FROM es.subscriptions;
SELECT es.drop_subscription('s');
SELECT es.grant_reader('regress_es_shadow'), es.grant_writer('regress_es_shadow', '{account}'), es.grant_writer('regress_es_shadow', '{b}');
SELECT es.revoke_writer('regress_es_shadow', '{account}'), es.revoke_reader('regress_es_shadow'), es.revoke_writer('regress_es_shadow');
SELECT es.set_node_id(0);
SELECT es.is_replaying(), es.version() IS NULL, es.uuid_v7() IS NULL, es.high_water_mark();
ALTER FUNCTION public.later_apply RENAME TO later_apply_1;
CREATE TABLE public.kind_c PARTITION OF public.kind FOR VALUES IN ('c');
ALTER TABLE public.line RENAME TO lines;
DROP FUNCTION public.later_apply_1(public.later, es.events) RESTRICT;
DROP TABLE public.later RESTRICT;
DROP TABLE public.later CASCADE;
SELECT es.drop_projection('line');

-- And the rows are right.
RESET search_path;
DROP TABLE pg_temp.events, pg_temp.projection, pg_temp.account, pg_temp.pg_class, pg_temp.pg_depend, pg_temp.pg_proc, pg_temp.pg_roles, pg_temp.pg_trigger;
TABLE account ORDER BY id;
SELECT type, sum(n) FROM kind GROUP BY type ORDER BY 1;
TABLE total ORDER BY id;
TABLE copy ORDER BY id;
TABLE past.account ORDER BY id;
SELECT name, apply FROM es.projections ORDER BY 1;

SELECT es.drop_projection(name) FROM es.projections;
DROP SCHEMA past CASCADE;
DROP SCHEMA shadow CASCADE;
DROP ROLE regress_es_shadow;
DROP TABLE account, kind, line, total, copy CASCADE;
DROP EXTENSION pg_eventsourcing CASCADE;
