# Logical replication of es.events into a database where the extension is
# installed: the rows arrive as they are, with the copy of what is there and with the
# stream that follows, also those of prepared transactions.  The subscriber's guard
# holds, its projections don't run by themselves and are replayed, and when it takes
# over, versions and positions go on.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLedger;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{ES_SEED} || int rand 1_000_000;
note "ES_SEED=$seed";
my ($publisher, $subscriber) = map { PostgreSQL::Test::Cluster->new($_) } qw(publisher subscriber);
foreach my $node ($publisher, $subscriber)
{
	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', "max_prepared_transactions = 20\n");
	$node->start;
	$node->safe_psql(
		'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE account (id text PRIMARY KEY, events bigint, chain text);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1, md5(coalesce(state.chain, '') || event.event_id::text))::account;
CREATE TABLE later (LIKE account INCLUDING ALL);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1, md5(coalesce(state.chain, '') || event.event_id::text))::later;
SELECT es.create_projection('account', 'account', 'account_apply');
SELECT es.create_projection('later', 'later', 'later_apply', mode => 'async');
));
}
my $contents = 'SELECT count(*), md5(string_agg(e::text, chr(10) ORDER BY position)) FROM es.events AS e';

# Some events come with the copy, some while it is made, some with the stream.
my $ledger = EsLedger->new($seed);
$publisher->safe_psql('postgres', q(SELECT count(es.append('a', (n % 10)::text, 'X', to_jsonb(n))) FROM generate_series(1, 500) AS n));
$publisher->safe_psql('postgres', 'CREATE PUBLICATION log FOR TABLE es.events');
$ledger->start($publisher, 3);
$ledger->wait_for(50);
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION log CONNECTION \$\$" . $publisher->connstr('postgres') . "\$\$ PUBLICATION log WITH (two_phase = on)");
$ledger->wait_for(200);
$subscriber->wait_for_subscription_sync($publisher, 'log');
$ledger->wait_for(400);
$ledger->stop;
$publisher->safe_psql(
	'postgres', q(
BEGIN;
SELECT es.append('a', '1', 'Prepared');
PREPARE TRANSACTION 'p';
COMMIT PREPARED 'p';
BEGIN;
SELECT es.append('a', '2', 'Open');
PREPARE TRANSACTION 'open';
));
$publisher->wait_for_catchup('log');
$ledger->check($publisher, 'publisher');
is($subscriber->safe_psql('postgres', $contents), $publisher->safe_psql('postgres', $contents), 'the log is identical');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '1', 'what is prepared is prepared there, too');
$publisher->safe_psql('postgres', q(ROLLBACK PREPARED 'open'));

# The servers crash in the middle.
$ledger->start($publisher, 3);
$ledger->wait_for(100);
$subscriber->stop('immediate');
$ledger->wait_for(200);
$publisher->stop('immediate');
$ledger->stop;
$publisher->start;
$subscriber->start;
$ledger->check($publisher, 'publisher after a crash', 1);
$publisher->wait_for_catchup('log');
is($subscriber->safe_psql('postgres', $contents), $publisher->safe_psql('postgres', $contents), 'after crashes the log is identical');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'and nothing is left prepared');

# The guard holds for everybody, the apply worker included.
foreach my $sql ('DELETE FROM es.events', 'UPDATE es.events SET data = data', 'TRUNCATE es.events')
{
	my ($ret, undef, $error) =
	  $subscriber->psql('postgres', "SET session_replication_role = replica; $sql", on_error_stop => 1);

	like($error, qr/append-only/, "subscriber: $sql is refused");
}

# Projections don't run for what arrives.  A replay makes the rows what the log says.
is($subscriber->safe_psql('postgres', 'SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM later)'),
	'0|0', 'the projections have not run');
is($subscriber->safe_psql('postgres', 'SELECT es.high_water_mark(), count(*) FROM es.read_all()'), '0|0', 'and the mark has not moved');
my $rows = 'SELECT md5(string_agg(t::text, chr(10) ORDER BY id)) FROM account AS t';
is( $subscriber->safe_psql('postgres', q(SELECT events - (SELECT count(*) FROM es.events) FROM es.replay('account'))),
	'0', 'a replay takes all events');
is($subscriber->safe_psql('postgres', $rows), $publisher->safe_psql('postgres', $rows), 'and gives the rows of the publisher');
is($subscriber->safe_psql('postgres', q(SELECT count(*) FROM es.verify_projection('account'))), '0', 'so says es.verify_projection()');

# The subscriber takes over.
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION log');
my $last = $subscriber->safe_psql('postgres', q(SELECT setval('es.events_position_seq', max(position)) FROM es.events));
my $version = $subscriber->safe_psql('postgres', q(SELECT es.current_version('a', '1')));
is( $subscriber->safe_psql(
		'postgres', qq(
SELECT es.append('a', '1', 'X', expected_version => $version);
SELECT position - $last FROM es.events WHERE aggregate_id = '1' AND aggregate_type = 'a' AND version = $version + 1;
SELECT es.run_projections() - count(*) FROM es.events;
SELECT count(*) - (SELECT count(*) FROM es.read_all(max_count => NULL)) FROM es.events;
SELECT count(*) FROM es.verify_projection('account');
SELECT count(*) FROM es.verify_projection('later');
SELECT count(*) FROM es.projections WHERE status <> 'running' OR lag <> 0)),
	join("\n", $version + 1, 1, 0, 0, 0, 0, 0),
	'after it has taken over, appends and projections go on');

$subscriber->stop;
$publisher->stop;
done_testing();
