# Consumers of two subscriptions that crash, undo their work, give events back and lose
# their leases, beside writers with pauses, rollbacks, savepoints and prepared
# transactions, and a crash of the server.
#
# The oracle.  A consumer that works in one transaction with its fetch and its
# acknowledgement has got every committed event once, those of an aggregate in
# order.  One that acknowledges later has got every event, and for the first time in
# order, too.  What a consumer appends has a higher position than the event that it
# answers.  Neither a transaction that is idle nor one that appends in another database
# holds anything back.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use EsServerLog;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{ES_LONG} ? 20 : 3; # before the crash, and after it
my $writers = $ENV{ES_LONG} ? 16 : 8;
my $seed = $ENV{ES_SEED} || int rand 1_000_000;
my @deaths = (0, 0);

note "ES_SEED=$seed";
srand $seed;
my $node = PostgreSQL::Test::Cluster->new('subscriptions');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 20\n" . EsServerLog::settings());
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION pg_eventsourcing');
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
SELECT es.create_subscription('once', '{a}', partitions => 8, max_attempts => NULL);
SELECT es.create_subscription('often', '{a}', partitions => 8, max_attempts => NULL);

CREATE TABLE once (n serial, position bigint PRIMARY KEY, aggregate_id text, version bigint);
CREATE TABLE often (n serial, position bigint, aggregate_id text, version bigint);

-- Fetch, work, answer some events, and ack, all in the caller's transaction.
CREATE FUNCTION work_once() RETURNS bigint LANGUAGE sql AS $$
	WITH batch AS MATERIALIZED (SELECT * FROM es.fetch('once', 10, wait => '50 ms')),
	work AS (INSERT INTO once (position, aggregate_id, version) SELECT b.position, b.aggregate_id, b.version FROM batch AS b),
	answer AS MATERIALIZED (
		SELECT es.append('answer', b.partition::text, 'Answered', causation_id => b.position::text)
		  FROM batch AS b WHERE b.position % 10 = 0)
	SELECT (SELECT count(*) FROM answer) + count(es.ack(b.lease_id)::text) FROM (SELECT DISTINCT lease_id FROM batch) AS b $$;

-- Fetches, and returns the lease and the last position of the first half; 0 if there is nothing.
CREATE FUNCTION take_often(lease interval, OUT held bigint, OUT half bigint) LANGUAGE sql AS $$
	WITH batch AS MATERIALIZED (SELECT * FROM es.fetch('often', 10, lease => take_often.lease, wait => '50 ms')),
	work AS (INSERT INTO often (position, aggregate_id, version) SELECT b.position, b.aggregate_id, b.version FROM batch AS b)
	SELECT coalesce(max(lease_id), 0), coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY b.position), 0) FROM batch AS b $$;

-- Does something with a lease, if it is still held.
CREATE FUNCTION finish(held bigint, what text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF held <> 0 THEN
		EXECUTE 'SELECT ' || what USING held;
	END IF;
	RETURN held <> 0;
EXCEPTION WHEN SQLSTATE 'SE012' THEN
	RETURN false;
END $$;
));

my $aggregate = q(
\set id random_zipfian(1, 40, 1.2)
\set pause random(1, 20)
);
my %writing = (
	'single@6' => "$aggregate SELECT es.append('a', ':id', 'E');",
	'slow@3' => "$aggregate BEGIN; SELECT es.append('a', ':id', 'E');\n\\sleep :pause ms\nCOMMIT;",
	'undone@2' => "$aggregate BEGIN; SELECT es.append('a', ':id', 'E');\n\\sleep :pause ms\nROLLBACK;",
	'savepoint@2' => "$aggregate BEGIN; SAVEPOINT s; SELECT es.append('a', ':id', 'E'); ROLLBACK TO s;\n"
	  . "\\sleep :pause ms\nSELECT es.append('a', ':id', 'E'); COMMIT;",
	'prepared@2' => "$aggregate BEGIN; SELECT es.append('a', ':id', 'E'); PREPARE TRANSACTION 'p:client_id';\n"
	  . "\\sleep :pause ms\nCOMMIT PREPARED 'p:client_id';");
my $take = "\\set pause random(1, 60)\nSELECT * FROM take_often('100 ms') \\gset\n";
my @consuming = (
	{
		'commit@5' => "BEGIN; SELECT work_once(); COMMIT;",
		'undo@1' => "BEGIN; SELECT work_once(); ROLLBACK;",
		'savepoint@1' => "BEGIN; SAVEPOINT s; SELECT work_once(); ROLLBACK TO s; SELECT work_once(); COMMIT;"
	},
	{
		'ack@6' => "$take SELECT finish(:held, 'es.ack(\$1)');",
		'late@2' => "$take\\sleep :pause ms\nSELECT finish(:held, 'es.ack(\$1)');",
		'half@2' => "$take SELECT finish(:held, 'es.ack(\$1, :half)');",
		'nack@1' => "$take SELECT finish(:held, 'es.nack(\$1, :half)');",
		'extend@1' => "$take SELECT finish(:held, 'es.extend_lease(\$1, ''200 ms'')'); SELECT finish(:held, 'es.ack(\$1)');",
		'gone@1' => $take
	});

# These hold nothing back.
my @idle = hold();
run_load('load');
cmp_ok($deaths[$_], '>', 0, "consumers of subscription $_ were killed") foreach 0, 1;

# A crash in the middle.
my $load = start_all();
usleep(1_000_000);
$node->stop('immediate');
$_->{run}->finish foreach @$load;
$node->start;
foreach my $prepared (split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'))
{
	$node->safe_psql('postgres', "COMMIT PREPARED '$prepared'");
}
@idle = hold();
run_load('after the crash');

# What the consumers had not come to yet.
$node->safe_psql(
	'postgres', q(
DO $$
DECLARE
	taken record;
BEGIN
	FOR i IN 1 .. 100000 LOOP
		PERFORM work_once();
		COMMIT;
		SELECT * INTO taken FROM take_often('1 min');
		PERFORM finish(taken.held, 'es.ack($1)');
		COMMIT;
		EXIT WHEN NOT EXISTS (SELECT FROM es.subscription_streams WHERE lag > 0 OR lease_id IS NOT NULL);
	END LOOP;
END $$));

cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM es.events'), '>', 500, 'there are events');
is($node->safe_psql('postgres', q(SELECT name, partition, kind, lag FROM es.subscription_streams WHERE lag > 0)), '', 'nothing is left to fetch');
foreach my $what ('once', 'often')
{
	is( $node->safe_psql(
			'postgres', qq(
		SELECT coalesce(e.position, s.position) FROM (SELECT position FROM es.events WHERE aggregate_type = 'a') AS e
		  FULL JOIN $what AS s USING (position) WHERE e.position IS NULL OR s.position IS NULL LIMIT 5)),
		'', "$what: every committed event has come, and no other");
	is( $node->safe_psql(
			'postgres', qq(
		SELECT aggregate_id, version FROM (
			SELECT aggregate_id, version, row_number() OVER (PARTITION BY aggregate_id ORDER BY min(n)) AS place
			  FROM $what GROUP BY aggregate_id, version) AS x
		 WHERE version <> place LIMIT 5)),
		'', "$what: the events of each aggregate came in order");
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT position) FROM often'), '>', 0,
	'some came again to those who acknowledge later');
is( $node->safe_psql(
		'postgres', q(
	SELECT count(*) > 0, bool_and(position > causation_id::bigint), count(*) = count(DISTINCT causation_id),
		   count(*) = (SELECT count(*) FROM once WHERE position % 10 = 0)
	  FROM es.events WHERE aggregate_type = 'answer')),
	't|t|t|t', 'each answer has a higher position than what it answers, and is there once');
EsServerLog::check($node, 'the log has no internal error');
$_->quit foreach @idle;
$node->stop;
done_testing();

# Transactions that stay open: one that has only looked, and one of another database that has appended.
sub hold
{
	my $here = $node->background_psql('postgres');
	my $there = $node->background_psql('other');

	$here->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM es.events');
	$there->query_safe(q(BEGIN; SELECT es.append('a', '1', 'E')));
	return ($here, $there);
}

# Starts writers and consumers.
sub start_all
{
	return [
		EsLoad->start($node, 'writers', \%writing, '-c', $writers, '-T', $seconds, '--max-tries=100'),
		map { EsLoad->start($node, "consumers$_", $consuming[ $_ % 2 ], '-c', 1, '-T', $seconds) } 0 .. 7
	];
}

# Kills consumers while there is a load; others take their places.
sub run_load
{
	my ($name) = @_;
	my ($written, @consumers) = @{ start_all() };

	while ($written->running)
	{
		my $victim = int rand 8;
		my $killed = $node->safe_psql('postgres',
			"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'consumers$victim' AND wait_event IS DISTINCT FROM 'ClientRead'");

		$deaths[ $victim % 2 ] += $killed;
		foreach (0 .. 7)
		{
			next if $consumers[$_]->running;
			$consumers[$_]->{run}->finish;
			$consumers[$_] = EsLoad->start($node, "consumers$_", $consuming[ $_ % 2 ], '-c', 1, '-T', $seconds);
		}
		usleep(50_000 + rand 100_000);
	}
	my $result = $written->finish;

	is($result->{exit}, 0, "$name: writers had no error") or diag($result->{stderr});
	is($result->{failed}, 0, "$name: none gave up");
	$node->safe_psql('postgres', q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'consumers%'));
	foreach my $consumer (@consumers)
	{
		$consumer->{run}->finish;
		unlike($consumer->{stderr}, qr/ERROR: /, "$name: a consumer had no error");
	}
}
