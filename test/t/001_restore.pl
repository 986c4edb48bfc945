# A dump holds the log, and loading it gives back the identical log, with no
# switch to know: as a script, as an archive with parallel jobs, as INSERTs.
# Appending goes on where the dump ended.  What a restored row must not do, such as
# running a user's statement trigger twice, is not the log's business.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('restore');
$node->init;
$node->start;

# A log with gaps in the positions, every column used, rows wider than a page.
$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql(
	'original', q(
CREATE EXTENSION pg_eventsourcing;
SELECT count(es.append('account', (n % 50)::text, 'Deposited', jsonb_build_object('n', n),
					   '{"user": "ada"}', NULL, NULL, 'request ' || n / 3, 'cause', 'web',
					   '2020-01-01'::timestamptz + n * interval '1 hour', 2))
FROM generate_series(1, 2000) AS n;
BEGIN;
SELECT es.append('account', '1', 'Lost');
ROLLBACK;
SELECT es.append('odd "names"' || E'\t\\\\', E'line\nbreak', 'Ünïcode', to_jsonb(repeat('x', 100000)));
SELECT * FROM es.append_events('order', '1', '[{"event_type": "Placed"}, {"event_type": "Paid", "data": null}]');
));

my $contents = q(SELECT count(*), md5(string_agg(e::text, '|' ORDER BY position)) FROM es.events AS e);
my $original = $node->safe_psql('original', $contents);
my $dumps = $node->basedir;

command_ok([ 'pg_dump', '-d', $node->connstr('original'), '-f', "$dumps/script.sql" ], 'pg_dump as a script');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('original'), '-f', "$dumps/archive" ], 'pg_dump as an archive');
command_ok([ 'pg_dump', '--inserts', '-d', $node->connstr('original'), '-f', "$dumps/inserts.sql" ],
	'pg_dump as INSERTs');
command_ok([ 'pg_dump', '-Fd', '-j', '2', '-d', $node->connstr('original'), '-f', "$dumps/directory" ],
	'pg_dump as a directory');

my %restore = (
	script => [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/script.sql" ],
	inserts => [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/inserts.sql" ],
	archive => [ 'pg_restore', '--exit-on-error', '-j', '2', "$dumps/archive" ],
	directory => [ 'pg_restore', '--exit-on-error', '-j', '2', "$dumps/directory" ],
	single => [ 'pg_restore', '--exit-on-error', '--single-transaction', "$dumps/archive" ]);

foreach my $name (sort keys %restore)
{
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	command_ok([ @{ $restore{$name} }, '-d', $node->connstr($name) ], "$name: loads");
	is($node->safe_psql($name, $contents), $original, "$name: the log is identical");

	# The sequence, the versions and the recognition of retries go on.
	is( $node->safe_psql(
			$name, q(
		SELECT es.append('account', '1', 'After', expected_version => 40);
		SELECT position > (SELECT max(position) FROM es.events WHERE event_type <> 'After')
		FROM es.events WHERE event_type = 'After';
		SELECT es.append('order', '1', 'Paid', 'null',
						 event_id => (SELECT event_id FROM es.events WHERE event_type = 'Paid'));
		SELECT count(*) FROM es.read_all(max_count => NULL))),
		"41\nt\n2\n2004",
		"$name: appending goes on");
	my ($status, undef, $error) = $node->psql($name, 'DELETE FROM es.events');
	like($error, qr/append-only/, "$name: the guard stands");
}

# The data alone, into a log that is there and empty.
$node->safe_psql('postgres', 'CREATE DATABASE data_only');
$node->safe_psql('data_only', 'CREATE EXTENSION pg_eventsourcing');
command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '-d', $node->connstr('data_only'), "$dumps/archive" ],
	'data only: loads');
is($node->safe_psql('data_only', $contents), $original, 'data only: the log is identical');

# A role that is no owner cannot pass for a restore.
$node->safe_psql('data_only',
	q(CREATE ROLE writer LOGIN; SELECT es.grant_writer('writer')));
my ($status, undef, $error) = $node->psql(
	'data_only', q(
SET ROLE writer; SET es.restore = on; SET search_path = ''; SET check_function_bodies = off; SET row_security = off;
INSERT INTO es.events (position, version, recorded_at, occurred_at, event_id, aggregate_type, aggregate_id, event_type)
VALUES (1000000, 1, now(), now(), '00000000-0000-0000-0000-000000000001', 'forged', '1', 'X')));
like($error, qr/position is set by the extension/, 'only the owner restores');

$node->stop;
done_testing();
