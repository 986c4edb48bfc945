# A replay with parallel workers that is cancelled, terminated or killed, or one
# of whose workers is: the old rows stay, and nothing is left behind.
use strict;
use warnings FATAL => 'all';

use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('workers');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
restart_after_crash = on
autovacuum = off
max_worker_processes = 16
max_parallel_workers = 8
));
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE account (id text PRIMARY KEY, n bigint);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::account;
-- Sleeps on the last event.
CREATE FUNCTION slow_apply(state account, event es.events) RETURNS account
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	IF event.event_type = 'Last' THEN
		PERFORM pg_sleep(120);
	END IF;
	RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 2);
END $$;
SELECT es.create_projection('account', 'account', 'account_apply');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type)
SELECT 'account', i % 500, 'Counted' FROM generate_series(1, 20000) AS i;
SELECT es.append('account', '7', 'Last');
));

my $rows = 'SELECT count(*), sum(n), md5(string_agg(a::text, chr(10) ORDER BY id)) FROM account AS a';
my $before = $node->safe_psql('postgres', $rows);

# What runs while a replay sleeps in a worker.
my $leader = q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND query LIKE '%slow_apply%'
	AND pid <> pg_backend_pid());
my $worker = q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'parallel worker'
	AND query = 'replay of projection "account"' AND wait_event = 'PgSleep');

my @attacks = (
	[ 'cancel the leader', "SELECT pg_cancel_backend(pid) FROM ($leader) AS l", qr/canceling statement/ ],
	[ 'terminate the leader', "SELECT pg_terminate_backend(pid) FROM ($leader) AS l", qr/terminating connection/ ],
	[ 'cancel a worker', "SELECT pg_cancel_backend(pid) FROM ($worker) AS w", qr/canceling statement/ ],
	[ 'terminate a worker', "SELECT pg_terminate_backend(pid) FROM ($worker) AS w", qr/terminating/ ],
	[ 'statement_timeout', undef, qr/statement timeout/ ],
	[ 'kill the leader', $leader, qr/server closed the connection|connection to server/ ],
	[ 'kill a worker', $worker, qr/crash of another server process|server closed the connection/ ]);

for my $attack (@attacks)
{
	my ($what, $statement, $expected) = @$attack;
	my ($out, $err) = ('', '');
	my $checkpointer = $node->safe_psql('postgres',
		q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'));
	my $timeout = defined $statement ? 0 : '3s';
	my $replay = start([
			'psql', '-XAtq', '-d', $node->connstr('postgres'),
			'-c', "SET statement_timeout = '$timeout'",
			'-c', q(SELECT es.replay('account', apply => 'slow_apply', parallel_workers => 2)) ],
		'<', \undef, '>', \$out, '2>', \$err);

	if (defined $statement)
	{
		ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($worker) AS w"),
			"$what: a worker is at work");
		if ($what =~ /^kill/)
		{
			kill 'KILL', $node->safe_psql('postgres', $statement);
		}
		else
		{
			is($node->safe_psql('postgres', $statement), 't', "$what: done");
		}
	}
	$replay->finish;
	like($err, $expected, "$what: the replay fails");
	$node->poll_query_until('postgres',
		qq(SELECT pid <> $checkpointer FROM pg_stat_activity WHERE backend_type = 'checkpointer'))
	  if $what =~ /^kill/;

	ok( $node->poll_query_until(
			'postgres', q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'parallel worker'
				OR query LIKE '%slow_apply%' AND pid <> pg_backend_pid()))),
		"$what: no process is left");
	is($node->safe_psql('postgres', $rows), $before, "$what: the old rows are left");
	is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%')),
		'0', "$what: no other heap is left");
	is( $node->safe_psql(
			'postgres', q(SELECT count(*) FROM pg_locks WHERE relation = 'account'::regclass)),
		'0', "$what: no lock is left");
	is($node->safe_psql('postgres', 'SELECT apply FROM es.projections'),
		'public.account_apply(public.account,es.events)', "$what: the function is the old one");
	is($node->safe_psql('postgres', q(SELECT events, rows FROM es.replay('account', parallel_workers => 2))),
		'20001|500', "$what: another replay works");
	is($node->safe_psql('postgres', $rows), $before, "$what: and makes the same rows");
}

$node->stop;
done_testing();
