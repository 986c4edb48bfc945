# On a physical standby, what writes is refused clearly, and what reads works
# or says why it can not.  Promoted, the standby goes on where the primary was.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', 'max_prepared_transactions = 10');
$primary->start;
$primary->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE account (id text PRIMARY KEY, balance numeric);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric)::account;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
));

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

# One appends in a transaction that stays prepared.
$primary->safe_psql(
	'postgres', q(
SELECT es.append('account', 'a' || i % 10, 'Deposited', '{"amount": 1}', correlation_id => 'request')
FROM generate_series(1, 100) AS i;
SELECT * FROM es.replay('account');
BEGIN;
SELECT es.append('account', 'a0', 'Deposited', '{"amount": 100}');
PREPARE TRANSACTION 'pending';
SELECT es.append('account', 'a1', 'Deposited', '{"amount": 1}');
));
$primary->wait_for_catchup($standby);

# --- what writes ------------------------------------------------------------

my %writing = (
	'es.append' => q(SELECT es.append('account', 'a1', 'Deposited', '{"amount": 1}')),
	'es.append_events' => q(SELECT * FROM es.append_events('account', 'a1', '[{"event_type": "Deposited"}]')),
	'es.append_batch' => q(SELECT * FROM es.append_batch('[{"aggregate_type": "account", "aggregate_id": "a1", "event_type": "Deposited"}]')),
	'INSERT' => q(INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', 'a1', 'Deposited')),
	'COPY' => qq(COPY es.events (aggregate_type, aggregate_id, event_type) FROM STDIN;\n\\.),
	'es.create_projection' => q(SELECT es.create_projection('other', 'account', 'account_apply')),
	'es.drop_projection' => q(SELECT es.drop_projection('account')),
	'es.replay' => q(SELECT * FROM es.replay('account')));

foreach my $what (sort keys %writing)
{
	my $error = sql_error($standby, $writing{$what});

	like($error, qr/^ERROR: +25006: /, "$what is refused on a standby with the SQLSTATE of a read-only transaction")
	  or next;
	like($error, qr/cannot execute .* (during recovery|in a read-only transaction)/, "$what: and it says why");
}

# The same in a read-only transaction of the primary.
foreach my $what (grep { $_ ne 'COPY' } sort keys %writing)
{
	like(sql_error($primary, "SET default_transaction_read_only = on;\n$writing{$what}"),
		qr/^ERROR: +25006: .*read-only transaction/, "$what is refused in a read-only transaction");
}

# --- what reads -------------------------------------------------------------

my %reading = (
	'es.events' => 'SELECT count(*), max(position) FROM es.events',
	'es.current_version' => q(SELECT es.current_version('account', 'a0'), es.current_version('account', 'a1')),
	'es.read_aggregate' => q(SELECT position, version FROM es.read_aggregate('account', 'a1', backwards => true)),
	'es.read_correlation' => q(SELECT count(*) FROM es.read_correlation('request')),
	'es.aggregates' => 'SELECT * FROM es.aggregates()',
	'the state' => 'SELECT * FROM account ORDER BY id',
	'es.projections' => 'SELECT name, target, mode, status FROM es.projections');

foreach my $what (sort keys %reading)
{
	is($standby->safe_psql('postgres', $reading{$what}), $primary->safe_psql('postgres', $reading{$what}),
		"$what reads the same on the standby");
}

# What is in flight on the primary is not known here.
foreach my $query ('SELECT es.high_water_mark()', 'SELECT * FROM es.read_all()')
{
	my $error = sql_error($standby, $query);

	like($error, qr/^ERROR: +55000: .*recovery/, "$query is refused on a standby");
	like($error, qr/^HINT: /m, 'with a hint');
}

# --- promotion --------------------------------------------------------------

# The prepared transaction goes on to hold back the readers.
my $seen = $primary->safe_psql('postgres', 'SELECT count(*) FROM es.read_all()');
is($seen, '100', 'the primary shows its readers nothing behind the prepared event');
$primary->stop;
$standby->promote;
is($standby->safe_psql('postgres', 'SELECT count(*) FROM es.read_all()'),
	$seen, 'nor does the promoted standby');
$standby->safe_psql('postgres', q(SELECT es.append('account', 'a2', 'Deposited', '{"amount": 1}')));
$standby->safe_psql('postgres', q(COMMIT PREPARED 'pending'));
is($standby->safe_psql('postgres', 'SELECT count(*) FROM es.read_all()'),
	'103', 'until the prepared transaction has ended');
is( $standby->safe_psql('postgres', q(
SELECT count(*), count(DISTINCT position), sum((data->>'amount')::numeric) FROM es.events)),
	'103|103|202',
	'positions are unique after promotion');
is( $standby->safe_psql('postgres', q(
SELECT * FROM account EXCEPT ALL
SELECT aggregate_id, sum((data->>'amount')::numeric) FROM es.events GROUP BY 1)),
	'',
	'and the state is the fold of the log');
is($standby->safe_psql('postgres', q(SELECT events, rows FROM es.replay('account'))), '103|10', 'a replay works');

$standby->stop;
done_testing();

# Returns the error of a statement, with its SQLSTATE.
sub sql_error
{
	my ($node, $sql) = @_;
	my ($ret, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql\n");

	$stderr =~ s/^psql:<stdin>:\d+: //mg;
	return $stderr;
}
