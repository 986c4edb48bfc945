-- Code that an ordinary role hangs on a state table runs as this role, whoever
-- appends, replays, verifies or looks: also if that is a superuser.

CREATE EXTENSION pg_eventsourcing;
SET client_min_messages = warning;
CREATE ROLE regress_es_mallory;
SELECT es.grant_reader('regress_es_mallory');
GRANT REFERENCES ON es.events TO regress_es_mallory;
CREATE SCHEMA evil AUTHORIZATION regress_es_mallory;

SET ROLE regress_es_mallory;

-- Tells where it runs as another role, or may become one.
CREATE FUNCTION evil.probe(place text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	IF current_setting('evil.idle', true) = 'on' THEN
		RETURN true;
	END IF;
	IF current_user <> 'regress_es_mallory' THEN
		RAISE WARNING '% runs as %', place, CASE WHEN current_user = session_user THEN 'the session''s user' ELSE current_user END;
	END IF;
	BEGIN
		PERFORM set_config('role', 'none', false);
		RAISE WARNING '% can become %', place, CASE WHEN current_user = session_user THEN 'the session''s user' ELSE current_user END;
		PERFORM set_config('role', 'regress_es_mallory', false);
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	BEGIN
		EXECUTE 'SET SESSION AUTHORIZATION DEFAULT';
		RAISE WARNING '% can become the session''s user', place;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	-- outside of a security-restricted operation: objects, or deferred triggers, for the session's user
	BEGIN
		EXECUTE 'CREATE TEMP TABLE left_behind ()';
		RAISE WARNING '% can make a temporary table', place;
		DROP TABLE left_behind;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	-- what stays behind in the session would be the next command's search_path
	PERFORM set_config('search_path', 'evil', false), set_config('es.max_aggregate_locks', '7', false),
			set_config('evil.left', place, false);
	RETURN true;
END $$;
CREATE FUNCTION evil.same(place text, value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM evil.probe(place); RETURN value; END $$;
CREATE FUNCTION evil.trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evil.probe('trigger ' || TG_NAME);
	RETURN coalesce(NEW, OLD);
END $$;

-- A type with a hostile way to text and to JSON, a domain, an operator.
CREATE TYPE evil.mood AS ENUM ('good', 'bad');
CREATE FUNCTION evil.mood_text(evil.mood) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM evil.probe('cast to text'); RETURN 'mood'; END $$;
CREATE FUNCTION evil.mood_json(evil.mood) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM evil.probe('cast to json'); RETURN '"mood"'; END $$;
CREATE CAST (evil.mood AS text) WITH FUNCTION evil.mood_text AS IMPLICIT;
CREATE CAST (evil.mood AS json) WITH FUNCTION evil.mood_json AS IMPLICIT;
CREATE DOMAIN evil.word AS text CHECK (evil.probe('domain'));
CREATE FUNCTION evil.equal(evil.mood, evil.mood) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN evil.probe('operator'); END $$;
CREATE FUNCTION evil.length(float8, float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM evil.probe('range'); RETURN $1 - $2; END $$;
CREATE TYPE evil.span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = evil.length, MULTIRANGE_TYPE_NAME = evil.spans);
CREATE DOMAIN evil.wide AS evil.span;
CREATE OPERATOR evil.= (LEFTARG = evil.mood, RIGHTARG = evil.mood, FUNCTION = evil.equal);

CREATE TABLE evil.state (
	id evil.word PRIMARY KEY,
	n bigint CHECK (evil.probe('check')),
	mood evil.mood,
	note evil.word DEFAULT evil.same('default', 'x'),
	made text GENERATED ALWAYS AS (evil.same('generated', n::text)) STORED,
	EXCLUDE USING btree (id WITH =) WHERE (evil.same('predicate', id) <> '')
);
CREATE INDEX ON evil.state ((evil.same('index', note)));
CREATE TRIGGER t_row BEFORE INSERT OR UPDATE OR DELETE ON evil.state FOR EACH ROW EXECUTE FUNCTION evil.trigger();
CREATE TRIGGER t_after AFTER INSERT OR UPDATE OR DELETE ON evil.state FOR EACH ROW EXECUTE FUNCTION evil.trigger();
CREATE TRIGGER t_statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON evil.state FOR EACH STATEMENT EXECUTE FUNCTION evil.trigger();
CREATE POLICY p ON evil.state USING (evil.probe('policy'));
ALTER TABLE evil.state ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION evil.apply(state evil.state, event es.events) RETURNS evil.state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.probe('apply');
	RETURN ROW(event.aggregate_id::evil.word, coalesce(state.n, 0) + 1, 'bad'::evil.mood, 'n'::evil.word, NULL::text);
END $$;
CREATE FUNCTION evil.apply_2(state evil.state, event es.events) RETURNS evil.state LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.probe('apply_2');
	RETURN ROW(event.aggregate_id::evil.word, coalesce(state.n, 0) + 2, 'good'::evil.mood, 'n'::evil.word, NULL::text);
END $$;
SELECT es.create_projection('evil', 'evil.state', 'evil.apply', key => $$evil.same('key', aggregate_id)$$, aggregate_types => '{account}');

-- One that is partitioned, by an expression, one of statements, one of batches, an async one.
CREATE TABLE evil.parts (id text, n bigint, CHECK (evil.probe('check of partition'))) PARTITION BY LIST (evil.same('partition key', id));
CREATE TABLE evil.parts_1 PARTITION OF evil.parts FOR VALUES IN ('1');
CREATE TABLE evil.parts_2 PARTITION OF evil.parts DEFAULT;
SELECT es.create_projection('parts', 'evil.parts', aggregate_types => '{account}');
SELECT es.set_handler('parts', NULL, $$INSERT INTO evil.parts SELECT event.aggregate_id, 1 WHERE evil.probe('handler')$$);
CREATE TABLE evil.batch (id text PRIMARY KEY, n bigint CHECK (evil.probe('check of batch')));
SELECT es.create_projection('batch', 'evil.batch', aggregate_types => '{account}');
SELECT es.set_batch_handler('batch', $$INSERT INTO evil.batch AS b SELECT evil.same('batch', aggregate_id), count(*) FROM events GROUP BY 1
	ON CONFLICT (id) DO UPDATE SET n = b.n + excluded.n$$);
CREATE TABLE evil.plain (id evil.word PRIMARY KEY, n bigint, made text GENERATED ALWAYS AS (evil.same('generated of plain', n::text)) STORED);
CREATE FUNCTION evil.plain_apply(state evil.plain, event es.events) RETURNS evil.plain LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.probe('plain');
	RETURN ROW(event.aggregate_id::evil.word, coalesce(state.n, 0) + 1, NULL::text);
END $$;
SELECT es.create_projection('plain', 'evil.plain', 'evil.plain_apply', aggregate_types => '{account}');
CREATE TABLE evil.later (id text PRIMARY KEY, n bigint CHECK (evil.probe('check of later')), mood evil.mood,
	span evil.span, spans evil.spans, wide evil.wide);
CREATE INDEX ON evil.later USING gist (span);
CREATE TRIGGER t_later BEFORE INSERT OR UPDATE OR DELETE ON evil.later FOR EACH ROW EXECUTE FUNCTION evil.trigger();
CREATE FUNCTION evil.later_apply(state evil.later, event es.events) RETURNS evil.later LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.probe('later');
	RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1, 'good'::evil.mood, '[1,2]'::evil.span, '{[1,2]}'::evil.spans, '[1,2]'::evil.wide);
END $$;
SELECT es.create_projection('later', 'evil.later', 'evil.later_apply', key => $$evil.same('key of later', aggregate_id)$$, aggregate_types => '{account}', mode => 'async', on_error => 'park');
CREATE TABLE evil.bad (id text PRIMARY KEY, n bigint);
CREATE FUNCTION evil.bad_apply(state evil.bad, event es.events) RETURNS evil.bad LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.probe('bad');
	RAISE EXCEPTION 'bad, as %', current_user;
END $$;
SELECT es.create_projection('bad', 'evil.bad', 'evil.bad_apply', aggregate_types => '{other}', mode => 'async', on_error => 'park');
CREATE TABLE evil.other (LIKE evil.state INCLUDING ALL);
CREATE TRIGGER t_other BEFORE INSERT ON evil.other FOR EACH ROW EXECUTE FUNCTION evil.trigger();
RESET ROLE;

-- What a superuser does with all that.
CREATE FUNCTION pg_temp.left_behind() RETURNS TABLE (setting text, value text) LANGUAGE sql
BEGIN ATOMIC
	SELECT name, value FROM (VALUES ('evil.left', ''), ('search_path', '"$user", public'), ('es.max_aggregate_locks', '1000')) AS s (name, should),
		   coalesce(current_setting(name, true), '') AS value WHERE value <> should;
END;
SELECT es.append('account', '1', 'X');
SELECT version FROM es.append_events('account', '2', '[{"event_type": "X"}, {"event_type": "X"}]');
SELECT version FROM es.append_batch('[{"aggregate_type": "account", "aggregate_id": "1", "event_type": "X"}, {"aggregate_type": "account", "aggregate_id": "3", "event_type": "X"}]');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '4', 'X'), ('account', '1', 'X');
COPY es.events (aggregate_type, aggregate_id, event_type) FROM stdin;
account	5	X
\.
-- (and nothing of it stays behind in the session)
SELECT * FROM pg_temp.left_behind();
SELECT es.append('other', '1', 'Bad');
\set SHOW_CONTEXT never
SELECT es.run_projections('later');
SELECT es.run_projections('bad');
SELECT position, reason FROM es.parked_events;
\set VERBOSITY terse
SELECT es.retry_parked('bad');
\set VERBOSITY default
SELECT es.discard_parked('bad');
SELECT es.wait_for('later', 1);
SELECT name, status, lag FROM es.projections ORDER BY 1;
SELECT projection FROM es.projection_handlers ORDER BY 1;
SELECT events, rows FROM es.replay('evil');
SELECT events, rows FROM es.replay('evil', parallel_workers => 2);
SELECT events, rows FROM es.replay('evil', 'evil.apply_2');
SELECT events, rows FROM es.replay('evil', 'evil.apply');
SELECT events FROM es.replay('parts', in_place => true);
SELECT events FROM es.replay('batch');
SELECT events, rows FROM es.replay('later');
SELECT * FROM es.verify_projection('evil');
SELECT * FROM es.verify_projection('plain');
SELECT count(*) FROM es.verify_projection('evil', 'evil.apply_2');
SELECT count(*) FROM es.verify_projection('later');
SELECT es.replay_keys('evil', '{1,2}');
SELECT es.alter_projection('evil', protect => false);
-- (mallory's own doings are no attack)
SET evil.idle = on;
UPDATE evil.state SET n = 100, mood = 'good' WHERE id = '1';
RESET evil.idle;
SELECT key FROM es.verify_projection('evil');
SELECT es.replay_keys('evil', '{1}');
SELECT es.alter_projection('evil', enabled => false);
SELECT es.append('account', '1', 'X');
SELECT es.alter_projection('evil', enabled => true, protect => true);
SELECT es.alter_projection('later', mode => 'inline');
SELECT es.alter_projection('later', mode => 'async');
SELECT es.set_handler('parts', 'Y', $$INSERT INTO evil.parts SELECT event.aggregate_id, 1 WHERE evil.same('constant', 'x') = 'x'$$);
SELECT es.set_batch_handler('batch', NULL);
SELECT es.set_batch_handler('batch', $$INSERT INTO evil.batch SELECT evil.same('constant', 'x') FROM events ON CONFLICT DO NOTHING$$);
SELECT (es.load(NULL::evil.plain, 'account', '1')).n, (es.load(NULL::evil.plain, 'account', '1', as_of_version => 2)).n;
-- (a copy is without the code: it would run as the superuser, now or when it is analyzed)
SET client_min_messages = notice;
SELECT es.create_environment('past', projections => '{evil,plain,later}');
SET client_min_messages = warning;
\d past.state
SELECT id, n, mood, note, made FROM past.state ORDER BY id;
SELECT count(*) FROM past.plain;
SELECT count(*) FROM past.later;
\d past.later
INSERT INTO past.state (id, n) VALUES ('6', 1);
INSERT INTO past.later (id, span) VALUES ('6', '[1,3]');
ANALYZE past.state, past.plain, past.later;
SELECT es.replay_into('evil', 'evil.other', as_of_position => 3);
DROP TRIGGER t_after ON evil.state;
SELECT es.drop_projection('evil');
SELECT es.create_projection('evil', 'evil.state', 'evil.apply', key => $$evil.same('key', aggregate_id)$$, aggregate_types => '{account}');
ALTER FUNCTION evil.later_apply RENAME TO later_apply_1;
VACUUM ANALYZE evil.state;

SELECT * FROM pg_temp.left_behind();

-- (unless its owner may do all that the superuser may)
ALTER ROLE regress_es_mallory SUPERUSER;
SET evil.idle = on;
SELECT es.create_environment('full', projections => '{evil}');
SELECT conname FROM pg_constraint WHERE conrelid = '"full".state'::regclass AND contype <> 'n' ORDER BY 1;
RESET evil.idle;
DROP SCHEMA "full" CASCADE;
ALTER ROLE regress_es_mallory NOSUPERUSER;

DROP SCHEMA past CASCADE;
SELECT es.drop_projection(name) FROM es.projections ORDER BY name;
DROP SCHEMA evil CASCADE;
DROP OWNED BY regress_es_mallory;
DROP ROLE regress_es_mallory;
DROP EXTENSION pg_eventsourcing CASCADE;
