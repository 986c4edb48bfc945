# Backends are killed, the postmaster is killed, the server is shut down at once, at
# random moments, while clients append in transactions of all kinds (two-phase
# ones included), projections are replayed, changed and brought up to date, by sessions
# and by the worker, and a consumer of a subscription keeps a table of its own.
#
# The oracle is the ledger of what the clients were told, see EsLedger.pm:
# nothing that was acknowledged is lost or there twice.  After each crash the
# catalogs hold nothing that is half done, the projections are what the log says,
# the consumer's table has each event once, and no file on disk belongs
# to no table, but for those that PostgreSQL itself leaves behind: of tables whose
# creating transaction was open when the server died.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLedger;
use EsLoad;
use EsWorld;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $seed = $ENV{ES_SEED} || int rand 1_000_000;
my $rounds = $ENV{ES_LONG} ? 20 : 3;
note "ES_SEED=$seed";
srand $seed;
my $checkpointer;    # when a backend was killed

my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
max_connections = 40
max_prepared_transactions = 40
deadlock_timeout = 100ms
restart_after_crash = on
log_statement = none
));
$node->start;
EsWorld::roles($node);
EsWorld::make($node, 'postgres');
$node->safe_psql(
	'postgres', q(
UPDATE allowed SET poison = true;
SELECT es.retry_parked('later');
SELECT es.run_projections('stopped');
SELECT es.drop_projection('later');
SELECT es.create_projection('later', 'later', 'later_apply', mode => 'async');
SELECT es.alter_projection('off', enabled => true);
SELECT es.append('account', n::text, 'Noted', '{"n": 1}') FROM generate_series(1, 3000) AS n;
SELECT es.create_subscription('copier', partitions => 3);
CREATE TABLE copy (position bigint PRIMARY KEY, event_id uuid NOT NULL);
CREATE FUNCTION copy_some() RETURNS bigint LANGUAGE sql AS $$
	WITH f AS MATERIALIZED (SELECT * FROM es.fetch('copier', 50)),
	c AS (INSERT INTO copy SELECT position, event_id FROM f),
	a AS MATERIALIZED (SELECT es.ack(lease_id) FROM (SELECT DISTINCT lease_id FROM f) AS l)
	SELECT count(*) FROM f, a $$;
-- What is missing in the consumer's table, if nothing is under way.
CREATE VIEW not_copied AS
SELECT position FROM es.events AS e FULL JOIN copy AS c USING (position) WHERE e.event_id IS DISTINCT FROM c.event_id;
));

# The worker runs the async projections, too.
$node->append_conf(
	'postgresql.conf', q(
shared_preload_libraries = 'pg_eventsourcing'
es.worker_databases = 'postgres'
));
$node->restart;

my %runs = (run => 'SELECT es.run_projections(max_events => 500);');
my %copies = (copy => 'SELECT copy_some();');
my %replays = map { ($_ => "SELECT rows FROM es.replay('$_');") } qw(account by_type parts total stopped);
my %changes = (
	later => q(
SELECT es.alter_projection('later', mode => 'inline');
SELECT es.alter_projection('later', mode => 'async');
),
	off => q(
SELECT es.alter_projection('off', enabled => false);
SELECT es.alter_projection('off', enabled => true);
),
	protect => q(
SELECT es.alter_projection('by_type', protect => true);
SELECT es.alter_projection('by_type', protect => false);
),
	drop => q(
BEGIN;
SELECT es.drop_projection('line_later');
TRUNCATE line_later;
SELECT es.create_projection('line_later', 'line_later', aggregate_types => '{account,new}', mode => 'async');
SELECT es.set_handler('line_later', NULL, 'INSERT INTO line_later VALUES (event.position, event.event_id)');
COMMIT;
));

my $ledger = EsLedger->new($seed);
my $orphans = orphans();
is($orphans, 0, 'at first no file is left');
foreach my $round (1 .. $rounds)
{
	my $way = (qw(backend postmaster immediate))[ ($round + $seed) % 3 ];
	my $what = "round $round, $way";
	my @options = ('-T', 60, '--max-tries', 1000);

	$ledger->start($node, 4);
	my @loads = map { EsLoad->start($node, @$_, '-c', 1, @options) }
	  ([ 'runs', \%runs ], [ 'copies', \%copies ], [ 'replays', \%replays ], [ 'changes', \%changes ]);
	$ledger->wait_for(20 + int rand 100);
	my $replays = open_replays();
	die_somehow($way);
	$_->finish foreach @loads;
	$ledger->stop;
	start_again($way);
	note "$what: $replays replays were open";
	check($what);
}
$orphans = orphans();

# In the end, everything goes on.
$ledger->start($node, 4);
$ledger->wait_for(100);
$ledger->stop;
ask("SELECT rows FROM es.replay('$_')") foreach qw(account by_type off parts later stopped line line_later total);
check('in the end');
is(orphans(), $orphans, 'and leaves nothing on disk');
note "$orphans files were left by the crashes";

$node->stop;
done_testing();

# --- parts ------------------------------------------------------------------

# Lets the server die.
sub die_somehow
{
	my ($way) = @_;

	if ($way eq 'postmaster')
	{
		$node->kill9;
	}
	elsif ($way eq 'immediate')
	{
		$node->stop('immediate');
	}
	else
	{
		# One that replays if there is one, or any other that works for us.
		$checkpointer = $node->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'));
		my $pid = $node->safe_psql(
			'postgres', q(SELECT pid FROM pg_stat_activity WHERE application_name IN ('ledger', 'runs', 'copies', 'replays', 'changes')
ORDER BY (state = 'active' AND query ~ 'replay') DESC, random() LIMIT 1));
		is(kill('KILL', $pid), 1, "backend $pid is killed");
	}
	return;
}

# Starts the server, or waits until it has started itself again.
sub start_again
{
	my ($way) = @_;

	if ($way eq 'backend')
	{
		$node->poll_query_until('postgres', "SELECT pid <> $checkpointer FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
		  or die "the server does not come back\n";
		return;
	}
	# What a killed postmaster has left goes by itself, after a moment.
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if $node->start(fail_ok => 1);
		usleep(100_000);
		$node->stop('fast', fail_ok => 1);
	}
	die "the server does not start\n";
}

# How many replays are open.
sub open_replays
{
	return $node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ 'es.replay' AND pid <> pg_backend_pid()));
}

# Looks at what a crash has left.
sub check
{
	my ($what) = @_;

	EsWorld::whole($node, 'postgres', $what);
	is( ask(q(SELECT count(*) - count(DISTINCT position), count(*) FILTER (WHERE e.position IS NULL)
FROM copy LEFT JOIN es.events AS e USING (position, event_id))),
		'0|0', "$what: the consumer has nothing twice, nor what is not there");

	# Who has read up to the mark has missed nothing of what is still prepared.
	my $settled = 'SELECT count(*) FROM es.events WHERE position <= ' . ask('SELECT es.high_water_mark()');
	my $before = ask($settled);
	$ledger->check($node, $what, 1);
	is(ask($settled), $before, "$what: no event appears below the mark");

	ask(q(SELECT es.alter_projection(name, enabled => true) FROM es.projections WHERE NOT enabled));
	ask(q(SELECT es.run_projections()));
	EsWorld::right($node, 'postgres', $what);
	$node->poll_query_until('postgres', 'SELECT copy_some() = 0 AND NOT EXISTS (SELECT FROM es.subscriptions WHERE name = \'copier\' AND lag > 0)');
	is(ask('SELECT * FROM not_copied LIMIT 5'), '', "$what: the consumer gets everything");
	return;
}

sub ask
{
	return $node->safe_psql('postgres', $_[0]);
}

# Counts the files that belong to no table, as docs/operations.md finds them.
sub orphans
{
	return $node->safe_psql(
		'postgres', q(
CHECKPOINT;
SELECT count(*) FROM pg_database AS d, pg_ls_dir('base/' || d.oid) AS file,
       LATERAL (SELECT size FROM pg_stat_file('base/' || d.oid || '/' || file, true)) AS s
 WHERE datname = current_database() AND file ~ '^[0-9]+'
   AND pg_filenode_relation(0, substring(file FROM '^[0-9]+')::oid) IS NULL));
}
