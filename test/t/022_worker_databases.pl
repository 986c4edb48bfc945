# Workers of several databases: created, dropped, renamed, copied, moved and
# restored while they have a worker.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('databases');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
shared_preload_libraries = 'pg_eventsourcing'
es.worker_databases = 'one, two, "Three ""x"""'
es.worker_naptime = 100ms
wal_level = replica
));
$node->start;

my $setup = q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE counts (id text PRIMARY KEY, n bigint);
CREATE FUNCTION counts_apply(state counts, event es.events) RETURNS counts
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::counts;
SELECT es.create_projection('counts', 'counts', 'counts_apply', mode => 'async');
);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Returns the databases that have a worker.
sub workers
{
	return sql(q(SELECT string_agg(datname, ' ' ORDER BY datname COLLATE "C") FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker'));
}

# Waits until exactly these databases have a worker.
sub has_workers
{
	my ($names, $what) = @_;

	ok( $node->poll_query_until('postgres', qq(SELECT coalesce(string_agg(datname, ' ' ORDER BY datname COLLATE "C"), '') = '$names' FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker')),
		$what) or diag workers();
}

# Appends an event and waits until the projection has it.
sub kept_up
{
	my ($database, $what) = @_;
	my $at = $node->safe_psql($database, q(SELECT position FROM es.append_events('a', 'kept', '[{"event_type": "kept"}]')));

	is($node->safe_psql($database, "SELECT es.wait_for('counts', $at, '60s')"), 't', $what);
}

# --- created, in any order -------------------------------------------------------

is(sql(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker')), '0', 'no database, no worker');
sql('CREATE DATABASE one');
has_workers('one', 'a database that is created gets its worker');
sql('CREATE DATABASE "Three ""x"""');
has_workers('Three "x" one', 'names may need quotes');
$node->safe_psql('one', $setup);
kept_up('one', 'it works');

# --- copied, dropped and renamed -----------------------------------------------------

$node->safe_psql('one', q(SELECT es.append('a', '1', 'e') FROM generate_series(1, 5000)));
sql('CREATE DATABASE two TEMPLATE one');
has_workers('Three "x" one two', 'a database with a worker is copied, and the copy gets one');
kept_up('one', 'the original goes on');
kept_up('two', 'so does the copy');
is( $node->safe_psql('two', 'SELECT (SELECT sum(n) FROM counts) = (SELECT count(*) FROM es.events)'),
	't',
	'with every event applied once');
sql('ALTER DATABASE two RENAME TO four');
has_workers('Three "x" one', 'a database with a worker is renamed, and loses it');
sql('ALTER DATABASE four RENAME TO two');
has_workers('Three "x" one two', 'and gets it back');
kept_up('two', 'which works');
my $space = PostgreSQL::Test::Utils::tempdir();
sql("CREATE TABLESPACE space LOCATION '$space'");
sql('ALTER DATABASE two SET TABLESPACE space');
has_workers('Three "x" one two', 'it is moved');
kept_up('two', 'and its worker goes on');
sql('DROP DATABASE "Three ""x"""');
has_workers('one two', 'one is dropped');
foreach my $round (1 .. 3)
{
	sql('DROP DATABASE two');
	sql('CREATE DATABASE two TEMPLATE one');
}
kept_up('two', 'dropped and created, time and again');
$node->append_conf('postgresql.conf', q(es.worker_databases = 'one, two, template1'));
$node->reload;
has_workers('one template1 two', 'the template that is copied by default has a worker');
sql('CREATE DATABASE six');
sql('CREATE DATABASE seven TEMPLATE DEFAULT');
$node->append_conf('postgresql.conf', q(es.worker_databases = 'one, two'));
$node->reload;
has_workers('one two', 'and loses it');

# Those who may not give the command don't stop the worker.
sql('CREATE ROLE somebody LOGIN CREATEDB');
my $pid = sql(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker' AND datname = 'one'));
foreach my $command ('DROP DATABASE one', 'ALTER DATABASE one RENAME TO five', 'CREATE DATABASE five TEMPLATE one')
{
	my ($ret, undef, $stderr) = $node->psql('postgres', "SET ROLE somebody; $command");

	like($stderr, qr/must be owner|permission denied/, "$command: refused");
}
is(sql(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker' AND datname = 'one')),
	$pid, 'the worker was left alone');

# A command that fails lets the worker come back.
my ($ret) = $node->psql('postgres', 'ALTER DATABASE one RENAME TO two');
isnt($ret, 0, 'a name that is taken');
kept_up('one', 'the worker comes back');
sql('ALTER DATABASE two ALLOW_CONNECTIONS false');
has_workers('one', 'no worker where no connections are allowed');
sql('ALTER DATABASE two ALLOW_CONNECTIONS true');
has_workers('one two', 'a worker where they are');

# Settings of the database don't get in the worker's way.
sql(qq(ALTER DATABASE one SET $_))
  foreach ('default_transaction_isolation = serializable', 'default_transaction_read_only = on', 'statement_timeout = 1',
	'search_path = nowhere', 'lock_timeout = 1', 'session_replication_role = replica', 'es.restore = on',
	'session_authorization = somebody', 'role = somebody', 'exit_on_error = on');
sql(qq(SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker' AND datname = 'one'));
has_workers('one two', 'a worker with odd settings');
sql('ALTER DATABASE one RESET ALL');
kept_up('one', 'works');
$pid = sql(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker' AND datname = 'one'));
$node->safe_psql('one', q(
CREATE TABLE fails (id text PRIMARY KEY, n bigint);
CREATE FUNCTION fails_apply(state fails, event es.events) RETURNS fails
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 1 / (event.data->>'n')::integer)::fails;
SELECT es.create_projection('fails', 'fails', 'fails_apply', mode => 'async', event_types => '{fails}');
SELECT es.append('a', '1', 'fails', '{"n": 0}');
));
ok($node->poll_query_until('one', q(SELECT status = 'stopped' FROM es.projections WHERE name = 'fails')),
	'a projection fails under these settings');
is(sql(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker' AND datname = 'one')),
	$pid, 'which is not the end of the worker');
$node->safe_psql('one', q(SELECT es.drop_projection('fails'); DROP TABLE fails CASCADE));

# --- restored ------------------------------------------------------------------------

# Dumps restored into a database that has a worker already.  With several jobs
# the sequence may be there before the events, and a checkpoint before its rows.
$node->safe_psql('one', q(SELECT es.append('a', 'r' || g % 100, 'e') FROM generate_series(1, 20000) AS g));
kept_up('one', 'the original');
$node->safe_psql('one', q(SELECT es.alter_projection('counts', enabled => false); SELECT es.append('a', 'r' || g % 100, 'e') FROM generate_series(1, 500) AS g));
$node->safe_psql('one', q(UPDATE es.projection SET enabled = true)); # so that it is behind
my $dump = PostgreSQL::Test::Utils::tempdir();
sql('ALTER DATABASE one ALLOW_CONNECTIONS true');
$node->append_conf('postgresql.conf', q(es.worker_databases = 'two'));
$node->reload;
has_workers('two', 'the original is left alone');
$node->safe_psql('one', q(SELECT es.append('a', 'r' || g % 100, 'e') FROM generate_series(1, 500) AS g));
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump/one", '-d', $node->connstr('one') ], 'a dump of what is behind');
$node->command_ok([ 'pg_dump', '-f', "$dump/one.sql", '-d', $node->connstr('one') ], 'a plain one');
my $events = $node->safe_psql('one', 'SELECT count(*) FROM es.events');
foreach my $round (1 .. 4)
{
	sql('DROP DATABASE two');
	sql('CREATE DATABASE two');
	has_workers('two', "restore $round: a database with a worker");
	my @command = $round % 2 == 0
	  ? ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/one.sql", '-d', $node->connstr('two'))
	  : ('pg_restore', '-j', 4, '-d', $node->connstr('two'), "$dump/one");
	$node->command_ok(\@command, "restore $round: loads");
	kept_up('two', "restore $round: goes on from the checkpoint");
	is( $node->safe_psql('two', 'SELECT (SELECT count(*) FROM es.events), (SELECT sum(n) FROM counts)'),
		($events + 1) . '|' . ($events + 1), "restore $round: every event was applied once");
}

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|segmentation/i, 'the log is clean');
$node->stop;
done_testing();
