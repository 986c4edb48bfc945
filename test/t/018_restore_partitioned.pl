# A dump holds a partitioned state table with the triggers of its partitions, and
# loading it gives back a projection that works, protects and replays.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('partitioned');
$node->init;
$node->start;

$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql(
	'original', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE account (id text, n int, PRIMARY KEY (id)) PARTITION BY LIST (id);
CREATE TABLE account_1 (n int, id text NOT NULL);
ALTER TABLE account ATTACH PARTITION account_1 FOR VALUES IN ('1');
CREATE TABLE account_rest PARTITION OF account DEFAULT PARTITION BY HASH (id);
CREATE TABLE account_rest_0 PARTITION OF account_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE account_rest_1 PARTITION OF account_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::account;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
SELECT count(es.append('account', (n % 20)::text, 'Opened')) FROM generate_series(1, 1000) AS n;
));
my $rows = 'SELECT tableoid::regclass, * FROM account ORDER BY id';
my $triggers = q(SELECT tgrelid::regclass, tgenabled FROM pg_trigger WHERE tgname = 'es_protect' ORDER BY tgrelid::regclass::text);
my %original = map { $_ => $node->safe_psql('original', $_) } ($rows, $triggers);
my $dumps = $node->basedir;

command_ok([ 'pg_dump', '-d', $node->connstr('original'), '-f', "$dumps/script.sql" ], 'pg_dump as a script');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('original'), '-f', "$dumps/archive" ], 'pg_dump as an archive');
my %restore = (
	script => [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/script.sql" ],
	archive => [ 'pg_restore', '--exit-on-error', '-j', '2', "$dumps/archive" ],
	single => [ 'pg_restore', '--exit-on-error', '--single-transaction', "$dumps/archive" ]);

foreach my $name (sort keys %restore)
{
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	command_ok([ @{ $restore{$name} }, '-d', $node->connstr($name) ], "$name: loads");
	is($node->safe_psql($name, $rows), $original{$rows}, "$name: the rows are identical");
	is($node->safe_psql($name, $triggers), $original{$triggers}, "$name: so are the triggers");
	$node->safe_psql(
		$name, q(
		SELECT es.append('account', '1', 'Opened');
		CREATE TABLE account_new PARTITION OF account FOR VALUES IN ('new');
		SELECT es.append('account', 'new', 'Opened')));
	is($node->safe_psql($name, q(SELECT n FROM account WHERE id IN ('1', 'new') ORDER BY id)),
		"51\n1", "$name: events are applied");
	foreach my $partition (qw(account_1 account_rest account_rest_0 account_new))
	{
		my ($status, undef, $error) = $node->psql($name, "DELETE FROM $partition");
		like($error, qr/is a partition of state table "account"/, "$name: $partition is protected");
	}
	is($node->safe_psql($name, q(SELECT rows FROM es.replay('account'); SELECT count(*) FROM es.verify_projection('account'))),
		"21\n0", "$name: a replay");
}

# Detached without waiting for readers, a partition is an ordinary table again.
$node->safe_psql('single', 'ALTER TABLE account_rest DETACH PARTITION account_rest_0 CONCURRENTLY');
$node->safe_psql('single', 'DELETE FROM account_rest_0');
pass('a partition that was detached concurrently can be written');

$node->stop;
done_testing();
