# Crash and standby: what was committed is there, versions and positions go on without a
# repetition, and a standby reads but neither appends nor tells a mark.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
SELECT count(es.append('a', (n % 10)::text, 'X')) FROM generate_series(1, 100) AS n;
BEGIN;
SELECT es.append('a', 'prepared', 'X');
PREPARE TRANSACTION 'p';
SELECT es.append('a', '1', 'X');
));

# After a crash the prepared transaction still holds its locks and the mark back.
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM es.read_all(max_count => NULL)'),
	'100', 'the mark stays below the prepared transaction');
my ($status, undef, $error) =
  $node->psql('postgres', q(SET lock_timeout = '50ms'; SELECT es.append('a', 'prepared', 'Y')));
like($error, qr/lock timeout/, 'the prepared transaction holds its aggregate');
is($node->safe_psql('postgres', q(SELECT es.append('a', '1', 'X', expected_version => 11))), '12', 'versions go on');
$node->safe_psql('postgres', q(COMMIT PREPARED 'p'));
is( $node->safe_psql(
		'postgres', q(
	SELECT count(*), count(DISTINCT position), es.high_water_mark() >= max(position),
		   (SELECT count(*) FROM es.read_all(max_count => NULL)) FROM es.events)),
	'103|103|t|103',
	'everything is there once');

# A standby.
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', q(SELECT es.current_version('a', '1'), count(*) FROM es.read_aggregate('a', '1'))),
	'12|12', 'a standby reads');
foreach my $case (
	[ q(SELECT es.append('a', '1', 'X')), qr/25006.*cannot execute es\.append\(\) in a read-only transaction/ ],
	[ q(SELECT * FROM es.append_batch('[]')), qr/25006/ ],
	[ q(SELECT es.high_water_mark()), qr/55000.*not known during recovery/ ],
	[ q(SELECT * FROM es.read_all()), qr/55000.*not known during recovery/ ])
{
	my ($sql, $expected) = @$case;
	($status, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	like($error, $expected, "a standby: $sql");
}
$standby->promote;
is($standby->safe_psql('postgres', q(SELECT es.append('a', '1', 'X', expected_version => 12))),
	'13', 'a promoted standby appends');
is( $standby->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE position > es.high_water_mark()) FROM es.events'),
	'104|0',
	'and its mark is right');

$standby->stop;
$node->stop;
done_testing();
