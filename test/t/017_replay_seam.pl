# Replays of several projections beside everything that can come in between:
# writers of all kinds, runs of an async projection, DDL, VACUUM, cancelled
# replays, replays in subtransactions; then replays that are ended at each stage
# in each way.
#
# The oracle.  A row's state is a chain of md5 sums over the events that feed
# it, so an event that is lost, applied twice or out of order changes it.  A
# plain SQL aggregate over the log must come to the same.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_LONG} ? 60 : 5;

my $node = PostgreSQL::Test::Cluster->new('seam');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
# What a transaction creates is not logged, but synced when it commits.
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 20
deadlock_timeout = 50ms
autovacuum_naptime = 1s
restart_after_crash = on
es.replay_memory = '1MB'
es.progress_interval = 0
));
$node->start;
my $amcheck = $node->safe_psql('postgres', q(SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'));
$node->safe_psql('postgres', 'CREATE EXTENSION amcheck') if $amcheck;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;

-- Rows of about one to four kilobytes: some are toasted.
CREATE TABLE account (id text PRIMARY KEY, events bigint, chain text, fat text);
ALTER TABLE account ALTER fat SET STORAGE EXTERNAL;
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	IF event.event_type = 'gate' THEN
		IF es.is_replaying() THEN
			PERFORM pg_advisory_lock(7);
			PERFORM pg_advisory_unlock(7);
		END IF;
		RETURN NULL;
	END IF;
	state.id := event.aggregate_id;
	state.events := coalesce(state.events, 0) + 1;
	state.chain := md5(coalesce(state.chain, '') || event.event_id::text);
	state.fat := repeat(state.chain, 30 + (state.events % 100)::integer);
	RETURN state;
END $$;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
CREATE INDEX ON account (events) WHERE events > 2;
CREATE UNIQUE INDEX ON account (lower(chain)) INCLUDE (events);
CREATE INDEX ON account USING hash (chain);
CREATE INDEX ON account USING brin (events);

CREATE TABLE shared (kind integer, name text, events bigint, chain text, PRIMARY KEY (kind, name)) PARTITION BY LIST (kind);
CREATE TABLE shared_1 PARTITION OF shared FOR VALUES IN (1, 2);
CREATE TABLE shared_2 PARTITION OF shared DEFAULT;
CREATE FUNCTION shared_apply(state shared, event es.events) RETURNS shared LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW((event.data->>'row')::integer, 'row', coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::shared;
SELECT es.create_projection('shared', 'shared', 'shared_apply', key => $$(data->>'row')::integer, 'row'$$, event_types => '{X}');

CREATE TABLE later (id text PRIMARY KEY, events bigint, chain text);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::later;
SELECT es.create_projection('later', 'later', 'later_apply', event_types => '{X}', mode => 'async');

CREATE TABLE counted (id text PRIMARY KEY, events bigint, chain text);
SELECT es.create_projection('counted', 'counted', event_types => '{X}');
SELECT es.set_handler('counted', 'X', $$INSERT INTO counted VALUES (event.aggregate_id, 1, md5(event.event_id::text))
	ON CONFLICT (id) DO UPDATE SET events = counted.events + 1, chain = md5(counted.chain || event.event_id::text)$$);

CREATE FUNCTION link(chain text, event_id uuid) RETURNS text
LANGUAGE sql IMMUTABLE RETURN md5(chain || event_id::text);
CREATE AGGREGATE chain(uuid) (sfunc = link, stype = text, initcond = '');

-- Replays in a subtransaction; what may come in between is no failure.
CREATE TABLE outcome (what text);
CREATE PROCEDURE replay(name text, workers integer) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es.replay(name, parallel_workers => workers);
	INSERT INTO outcome VALUES (name);
EXCEPTION WHEN query_canceled OR lock_not_available OR deadlock_detected OR SQLSTATE 'SE009' THEN
	INSERT INTO outcome VALUES (SQLSTATE);
END $$;
-- DDL that gives up soon.
CREATE PROCEDURE change(command text) LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL lock_timeout = '20ms';
	SET LOCAL client_min_messages = warning;
	EXECUTE command;
EXCEPTION WHEN lock_not_available OR deadlock_detected OR duplicate_column OR undefined_column
	OR duplicate_table OR unique_violation THEN
	NULL;
END $$;
));

my $variables = q(
\set a random(1, 150)
\set row random(1, 5)
\set pause random(0, 3)
\set unique random(1, 1000000000)
);
my $append = q(SELECT es.append('account', :a::text, 'X', jsonb_build_object('row', :row)););
my %writers = (
	'single@6' => "$variables $append",
	'paused@3' => "$variables BEGIN; $append \\sleep :pause ms
COMMIT;",
	'rollback@2' => "$variables BEGIN; $append \\sleep :pause ms
ROLLBACK;",
	'savepoint@2' => "$variables BEGIN; SAVEPOINT s; $append ROLLBACK TO s; $append SAVEPOINT t; $append ROLLBACK TO t; COMMIT;",
	'prepared@2' => "$variables BEGIN; $append PREPARE TRANSACTION 'p:unique:client_id';
\\sleep :pause ms
COMMIT PREPARED 'p:unique:client_id';",
	'unprepared@1' => "$variables BEGIN; $append PREPARE TRANSACTION 'u:unique:client_id';
ROLLBACK PREPARED 'u:unique:client_id';",
	'reader@2' => "$variables BEGIN; SELECT count(*) FROM account WHERE id = :a::text; $append COMMIT;",
	'batch@2' => "$variables INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', i::text, 'X', jsonb_build_object('row', :row) FROM generate_series(:a, :a + 5) AS i;",
	'run@1' => "SELECT es.run_projections('later', 100);");
my %replays = (
	'account@4' => q(CALL replay('account', 0);),
	'workers@1' => q(CALL replay('account', 2);),
	'shared@2' => q(CALL replay('shared', 0);),
	'later@2' => q(CALL replay('later', 0);),
	'counted@1' => q(CALL replay('counted', 0);),
	'twice@1' => q(BEGIN; CALL replay('account', 0); SAVEPOINT s; CALL replay('account', 0); ROLLBACK TO s; CALL replay('account', 0); COMMIT;),
	'undone@1' => q(BEGIN; CALL replay('account', 0); SELECT es.append('account', '1', 'X', '{"row": 1}'); ROLLBACK;),
	'indexed@1' => q(CALL change('CREATE INDEX IF NOT EXISTS account_more ON account (events DESC)');),
	'unindexed@1' => q(CALL change('DROP INDEX IF EXISTS account_more');),
	'constrained@1' => q(CALL change('ALTER TABLE account DROP CONSTRAINT IF EXISTS positive, ADD CONSTRAINT positive CHECK (events > 0)');),
	'column@1' => q(CALL change('ALTER TABLE account ADD COLUMN more integer DEFAULT 1');),
	'nocolumn@1' => q(CALL change('ALTER TABLE account DROP COLUMN more');),
	'renamed@1' => q(CALL change('ALTER TABLE account RENAME COLUMN more TO most'); CALL change('ALTER TABLE account RENAME COLUMN most TO more');),
	'cluster@1' => q(CALL change('CLUSTER account USING account_pkey');),
	'vacuum@1' => q(VACUUM account;),
	'cancel@3' => q(\set ms random(5, 100)
SET statement_timeout = :ms;
CALL replay('account', 0);
RESET statement_timeout;));

my $load = EsLoad->start($node, 'writers', \%writers, '-c', 8, '-j', 1, '-T', $seconds, '--max-tries', 10000);
my $replays = EsLoad->start($node, 'replays', \%replays, '-c', 5, '-j', 1, '-T', $seconds, '--max-tries', 10000);
my $result = $load->finish;
is($result->{exit}, 0, 'writers: no error') or diag($result->{stderr});
my $replayed = $replays->finish;
# On a slow machine the time may be over for RESET, too.
is(join("\n", grep { /ERROR/ && !/canceling statement/ } split /\n/, $replayed->{stderr}), '', 'replays: no error');
note("$result->{processed} writers' transactions; replays: "
	  . $node->safe_psql('postgres', q(SELECT string_agg(what || ' ' || n, ', ') FROM (SELECT what, count(*) AS n FROM outcome GROUP BY 1) AS o)));
is($node->safe_psql('postgres', q(SELECT count(*) > 0 FROM outcome WHERE what !~ '^[0-9S]')), 't', 'there were replays');
check('after the load');

# Each stage, ended in each way.  A gate stops the replay while it folds; an index
# expression, while it builds indexes; a reader, before it swaps.
$node->safe_psql(
	'postgres', q(
SELECT es.append('account', 'gate', 'gate');
CREATE FUNCTION slow(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF es.is_replaying() THEN
		PERFORM pg_catalog.pg_advisory_lock(8);
		PERFORM pg_catalog.pg_advisory_unlock(8);
	END IF;
	RETURN $1;
END $$;
CREATE INDEX ON account (slow(id));
));
my %stages = (
	folding => ['SELECT pg_advisory_lock(7)', q(wait_event_type = 'Lock' AND wait_event = 'advisory')],
	indexing => ['SELECT pg_advisory_lock(8)', q(wait_event_type = 'Lock' AND wait_event = 'advisory')],
	swapping => ['BEGIN; SELECT count(*) FROM account', q(wait_event_type = 'Lock' AND wait_event = 'relation')]);
my @ways = qw(cancel terminate timeout lock_timeout kill immediate);
foreach my $stage (sort keys %stages)
{
	foreach my $way (@ways)
	{
		next if $way eq 'lock_timeout' && $stage ne 'swapping';
		interrupt($stage, $way);
	}
}
is($node->safe_psql('postgres', q(SELECT rows > 0 FROM es.replay('account'))), 't', 'the replay succeeds in the end');
check('after the interruptions');

# A crash just after the commit of what was not logged: written then, or synced.
foreach my $threshold (qw(0 1GB))
{
	$node->safe_psql(
		'postgres', qq(
SET wal_skip_threshold = '$threshold';
BEGIN;
SELECT es.replay('account');
SELECT es.append('account', '1', 'X', '{"row": 1}');
SAVEPOINT s;
SELECT es.replay('account');
SELECT es.append('account', '2', 'X', '{"row": 1}');
ROLLBACK TO s;
SELECT es.append('account', '3', 'X', '{"row": 1}');
SELECT es.replay('account'), es.replay('shared'), es.replay('counted');
SELECT es.append('account', '4', 'X', '{"row": 1}');
COMMIT;
BEGIN;
CREATE TABLE made (id text PRIMARY KEY, n integer);
CREATE FUNCTION made_apply(state made, event es.events) RETURNS made LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::made;
SELECT es.create_projection('made', 'made', 'made_apply', event_types => '{X}');
SELECT es.replay('made');
COMMIT;
));
	$node->stop('immediate');
	$node->start;
	is($node->safe_psql('postgres', q(SELECT count(*) FROM es.verify_projection('made'))), '0', "wal_skip_threshold $threshold: a new table");
	$node->safe_psql('postgres', 'SET client_min_messages = warning; DROP TABLE made CASCADE');
	check("after a crash, wal_skip_threshold $threshold");
}
$node->safe_psql('postgres', q(VACUUM (FREEZE) account; REINDEX TABLE account; VACUUM FULL account));
check('after VACUUM');
$node->stop;
done_testing();

# Checks rows, storage and catalogs.
sub check
{
	my ($when) = @_;

	$node->safe_psql('postgres', 'SELECT es.run_projections()');
	is( $node->safe_psql(
			'postgres', q(
WITH expected AS (SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY position) AS chain FROM es.events WHERE event_type = 'X' GROUP BY 1),
shared_expected AS (SELECT (data->>'row')::integer, 'row', count(*), chain(event_id ORDER BY position) FROM es.events WHERE event_type = 'X' GROUP BY 1),
fat AS (SELECT id, events, chain, repeat(chain, 30 + (events % 100)::integer) FROM expected),
account AS (SELECT id, events, chain, fat FROM account)
SELECT 'account', count(*) FROM ((TABLE fat EXCEPT ALL TABLE account) UNION ALL (TABLE account EXCEPT ALL TABLE fat)) AS d HAVING count(*) > 0
UNION ALL SELECT 'later', count(*) FROM ((TABLE expected EXCEPT ALL TABLE later) UNION ALL (TABLE later EXCEPT ALL TABLE expected)) AS d HAVING count(*) > 0
UNION ALL SELECT 'counted', count(*) FROM ((TABLE expected EXCEPT ALL TABLE counted) UNION ALL (TABLE counted EXCEPT ALL TABLE expected)) AS d HAVING count(*) > 0
UNION ALL SELECT 'shared', count(*) FROM ((TABLE shared_expected EXCEPT ALL TABLE shared) UNION ALL (TABLE shared EXCEPT ALL TABLE shared_expected)) AS d HAVING count(*) > 0
UNION ALL SELECT 'by index', abs(count(*) - (SELECT count(*) FROM account)) FROM account WHERE id >= '' HAVING count(*) <> (SELECT count(*) FROM account);
)), '', "$when: rows are the fold of the log");
	is(left(), '', "$when: nothing is left");
	is( $node->safe_psql(
			'postgres', q(
SELECT oid::regclass, age(relfrozenxid) FROM pg_class
WHERE relkind IN ('r', 't') AND (age(relfrozenxid) < 0 OR age(relfrozenxid) > 1000000)
UNION ALL
SELECT indexrelid::regclass, 0 FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive);
)), '', "$when: horizons and indexes are in order");
	return unless $amcheck;
	is( $node->safe_psql(
			'postgres', q(
SET client_min_messages = warning;
SELECT c.oid::regclass, v.* FROM pg_class AS c, verify_heapam(c.oid) AS v
WHERE c.oid IN ('account'::regclass, 'counted'::regclass, 'later'::regclass, 'shared_1'::regclass, 'shared_2'::regclass)
	OR c.oid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'account'::regclass);
SELECT 'index' WHERE (SELECT count(bt_index_check(i.indexrelid, heapallindexed => true)::text) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND c.relkind = 'i' AND i.indrelid >= 16384) < 5;
)), '', "$when: amcheck finds nothing");
}

# Returns what a replay has left in the catalogs and of locks, workers and files.
sub left
{
	return $node->safe_psql(
		'postgres', q(
SELECT relname FROM pg_class WHERE relname ~ '^pg_temp_|_replay' OR relrewrite <> 0
UNION ALL
SELECT 'toast of nothing' FROM pg_class AS t WHERE relkind = 't' AND oid >= 16384 AND NOT EXISTS (SELECT FROM pg_class WHERE reltoastrelid = t.oid)
UNION ALL
SELECT concat(locktype, ' ', mode, ' ', relation::regclass) FROM pg_locks AS l WHERE (relation = 'account'::regclass OR locktype = 'advisory')
	AND (pid IS NULL OR EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = l.pid AND backend_type <> 'autovacuum worker'))
UNION ALL
SELECT query FROM pg_stat_activity WHERE backend_type LIKE 'parallel%'
UNION ALL
SELECT phase FROM es.replay_progress;
));
}

# Returns the files of the database that no relation has.
sub stray_files
{
	return $node->safe_psql(
		'postgres', q(
CHECKPOINT;
SELECT string_agg(f, ' ') FROM pg_ls_dir('base/' || (SELECT oid FROM pg_database WHERE datname = current_database())) AS f
WHERE f ~ '^[0-9]+$' AND f::oid >= 16384 AND NOT EXISTS (SELECT FROM pg_class WHERE pg_relation_filenode(oid) = f::oid);));
}

# Ends a replay at a stage, and sees that nothing has come of it.
sub interrupt
{
	my ($stage, $way) = @_;
	my ($block, $waits) = @{ $stages{$stage} };
	my $before = $node->safe_psql('postgres', q(SELECT pg_relation_filenode('account'), md5(string_agg(a::text, '' ORDER BY id)) FROM account AS a));
	my $stray = stray_files();
	my $checkpointer = $node->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'));
	my $blocker = $node->background_psql('postgres');
	my $settings = $way eq 'timeout' ? q(SET statement_timeout = '200ms';) : $way eq 'lock_timeout' ? q(SET lock_timeout = '200ms';) : '';
	my ($out, $err) = ('', '');

	$blocker->query_safe($block);
	my $replay = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $settings,
			'-c', q(SET application_name = 'victim'), '-c', q(SELECT es.replay('account')) ],
		'<', \undef, '>', \$out, '2>', \$err);
	if ($settings eq '')
	{
		$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'victim' AND $waits")
		  or die 'the replay does not get there';
		my $pid = $node->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE application_name = 'victim'));

		$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)") if $way eq 'cancel';
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $way eq 'terminate';
		kill 'KILL', $pid if $way eq 'kill';
		$node->stop('immediate') if $way eq 'immediate';
	}
	$replay->finish;
	isnt($err, '', "$stage, $way: the replay failed");
	if ($way eq 'kill' || $way eq 'immediate')
	{
		eval { $blocker->quit; };
		$node->start if $way eq 'immediate';
		$node->poll_query_until('postgres', "SELECT pid <> $checkpointer FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
		  or die 'the server does not come back';
	}
	else
	{
		$blocker->quit;
		is(stray_files(), $stray, "$stage, $way: no file is left");
	}
	is($node->safe_psql('postgres', q(SELECT pg_relation_filenode('account'), md5(string_agg(a::text, '' ORDER BY id)) FROM account AS a)),
		$before, "$stage, $way: the old rows are there");
	is(left(), '', "$stage, $way: nothing is left");
	$node->safe_psql('postgres', q(SELECT es.append('account', '1', 'X', '{"row": 1}'), es.append('account', 'new' || clock_timestamp(), 'X', '{"row": 1}')));
}
