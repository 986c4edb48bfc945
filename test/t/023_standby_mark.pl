# Reading the log on a hot standby with the mark that the primary publishes.
#
# The oracle.  Writers append on the primary, with pauses, rollbacks, savepoints
# and prepared transactions, so that lower positions are committed after higher
# ones.  Two sessions on the standby poll with es.read_all(), one by itself and
# one after es.high_water_mark().  In the end each has seen every
# event, once, in order.  The standby is restarted at a random moment, too.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{ES_LONG} ? 40 : 8;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf(
	'postgresql.conf', q(
shared_preload_libraries = 'pg_eventsourcing'
max_prepared_transactions = 20
));
$primary->start;
$primary->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE counts (id text PRIMARY KEY, n bigint);
CREATE FUNCTION counts_apply(state counts, event es.events) RETURNS counts
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::counts;
SELECT es.create_projection('counts', 'counts', 'counts_apply', mode => 'async');
SELECT es.append('a', '1', 'e');
));

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

# --- without the worker -----------------------------------------------------------

$primary->wait_for_catchup($standby);
foreach my $query ('SELECT es.high_water_mark()', 'SELECT * FROM es.read_all()')
{
	my ($ret, undef, $stderr) = $standby->psql('postgres', "\\set VERBOSITY verbose\n$query");

	like($stderr, qr/55000: .*not known during recovery.*HINT: .*es\.publish_mark/s, "$query: nothing has been published");
}
is($standby->safe_psql('postgres', 'SELECT name, lag FROM es.projections'), 'counts|', 'nor is the lag known');
my ($ret, undef, $stderr) = $standby->psql('postgres', 'SELECT es.publish_mark()');
like($stderr, qr/cannot execute es.publish_mark\(\) (during recovery|in a read-only)/, 'only the primary publishes');

is($primary->safe_psql('postgres', 'SELECT es.publish_mark(), es.high_water_mark()'), '1|1', 'it does');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT es.high_water_mark(), (SELECT count(*) FROM es.read_all()), (SELECT lag FROM es.projections)'),
	'1|1|1', 'and the standby reads');
$primary->safe_psql('postgres', q(SELECT es.append('a', '1', 'e')));
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT es.high_water_mark(), (SELECT count(*) FROM es.read_all()), (SELECT count(*) FROM es.events)'),
	'1|1|2', 'up to what was published');
$primary->safe_psql('postgres', 'SELECT es.run_projections()');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT es.high_water_mark(), (SELECT count(*) FROM es.read_all()), (SELECT lag FROM es.projections)'),
	'2|2|0', 'es.run_projections() publishes, too');
$primary->safe_psql('postgres', q(BEGIN; SELECT es.append('a', '2', 'e'); PREPARE TRANSACTION 'first'; SELECT es.append('a', '3', 'e'); SELECT es.publish_mark()));
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT es.high_water_mark(), (SELECT max(position) FROM es.events)'),
	'2|4', 'a prepared transaction holds the mark there as well');
$primary->safe_psql('postgres', q(COMMIT PREPARED 'first'));

# Whoever may call it, the sequence is written with its owner's rights.
$primary->safe_psql('postgres', q(CREATE ROLE cron; GRANT USAGE ON SCHEMA es TO cron; GRANT EXECUTE ON FUNCTION es.publish_mark() TO cron));
is($primary->safe_psql('postgres', 'SET ROLE cron; SELECT es.publish_mark()'), '4', 'a role without rights on the sequence publishes');
is($primary->safe_psql('postgres', 'SELECT es.publish_mark()'), '4', 'once more changes nothing');
is($primary->safe_psql('postgres', "BEGIN; SELECT es.append('a', '4', 'e'); SELECT es.publish_mark(); ROLLBACK; TABLE es.published_mark_seq"),
	"1\n4\n4|0|t", 'nor does a transaction for its own events');

# --- with it --------------------------------------------------------------------------

$primary->append_conf('postgresql.conf', q(es.worker_databases = 'postgres'));
$primary->reload;
$standby->append_conf('postgresql.conf', q(es.worker_databases = 'postgres'));
$standby->reload;

my %writes = (
	'one@4' => q(
\set a random(1, 50)
SELECT es.append('a', :a::text, 'e');
),
	'slow@2' => q(
\set a random(1, 50)
\set ms random(0, 40)
BEGIN;
SELECT es.append('a', :a::text, 'e');
\sleep :ms ms
COMMIT;
),
	'undone@1' => q(
\set a random(1, 50)
\set ms random(0, 10)
BEGIN;
SELECT es.append('a', :a::text, 'e');
\sleep :ms ms
ROLLBACK;
),
	'savepoint@1' => q(
\set a random(1, 50)
\set ms random(0, 10)
BEGIN;
SAVEPOINT s;
SELECT es.append('a', :a::text, 'e');
ROLLBACK TO s;
\sleep :ms ms
SELECT es.append('a', :a::text, 'f');
COMMIT;
),
	'prepared@1' => q(
\set a random(1, 50)
\set ms random(0, 40)
BEGIN;
SELECT es.append('a', 'p' || :a, 'e');
PREPARE TRANSACTION 'p:client_id';
\sleep :ms ms
COMMIT PREPARED 'p:client_id';
));

# Sessions on the standby that poll, and what each has seen.
my @pollers = map { { last => 0, seen => [] } } 1 .. 2;
my @queries = (
	sub { "SELECT position FROM es.read_all($_[0], 500)" },
	sub { "SELECT es.high_water_mark() AS mark \\gset\nSELECT position FROM es.events WHERE position > $_[0] AND position <= :mark ORDER BY position;" });

sub poll_once
{
	my ($i) = @_;
	my $poller = $pollers[$i];

	$poller->{session} //= $standby->background_psql('postgres');
	my $answer = $poller->{session}->query_safe($queries[$i]->($poller->{last}));
	my @positions = grep { /^\d+$/ } split /\n/, $answer;

	push @{ $poller->{seen} }, @positions;
	$poller->{last} = $positions[-1] if @positions;
}

sub end_sessions
{
	foreach my $poller (@pollers)
	{
		$poller->{session}->quit if $poller->{session};
		delete $poller->{session};
	}
}

my $writers = EsLoad->start($primary, 'writers', \%writes, '-c', 8, '-j', 2, '-T', $seconds, '--max-tries=1000');
my $restart = time + $seconds / 2;
my $lag = 0;
while ($writers->running)
{
	poll_once(0);
	poll_once(1);
	if (time > $restart)
	{
		end_sessions();
		$standby->restart;
		$restart = time + 1000;
	}
}
my $result = $writers->finish;
is($result->{exit}, 0, 'the writers have had no error') or diag $result->{stderr};

# The worker publishes the last mark by itself.
my $mark = $primary->safe_psql('postgres', 'SELECT es.high_water_mark()');
ok($standby->poll_query_until('postgres', "SELECT es.high_water_mark() = $mark"), 'the last mark gets to the standby');
foreach my $i (0, 1)
{
	my $before;

	do
	{
		$before = @{ $pollers[$i]->{seen} };
		poll_once($i);
	} until @{ $pollers[$i]->{seen} } == $before;
}
end_sessions();
my $all = $primary->safe_psql('postgres', 'SELECT position FROM es.events ORDER BY position');
foreach my $i (0, 1)
{
	my @missing = grep { defined } do { my %seen = map { $_ => 1 } @{ $pollers[$i]->{seen} }; grep { !$seen{$_} } split /\n/, $all };

	ok(join("\n", @{ $pollers[$i]->{seen} }) eq $all, "poller $i has seen every event once, in order")
	  or diag 'missing: ' . join(' ', @missing);
}
note scalar(@{ $pollers[0]->{seen} }) . " events, $result->{processed} transactions";
is($standby->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg\_eventsourcing%')),
	'0', 'nothing runs on the standby');

# --- promotion ---------------------------------------------------------------------------

$primary->safe_psql('postgres', q(BEGIN; SELECT es.append('a', '2', 'e'); PREPARE TRANSACTION 'last'));
my $position = $primary->safe_psql('postgres', q(SELECT position FROM es.append_events('a', '3', '[{"event_type": "e"}]')));
$primary->wait_for_catchup($standby);
$primary->stop;
$standby->promote;
cmp_ok($standby->safe_psql('postgres', 'SELECT es.high_water_mark()'), '<', $position, 'the prepared transaction holds the mark after promotion');
ok( $standby->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing worker')),
	'the promoted standby gets a worker');
$standby->safe_psql('postgres', q(COMMIT PREPARED 'last'));
$position = $standby->safe_psql('postgres', q(SELECT position FROM es.append_events('a', '3', '[{"event_type": "e"}]')));
is($standby->safe_psql('postgres', "SELECT es.wait_for('counts', $position, '60s')"), 't', 'which goes on with the projections');
is( $standby->safe_psql('postgres', 'SELECT (SELECT sum(n) FROM counts) = (SELECT count(*) FROM es.events), (SELECT count(DISTINCT position) FROM es.events) = (SELECT count(*) FROM es.events)'),
	't|t',
	'every event was applied once');

$standby->stop;
done_testing();
