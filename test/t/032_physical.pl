# A physical standby, with synchronous replication and load, and its promotion.
#
# The oracle: every function of the extension is known to this test, as one
# that is refused on a standby or as one that works there.  What a client was
# told is committed is there after the primary has been killed, versions and
# positions go on without a repeat, and what was prepared holds the mark back
# and its aggregates until it has ended.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLedger;
use EsWorld;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{ES_SEED} || int rand 1_000_000;
note "ES_SEED=$seed";
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf(
	'postgresql.conf', q(
max_prepared_transactions = 20
wal_writer_delay = 10s
));
$primary->start;
EsWorld::roles($primary);
EsWorld::make($primary, 'postgres');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

# --- what a standby does ------------------------------------------------------

# Calls that are refused because they write; arguments are those of a call that works.
my %writing = (
	append => q(SELECT es.append('account', '1', 'Noted')),
	append_events => q(SELECT es.append_events('account', '1', '[{"event_type": "Noted"}]')),
	append_batch => q(SELECT es.append_batch('[]')),
	create_projection => q(SELECT es.create_projection('new', 'helper')),
	drop_projection => q(SELECT es.drop_projection('account')),
	alter_projection => q(SELECT es.alter_projection('account', enabled => false)),
	set_handler => q(SELECT es.set_handler('line', 'X', 'SELECT')),
	set_batch_handler => q(SELECT es.set_batch_handler('total', NULL)),
	run_projections => q(SELECT es.run_projections()),
	retry_parked => q(SELECT es.retry_parked('later')),
	discard_parked => q(SELECT es.discard_parked('later')),
	replay => q(SELECT es.replay('account')),
	replay_keys => q(SELECT es.replay_keys('account', '{1}')),
	replay_into => q(SELECT es.replay_into('account', 'bank.off')),
	create_environment => q(SELECT es.create_environment('past')),
	create_subscription => q(SELECT es.create_subscription('new')),
	drop_subscription => q(SELECT es.drop_subscription('mailer')),
	fetch => q(SELECT * FROM es.fetch('mailer')),
	ack => q(SELECT es.ack(1)),
	nack => q(SELECT es.nack(1, 1)),
	extend_lease => q(SELECT es.extend_lease(1)),
	seek => q(SELECT es.seek('mailer', 0)),
	playback => q(SELECT es.playback('mailer')),
	grant_reader => q(SELECT es.grant_reader('es_reader')),
	grant_writer => q(SELECT es.grant_writer('es_reader', '{x}')),
	revoke_reader => q(SELECT es.revoke_reader('es_reader')),
	revoke_writer => q(SELECT es.revoke_writer('es_keeper')),
	set_node_id => q(SELECT es.set_node_id(3)),
	publish_mark => q(SELECT es.publish_mark()));

# Calls that give what they give on the primary.
my %reading = (
	current_version => q(SELECT es.current_version('account', '1')),
	read_aggregate => q(SELECT * FROM es.read_aggregate('account', '1')),
	read_correlation => q(SELECT * FROM es.read_correlation('request 1')),
	aggregates => q(SELECT * FROM es.aggregates()),
	load => q(SELECT es.load(NULL::bank.account, 'account', '1', as_of_version => 3)),
	is_replaying => q(SELECT es.is_replaying()),
	version => q(SELECT es.version()),
	verify_projection => q(SELECT * FROM es.verify_projection('account')));

# Calls that need the mark, which the primary has published.
my %published = (
	high_water_mark => q(SELECT es.high_water_mark()),
	read_all => q(SELECT * FROM es.read_all(max_count => NULL)),
	wait_for => q(SELECT es.wait_for('account', 1)));

# The rest: triggers, the functions of types, and what gives another value each time.
is_deeply(
	[ split /\n/, $primary->safe_psql('postgres', q(
SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'es'::regnamespace
AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND proname NOT IN ('replays', 'role_in', 'role_out', 'uuid_v7')
ORDER BY 1)) ],
	[ sort keys %writing, keys %reading, keys %published ],
	'all functions are known here');
like(sql_error($standby, $writing{$_}), qr/^ERROR: +25006: cannot execute .*(recovery|read-only transaction)/, "$_ is refused")
  foreach sort keys %writing;
is($standby->safe_psql('postgres', $reading{$_}), $primary->safe_psql('postgres', $reading{$_}), "$_ reads the same")
  foreach sort keys %reading;
$primary->safe_psql('postgres', 'SELECT es.publish_mark()');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $published{$_}), $primary->safe_psql('postgres', $published{$_}), "$_ reads the same")
  foreach sort keys %published;
like($standby->safe_psql('postgres', 'SELECT es.uuid_v7()'), qr/^[0-9a-f]{8}-[0-9a-f]{4}-7/, 'a UUID can be made');
foreach my $view (
	split /\n/, $primary->safe_psql('postgres', q(SELECT oid::regclass FROM pg_class WHERE relnamespace = 'es'::regnamespace AND relkind = 'v' ORDER BY 1)))
{
	my @rows = map { $_->safe_psql('postgres', "SELECT to_jsonb(v) - 'lag' FROM $view AS v ORDER BY 1") } $primary, $standby;

	is($rows[1], $rows[0], "$view reads the same");
}

# --- failover under load -----------------------------------------------------

# Two prepared transactions, one of which will be committed.  They have types of
# their own, so that they hold no row of state that the clients need.
$primary->safe_psql(
	'postgres', q(
BEGIN;
SELECT es.append('account', 'one', 'Kept', '{"n": 1}');
PREPARE TRANSACTION 'one';
BEGIN;
SELECT es.append('account', 'two', 'Held', '{"n": 1}');
SELECT es.append('account', '2', 'Held', '{"n": 1}');
PREPARE TRANSACTION 'two';
));
my $bound = $primary->safe_psql('postgres', 'SELECT es.high_water_mark()');

$primary->append_conf('postgresql.conf', q(
synchronous_standby_names = 'standby'
synchronous_commit = remote_apply
));
$primary->reload;
$primary->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'));

my $ledger = EsLedger->new($seed);
$ledger->start($primary, 4);
$ledger->wait_for(300);

# What a client was told is on the standby, where it can be read at once.
$primary->safe_psql('postgres', q(SELECT es.append('account', 'seen', 'Noted')));
is($standby->safe_psql('postgres', q(SELECT es.current_version('account', 'seen'))), '1', 'remote_apply: an append can be read on the standby');

$ledger->wait_for(600);
my $seen = $primary->safe_psql('postgres', 'SELECT max(position) FROM es.events');
$primary->kill9;
$ledger->stop;
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$standby->promote;

$ledger->check($standby, 'promoted');
cmp_ok($standby->safe_psql('postgres', 'SELECT last_value FROM es.events_position_seq'), '>=', $seen,
	'promoted: no position is given out again');
is($standby->safe_psql('postgres', 'SELECT es.high_water_mark()'), $bound, 'promoted: the prepared transactions hold the mark back');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM es.read_all(max_count => NULL)'),
	$standby->safe_psql('postgres', "SELECT count(*) FROM es.events WHERE position <= $bound"),
	'promoted: readers are shown nothing beyond it');
like(sql_error($standby, qq(SET lock_timeout = '50ms'; SELECT es.append('account', '2', 'Noted'))), qr/55P03/,
	'promoted: what was prepared holds its aggregates');
EsWorld::whole($standby, 'postgres', 'promoted');
$standby->safe_psql('postgres', q(COMMIT PREPARED 'one'));
$standby->safe_psql('postgres', q(ROLLBACK PREPARED 'two'));
$ledger->check($standby, 'promoted, what was prepared is ended', 1);
is($standby->safe_psql('postgres', q(SELECT es.current_version('account', 'one'), es.current_version('account', 'two'))),
	'1|0', 'promoted: one is committed, the other is not');
EsWorld::goes_on($standby, 'postgres', 'promoted');
$ledger->check($standby, 'promoted, in the end');

$standby->stop;
done_testing();

# --- parts ------------------------------------------------------------------

# Returns the error of a statement, with its SQLSTATE.
sub sql_error
{
	my ($node, $sql) = @_;
	my ($ret, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql\n");

	$stderr =~ s/^psql:<stdin>:\d+: //mg;
	return $stderr;
}
