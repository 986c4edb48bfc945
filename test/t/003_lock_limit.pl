# Writers that take fewer locks than they visit aggregates, at the same time as others: every limit gives
# the same guarantees.  Each transaction visits aggregates in ascending order and comes
# back to the first, some roll back to a savepoint, some altogether.  So nothing may
# deadlock, no unique violation and no serialization failure may occur, and at the end
# no version is missing and no lock is left.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_LONG} ? 20 : 3;
my $node = PostgreSQL::Test::Cluster->new('lock_limit');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_eventsourcing');

my $script = $node->basedir . '/script.sql';
append_to_file(
	$script, q(\set a random(1, 10)
\set b random(11, 20)
\set c random(21, 30)
\set d random(31, 40)
\set limit random(0, 4)
\set fate random(1, 10)
SELECT set_config('es.max_aggregate_locks', (:limit)::text, false);
BEGIN;
SELECT es.append('a', :a::text, 'X');
SAVEPOINT s;
SELECT es.append('a', :b::text, 'X', event_id => es.uuid_v7());
SELECT es.append('a', :a::text, 'X');
\if :fate > 8
ROLLBACK TO s;
\endif
SELECT * FROM es.append_events('a', :c::text, '[{"event_type": "X"}, {"event_type": "Y"}]');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('a', :d::text, 'X'), ('a', :a::text, 'X');
\if :fate = 1
ROLLBACK;
\else
COMMIT;
\endif
));

foreach my $mode ('simple', 'prepared')
{
	$node->command_ok(
		[ 'pgbench', '-n', '-M', $mode, '-c', '12', '-j', '2', '-T', $seconds, '-f', $script, 'postgres' ],
		"pgbench, $mode: no error");
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM es.events'), '>', 100, 'there are events');
is( $node->safe_psql(
		'postgres', q(
	SELECT count(*) FROM (
		SELECT version - row_number() OVER w AS gap, position - lag(position) OVER w AS step
		FROM es.events WINDOW w AS (PARTITION BY aggregate_type, aggregate_id ORDER BY version)) AS e
	WHERE gap <> 0 OR step <= 0)),
	'0',
	'versions have no gap, positions follow them');
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')), '0', 'no lock is left');

$node->stop;
done_testing();
