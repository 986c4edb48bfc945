# A mark that somebody was told before a crash stays right after it: positions at or
# below it are not given out again, also where nothing that used them was
# committed, and so nothing had to be on disk.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('mark');
$node->init;
# Nobody else flushes the log meanwhile.
$node->append_conf(
	'postgresql.conf', q(
wal_writer_delay = 10s
autovacuum = off
));
$node->start;
$node->safe_psql('postgres', q(CREATE EXTENSION pg_eventsourcing; SELECT es.append('a', '1', 'X'); CHECKPOINT));
foreach my $round (1 .. 3)
{
	my $mark = $node->safe_psql(
		'postgres', q(
BEGIN;
SET client_min_messages = error;
DO 'BEGIN PERFORM es.append(''a'', ''1'', ''Lost'') FROM generate_series(1, 100); END';
ROLLBACK;
SELECT es.high_water_mark()));
	$mark =~ s/\s//g;

	$node->stop('immediate');
	$node->start;
	is($node->safe_psql('postgres', "SELECT es.append('a', '1', 'X'); SELECT min(position) > $mark FROM es.events WHERE version = $round + 1"),
		($round + 1) . "\nt", 'after a crash positions are above the mark');
	cmp_ok($node->safe_psql('postgres', 'SELECT es.high_water_mark()'), '>', $mark, 'and so is the mark');
}

$node->stop;
done_testing();
