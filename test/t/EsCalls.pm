# Calls of everything that schema es offers, for tests of what may happen around a call.
#
# EsCalls::domain() is SQL that sets up a database: the extension, state tables of every
# kind, a log, and
#
#   problems()	   what is wrong with the log, the state tables, the registry and the locks;
#				   no row if all is well
#   fingerprint()  one md5 sum for each part of the database that a rollback must restore
#
# EsCalls::calls() has, by the name of each function and view of schema es, a list of
# calls.  A call is a hash:
#
#   call	  the statement
#   before	  statements that make it possible, and may be repeated
#   after	  statements that make the next call possible
#   writes	  it needs a transaction that may write
#   plain	  it is not a query, so there is no cursor and no prepared statement of it
#   code	  SQLSTATE with which it always ends
#   behind	  SQLSTATE with which it ends in REPEATABLE READ when others have written since
#   snapshot  SQLSTATE with which it ends in REPEATABLE READ and SERIALIZABLE anyhow
#   utility   it can not even be prepared
#   anew	  SQLSTATE of a statement that was prepared before the extension was created anew
#   do		  the statement as one of PL/pgSQL (set by all())
#   parallel  mark of the function: u, r or s; what may not be in a parallel plan is u
#
# "%s" in a statement stands for the number of the session.
package EsCalls;

use strict;
use warnings FATAL => 'all';

my $account = q(CREATE TABLE account (id text PRIMARY KEY, owner text, balance numeric NOT NULL DEFAULT 0);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
         WHEN 'Opened' THEN ROW(event.aggregate_id, event.data->>'owner', 0)::account
         WHEN 'Deposited' THEN ROW(event.aggregate_id, state.owner,
                                   coalesce(state.balance, 0) + (event.data->>'amount')::numeric)::account
         WHEN 'Closed' THEN NULL
         ELSE state
       END;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
);

# What depends on the extension.
sub projections
{
	return $account . q(
CREATE TABLE total (event_type text PRIMARY KEY, events bigint NOT NULL);
CREATE FUNCTION total_apply(state total, event es.events) RETURNS total
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.event_type, coalesce(state.events, 0) + 1)::total;
END $$;
SELECT es.create_projection('total', 'total', 'total_apply', key => 'event_type');

CREATE TABLE line (position bigint PRIMARY KEY, event_type text);
SELECT es.create_projection('line', 'line');
SELECT es.set_handler('line', NULL, 'INSERT INTO line VALUES (event.position, event.event_type)');

CREATE TABLE tally (day date PRIMARY KEY, events bigint);
SELECT es.create_projection('tally', 'tally');
SELECT es.set_batch_handler('tally', $$
	INSERT INTO tally AS t SELECT '2000-01-01'::date, count(*) FROM events GROUP BY 1
	ON CONFLICT (day) DO UPDATE SET events = t.events + excluded.events$$);

CREATE TABLE later (id text PRIMARY KEY, owner text, balance numeric CHECK (balance < 1000));
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, NULL, coalesce((event.data->>'amount')::numeric, 0))::later;
SELECT es.create_projection('later', 'later', 'later_apply', aggregate_types => '{account,late}',
                            mode => 'async', on_error => 'park');

CREATE TABLE idle (LIKE account INCLUDING ALL);
CREATE FUNCTION idle_apply(state idle, event es.events) RETURNS idle
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, NULL, coalesce(state.balance, 0) + 1)::idle;
SELECT es.create_projection('idle', 'idle', 'idle_apply', aggregate_types => '{account}');
SELECT es.alter_projection('idle', enabled => false);

CREATE TABLE parts (event_type text NOT NULL, id text NOT NULL, events bigint, PRIMARY KEY (event_type, id))
PARTITION BY LIST (event_type);
CREATE TABLE parts_default PARTITION OF parts DEFAULT;
CREATE FUNCTION parts_apply(state parts, event es.events) RETURNS parts
LANGUAGE sql IMMUTABLE
RETURN ROW(event.event_type, event.aggregate_id, coalesce(state.events, 0) + 1)::parts;
SELECT es.create_projection('parts', 'parts', 'parts_apply', key => 'event_type, aggregate_id');
);
}

# A log in which two events fail a projection, and wait beside it.
sub events
{
	return q(
SELECT count(es.append('account', (n % 5)::text, 'Deposited', '{"amount": 1}', correlation_id => 'c' || n % 3))
  FROM generate_series(1, 20) AS n;
SELECT es.append('late', '1', 'Deposited', '{"amount": 1}');
SELECT es.run_projections();
SET client_min_messages = error;
SELECT es.append('late', '22', 'Deposited', '{"amount": 5000}'), es.append('late', '33', 'Deposited', '{"amount": 6000}');
SELECT es.run_projections();
RESET client_min_messages;
);
}

sub domain
{
	return q(
CREATE EXTENSION pg_eventsourcing;
) . projections() . q(
) . events() . q(
CREATE FUNCTION problems() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	p record;
	n bigint;
BEGIN
	IF to_regclass('es.events') IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY SELECT format('aggregate %s %s: version %s is number %s in order of position', e.aggregate_type,
			e.aggregate_id, e.version, e.number)
		FROM (SELECT aggregate_type, aggregate_id, version, row_number() OVER (
				PARTITION BY aggregate_type, aggregate_id ORDER BY position) AS number FROM es.events) AS e
		WHERE e.version <> e.number;
	IF NOT pg_is_in_recovery() AND (SELECT max(position) > es.high_water_mark() FROM es.events) THEN
		RETURN NEXT 'the mark is below what is in the log';
	END IF;
	FOR p IN SELECT * FROM es.projections LOOP
		-- Statements and batches can't be verified; what line and tally hold is known.
		n := 0;
		IF p.name = 'later' AND p.parked = 0 THEN
			NULL; -- its events that fail were discarded
		ELSIF p.kind = 'fold' THEN
			SELECT count(*) INTO n FROM es.verify_projection(p.name);
		ELSIF p.name = 'line' THEN
			SELECT count(*) INTO n FROM line
				FULL JOIN (SELECT * FROM es.events WHERE position <= coalesce(p.checkpoint, position)) AS e USING (position)
				WHERE line.event_type IS DISTINCT FROM e.event_type;
		ELSIF p.name = 'tally' THEN
			SELECT abs(count(*) - coalesce((SELECT sum(events) FROM tally), 0)) INTO n FROM es.events
				WHERE position <= coalesce(p.checkpoint, position);
		END IF;
		IF n > 0 THEN
			RETURN NEXT format('%s: %s rows differ', p.name, n);
		END IF;
		IF p.kind = 'fold' AND to_regprocedure(p.apply) IS NULL AND to_regproc(p.apply) IS NULL THEN
			RETURN NEXT format('%s: there is no function %s', p.name, p.apply);
		END IF;
		IF p.protect <> EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = p.target
				AND t.tgfoid = to_regproc('es.refuse_direct_write') AND t.tgenabled <> 'D') THEN
			RETURN NEXT format('%s: protect is %s', p.name, p.protect);
		END IF;
		IF (p.checkpoint IS NOT NULL) <> (p.mode = 'async' OR NOT p.enabled) THEN
			RETURN NEXT format('%s: checkpoint is %s', p.name, p.checkpoint);
		END IF;
		IF p.checkpoint > (SELECT last_value FROM es.events_position_seq) THEN
			RETURN NEXT format('%s: checkpoint %s is in the future', p.name, p.checkpoint);
		END IF;
	END LOOP;
	RETURN QUERY SELECT format('%s of no projection: %s', what, projection) FROM (
		SELECT 'handler', projection FROM es.projection_handler UNION ALL
		SELECT 'checkpoint', projection FROM es.projection_checkpoint UNION ALL
		SELECT 'parked event', projection FROM es.projection_parked) AS o (what, projection)
		WHERE projection NOT IN (SELECT name FROM es.projection);
	RETURN QUERY SELECT format('%s has no table', name) FROM es.projection
		WHERE target NOT IN (SELECT oid FROM pg_class);
	RETURN QUERY SELECT format('protected, but of no projection: %s', t.tgrelid::regclass) FROM pg_trigger AS t
		WHERE t.tgfoid = to_regproc('es.refuse_direct_write')
			AND coalesce((SELECT min(relid) FROM pg_partition_ancestors(t.tgrelid) AS a (relid)
				WHERE a.relid IN (SELECT target FROM es.projection)), 0) = 0
			AND t.tgrelid NOT IN (SELECT target FROM es.projection);
	RETURN QUERY SELECT format('%s of no subscription: %s', what, subscription) FROM (
		SELECT 'stream', subscription FROM es.subscription_stream UNION ALL
		SELECT 'parked event', subscription FROM es.subscription_parked) AS o (what, subscription)
		WHERE subscription NOT IN (SELECT name FROM es.subscription);
	RETURN QUERY SELECT format('%s: %s partitions, but %s live streams', s.name, s.partitions, count(t))
		FROM es.subscription AS s LEFT JOIN es.subscription_stream AS t ON t.subscription = s.name AND t.kind = 'live'
		GROUP BY s.name, s.partitions HAVING count(t) <> s.partitions;
	RETURN QUERY SELECT format('%s: checkpoint %s is in the future', s.name, s.checkpoint) FROM es.subscriptions AS s
		WHERE s.checkpoint > (SELECT last_value FROM es.events_position_seq);
	RETURN QUERY SELECT format('left in progress: %s', r) FROM es.replays() AS r;
	RETURN QUERY SELECT format('left in %s: %s', relnamespace::regnamespace, relname) FROM pg_class
		WHERE relnamespace = 'es'::regnamespace AND NOT EXISTS (SELECT FROM pg_depend AS d
			WHERE d.classid = 'pg_class'::regclass AND d.objid = pg_class.oid);
	RETURN QUERY SELECT format('lock: %s', l) FROM pg_locks AS l
		WHERE l.locktype = 'advisory' AND l.objsubid BETWEEN 7000 AND 7099 AND l.objsubid <> 7005
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());
END $$;

CREATE FUNCTION fingerprint() RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	result jsonb := '{}';
	part text;
	query text;
	sum text;
BEGIN
	FOR part, query IN
		SELECT format('%s.%s', n.nspname, c.relname), format('SELECT t::text FROM %I.%I AS t', n.nspname, c.relname)
			FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema)'
		UNION ALL VALUES
			('relations', 'SELECT (oid, relname, relnamespace, relfilenode, relkind, reltoastrelid, relchecks,
				relhastriggers, relhasindex, relnatts, relowner, relacl)::text FROM pg_class
				WHERE oid >= 16384 AND relpersistence <> ''t'''),
			('columns', 'SELECT (attrelid, attname, attnum, atttypid, attnotnull, attisdropped)::text FROM pg_attribute
				WHERE attrelid >= 16384 AND attrelid NOT IN (SELECT oid FROM pg_class WHERE relpersistence = ''t'')'),
			('triggers', 'SELECT (oid, tgrelid, tgname, tgenabled)::text FROM pg_trigger'),
			('functions', 'SELECT (oid, proname, pronamespace, prosrc)::text FROM pg_proc WHERE oid >= 16384'),
			('dependencies', 'SELECT (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)::text
				FROM pg_depend WHERE objid >= 16384 AND refobjid NOT IN (SELECT oid FROM pg_class WHERE relpersistence = ''t'')'),
			('schemas', 'SELECT (oid, nspname)::text FROM pg_namespace WHERE nspname !~ ''^pg_''')
	LOOP
		EXECUTE format('SELECT md5(string_agg(t, E''\n'' ORDER BY t)) FROM (%s) AS q (t)', query) INTO sum;
		result := result || jsonb_build_object(part, sum);
	END LOOP;
	RETURN result;
END $$;

CREATE FUNCTION differences(a jsonb, b jsonb) RETURNS SETOF text LANGUAGE sql
RETURN (SELECT k || ' has changed' FROM jsonb_object_keys(a || b) AS k WHERE a->k IS DISTINCT FROM b->k LIMIT 1);
);
}

my $event = q({"event_type": "Deposited", "data": {"amount": 1}});
my $fresh = q(CREATE TABLE IF NOT EXISTS fresh%s (id text PRIMARY KEY, owner text, balance numeric);
CREATE OR REPLACE FUNCTION fresh%s_apply(state fresh%s, event es.events) RETURNS fresh%s
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 'x', coalesce(state.balance, 0) + 1)::fresh%s;);
my $create = q(SELECT es.create_projection('fresh%s', 'fresh%s', 'fresh%s_apply', aggregate_types => '{account}'));
my $exists = q(WHERE EXISTS (SELECT FROM es.projections WHERE name = 'fresh%s'));
my $missing = q(WHERE NOT EXISTS (SELECT FROM es.projections WHERE name = 'fresh%s'));
my $drop = qq(SELECT es.drop_projection('fresh%s') $exists;);
my $statement = qq($fresh
SELECT es.create_projection('fresh%s', 'fresh%s') $missing;);

# A subscription, and a lease on its first events.
my $subscription = q(SELECT es.create_subscription('reader%s', aggregate_types => '{account}')
WHERE NOT EXISTS (SELECT FROM es.subscriptions WHERE name = 'reader%s'););
my $lease = qq($subscription SELECT es.seek('reader%s', 0); SELECT count(*) FROM es.fetch('reader%s', 3););
my $held = q((SELECT max(lease_id) FROM es.subscription_streams WHERE name = 'reader%s'));

sub calls
{
	return {
		# Writing.
		append => [ { call => q(SELECT es.append('account', '1', 'Deposited', '{"amount": 1}')), writes => 1, behind => '40001' },
			{ call => q(SELECT es.append('account', 'new' || es.uuid_v7(), 'Opened', '{"owner": "o"}', expected_version => 0)), writes => 1, behind => '40001' },
			{ before => q(SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');), call => q(SELECT es.append('account', '1', 'Deposited', '{"amount": 1}', expected_version => 0)), writes => 1, code => 'SE001', behind => '40001' },
			{ call => q(SELECT es.append('account', '1', 'Deposited', '{"amount": "many"}')), writes => 1, code => 'SE008', behind => '40001' } ],
		append_events => [ { call => qq(SELECT * FROM es.append_events('account', '1', '[$event, $event]')), writes => 1, behind => '40001' } ],
		append_batch => [ { call => q(SELECT * FROM es.append_batch('[{"aggregate_type": "account", "aggregate_id": "1", "event_type": "Deposited", "data": {"amount": 1}}, {"aggregate_type": "b", "aggregate_id": "1", "event_type": "x"}]')), writes => 1, behind => '40001' } ],
		sequence_event => [ { call => q(INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES ('account', '1', 'Deposited', '{"amount": 1}'), ('account', '2', 'Deposited', '{"amount": 1}')), plain => 1, writes => 1, behind => '40001' },
			{ call => q(COPY es.events (aggregate_type, aggregate_id, event_type) FROM PROGRAM 'printf "late\t1\tSeen\n"'), plain => 1, utility => 1, writes => 1, behind => '40001' } ],
		apply_inline => [ { call => q(WITH i AS (INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES ('account', '1', 'Deposited', '{"amount": 1}') RETURNING version) SELECT version FROM i), plain => 1, writes => 1, behind => '40001' } ],
		refuse_change => [ { call => q(UPDATE es.events SET data = '{}'), plain => 1, writes => 1, code => 'SE002' },
			{ call => q(TRUNCATE es.events), plain => 1, utility => 1, writes => 1, code => 'SE002' } ],
		refuse_direct_write => [ { call => q(UPDATE total SET events = 0), plain => 1, utility => 1, writes => 1, code => 'SE004' } ],

		# Reading.
		current_version => [ { call => q(SELECT es.current_version('account', '1')), parallel => 's' } ],
		read_aggregate => [ { call => q(SELECT * FROM es.read_aggregate('account', '1')), parallel => 's' } ],
		read_correlation => [ { call => q(SELECT * FROM es.read_correlation('c1')), parallel => 's' } ],
		read_all => [ { call => q(SELECT * FROM es.read_all(max_count => 5)), snapshot => '25000' },
			{ call => q(SELECT es.read_all()), snapshot => '25000', anew => '0A000' } ],
		aggregates => [ { call => q(SELECT * FROM es.aggregates()), parallel => 's' } ],
		high_water_mark => [ { call => q(SELECT es.high_water_mark()) } ],
		load => [ { call => q(SELECT es.load(NULL::account, 'account', '1')), anew => '0A000' },
			{ call => q(SELECT es.load(NULL::account, 'account', '1', as_of_position => 2)), anew => '0A000' } ],

		# Projections.
		create_projection => [ { before => "$drop$fresh", call => $create, after => $drop, writes => 1 },
			{ before => "$drop$fresh", call => qq($create -- as it stands
				), after => $drop, writes => 1 },
			{ before => "$drop$fresh", call => q(SELECT es.create_projection('fresh%s', 'fresh%s', 'fresh%s_apply', mode => 'async')), after => $drop, writes => 1 },
			{ call => q(SELECT es.create_projection('other', 'account', 'account_apply')), writes => 1, code => '42710' } ],
		set_handler => [ { before => $statement, call => q(SELECT es.set_handler('fresh%s', 'Opened', 'INSERT INTO fresh%s VALUES (event.position::text)')), after => $drop, writes => 1 },
			{ before => $statement, call => q(SELECT es.set_handler('fresh%s', NULL, 'INSERT INTO nowhere VALUES (event.position::text)')), after => $drop, writes => 1, code => 'SE007', after => $drop } ],
		set_batch_handler => [ { before => $statement, call => q(SELECT es.set_batch_handler('fresh%s', 'INSERT INTO fresh%s SELECT position FROM events')), after => $drop, writes => 1 } ],
		alter_projection => [ { call => q(SELECT es.alter_projection('later', mode => 'inline')), after => q(SELECT es.alter_projection('later', mode => 'async', on_error => 'park');), before => q(SELECT es.discard_parked('later');), writes => 1, fails => 1 },
			{ call => q(SELECT es.alter_projection('idle', enabled => true)), after => q(SELECT es.alter_projection('idle', enabled => false);), writes => 1 },
			{ call => q(SELECT es.alter_projection('account', enabled => false)), after => q(SELECT es.alter_projection('account', enabled => true);), writes => 1 },
			{ before => q(SELECT es.alter_projection('line', mode => 'async');), call => q(SELECT es.alter_projection('line', mode => 'inline')), after => q(SELECT es.alter_projection('line', mode => 'inline');), writes => 1, snapshot => '25000' },
			{ call => q(SELECT es.alter_projection('account', protect => false)), after => q(SELECT es.alter_projection('account', protect => true);), writes => 1 } ],
		drop_projection => [ { before => "$fresh $create $missing;", call => q(SELECT es.drop_projection('fresh%s')), writes => 1 },
			{ call => q(SELECT es.drop_projection('nowhere')), writes => 1, code => 'SE006' } ],
		forget_dropped => [ { before => "$fresh $create $missing;", call => q(DROP TABLE fresh%s CASCADE), plain => 1, utility => 1, writes => 1 },
			{ before => "$fresh $create $missing;", call => q(DROP FUNCTION fresh%s_apply), plain => 1, utility => 1, writes => 1, code => '2BP01', after => $drop } ],
		follow_ddl => [ { before => "$fresh $create $missing;", call => q(ALTER FUNCTION fresh%s_apply RENAME TO fresh%s_apply), plain => 1, utility => 1, writes => 1, code => '42723', after => $drop },
			{ before => "$fresh $create $missing;", call => q(ALTER TABLE fresh%s RENAME balance TO amount), plain => 1, utility => 1, writes => 1, after => "$drop DROP TABLE IF EXISTS fresh%s CASCADE;" } ],
		follow_partitions => [ { call => q(CREATE TABLE parts_%s PARTITION OF parts FOR VALUES IN ('none%s')), after => 'DROP TABLE IF EXISTS parts_%s;', plain => 1, utility => 1, writes => 1 } ],
		registry_changed => [ { call => q(UPDATE es.projection SET on_error = on_error WHERE name = 'tally'), plain => 1, writes => 1 } ],
		is_replaying => [ { call => q(SELECT es.is_replaying()), parallel => 'r' } ],
		replays => [ { call => q(SELECT * FROM es.replays()), parallel => 'r' } ],

		# Async projections.
		run_projections => [ { before => q(SELECT es.append('late', '1', 'Seen');), call => q(SELECT es.run_projections()), writes => 1, snapshot => '25000' },
			{ before => q(SELECT es.append('late', '1', 'Seen');), call => q(SELECT es.run_projections('later', 1)), writes => 1, snapshot => '25000' } ],
		wait_for => [ { call => q(SELECT es.wait_for('account', 5, '10 ms')), snapshot => '25000' },
			{ before => q(SELECT es.run_projections();), call => q(SELECT es.wait_for('later', 5, '10 ms')), snapshot => '25000' } ],
		retry_parked => [ { call => q(SELECT es.retry_parked('account')), writes => 1, snapshot => '25000' } ],
		discard_parked => [ { call => q(SELECT es.discard_parked('later')), writes => 1 } ],

		# Subscriptions.
		create_subscription => [ { call => q(SELECT es.create_subscription('made%s', partitions => 2)), after => q(SELECT es.drop_subscription(name) FROM es.subscriptions WHERE name = 'made%s' AND partition = 0;), writes => 1 },
			{ call => q(SELECT es.create_subscription('reader%s')), before => $subscription, writes => 1, code => '42710' } ],
		drop_subscription => [ { before => $subscription, call => q(SELECT es.drop_subscription('reader%s')), writes => 1 } ],
		seek => [ { before => $subscription, call => q(SELECT es.seek('reader%s', 3)), writes => 1 } ],
		playback => [ { before => $subscription, call => q(SELECT es.playback('reader%s', 1, 8)), writes => 1, snapshot => '25000' } ],
		fetch => [ { before => "$subscription SELECT es.seek('reader%s', 0);", call => q(SELECT * FROM es.fetch('reader%s', 3)), writes => 1, snapshot => '25000' },
			{ before => $subscription, call => q(SELECT * FROM es.fetch('reader%s', 3, wait => '5 ms')), writes => 1, snapshot => '25000' } ],
		ack => [ { before => $lease, call => "SELECT es.ack($held)", writes => 1 },
			{ before => $subscription, call => q(SELECT es.ack(-1)), writes => 1, code => 'SE012' } ],
		nack => [ { before => $lease, call => "SELECT es.nack($held, (SELECT min(position) FROM es.events WHERE aggregate_type = 'account'), 'no', true)", writes => 1 } ],
		extend_lease => [ { before => $lease, call => "SELECT es.extend_lease($held, '1 h')", writes => 1 } ],
		subscriptions => [ { before => $subscription, call => 'TABLE es.subscriptions' } ],
		subscription_streams => [ { before => $subscription, call => 'TABLE es.subscription_streams' } ],
		publish_mark => [ { call => 'SELECT es.publish_mark()', writes => 1 } ],

		# Replay.
		replay => [ map({ { call => "SELECT * FROM es.replay($_)", writes => 1 } }
				q('account'), q('account', apply => 'account_apply'), q('total'), q('line'), q('tally'),
				q('idle'), q('parts')),
			{ call => q(SELECT * FROM es.replay('total', in_place => true)), writes => 1, code => '22023' },
			{ call => q(SELECT * FROM es.replay('line', in_place => true)), writes => 1, snapshot => '25000' },
			{ call => q(SELECT * FROM es.replay('later')), writes => 1, code => 'SE008' },
			{ call => q(SELECT * FROM es.replay('total', parallel_workers => 2)), writes => 1 } ],
		replay_into => [ { call => q(SELECT es.replay_into('account', 'empty%s')), before => 'DROP TABLE IF EXISTS empty%s; CREATE TABLE empty%s (LIKE account INCLUDING ALL);', writes => 1 },
			{ call => q(SELECT es.replay_into('account', 'empty%s', as_of_position => 1)), before => 'DROP TABLE IF EXISTS empty%s; CREATE TABLE empty%s (LIKE account INCLUDING ALL);', after => 'DROP TABLE IF EXISTS empty%s;', writes => 1 } ],
		create_environment => [ { call => q(SELECT es.create_environment('past%s', as_of_position => 1)), before => 'DROP SCHEMA IF EXISTS past%s CASCADE;', after => 'DROP SCHEMA IF EXISTS past%s CASCADE;', writes => 1 } ],
		verify_projection => [ map({ { call => "SELECT * FROM es.verify_projection('$_')" } } qw(account total later idle parts)),
			{ call => q(SELECT * FROM es.verify_projection('line')), code => 'SE009' } ],
		replay_keys => [ { call => q(SELECT es.replay_keys('account', '{1,2}')), writes => 1, behind => '40001' } ],

		# Administration.
		grant_reader => [ { call => q(SELECT es.grant_reader('pg_monitor')), after => q(SELECT es.revoke_reader('pg_monitor');), writes => 1 } ],
		revoke_reader => [ { before => q(SELECT es.grant_reader('pg_monitor');), call => q(SELECT es.revoke_reader('pg_monitor')), writes => 1 } ],
		grant_writer => [ { call => q(SELECT es.grant_writer('pg_monitor', '{account}')), after => q(SELECT es.revoke_writer('pg_monitor');), writes => 1 } ],
		revoke_writer => [ { before => q(SELECT es.grant_writer('pg_monitor', '{account}');), call => q(SELECT es.revoke_writer('pg_monitor')), writes => 1 } ],
		writer_changed => [ { call => q(UPDATE es.writer SET role = role), plain => 1, writes => 1 } ],
		set_node_id => [ { call => q(SELECT es.set_node_id(0)), writes => 1 },
			{ call => q(SELECT es.set_node_id(1)), writes => 1, code => '55000' } ],
		role_in => [ { call => q(SELECT es.role_in('pg_monitor')), parallel => 's', anew => '0A000' } ],
		role_out => [ { call => q(SELECT es.role_out('pg_monitor')), parallel => 's' } ],

		# The rest.
		version => [ { call => q(SELECT es.version()), parallel => 's' } ],
		uuid_v7 => [ { call => q(SELECT es.uuid_v7()), parallel => 's' } ],

		# Views.
		projections => [ { call => 'TABLE es.projections' } ],
		projection_handlers => [ { call => 'TABLE es.projection_handlers', parallel => 's' } ],
		parked_events => [ { call => 'TABLE es.parked_events', parallel => 's' } ],
		replay_progress => [ { call => 'TABLE es.replay_progress', parallel => 'r' } ],
	};
}

# One list of all calls for session $number, each with the name of what it calls.
sub all
{
	my ($number) = @_;
	my $calls = calls();
	my @all;

	foreach my $name (sort keys %$calls)
	{
		my $variant = 0;

		foreach my $call (@{ $calls->{$name} })
		{
			my %copy = (before => '', after => '', plain => 0, utility => 0, writes => 0, parallel => 'u', %$call);

			s/%s/$number/g foreach @copy{ 'before', 'call', 'after' };
			$copy{do} = "EXECUTE '" . ($copy{call} =~ s/'/''/gr) . "'";
			$variant++;
			push @all, { %copy, name => $name, variant => $variant, title => $variant > 1 ? "$name $variant" : $name };
		}
	}
	return @all;
}

1;
