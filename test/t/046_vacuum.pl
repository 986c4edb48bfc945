# Vacuum finds no dead row in the log, by whatever way the events came in: only
# transactions that are rolled back leave some.  (Autovacuum looks at the same
# figures, and so has nothing to do there but to freeze.)
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsCalls;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('vacuum');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nmax_prepared_transactions = 2");
$node->start;
$node->safe_psql('postgres', EsCalls::domain());
$node->safe_psql('postgres', 'VACUUM es.events');

# Every way in, with inline projections and a subscription; retries and expectations that are refused add nothing.
$node->safe_psql(
	'postgres', q(
SELECT es.create_subscription('s');
SELECT es.append('account', (n % 10)::text, 'Deposited', '{"amount": 1}', event_id => md5((n % 400)::text)::uuid) FROM generate_series(0, 399) AS n;
SELECT es.append('account', (n % 10)::text, 'Deposited', '{"amount": 1}', event_id => md5((n % 400)::text)::uuid) FROM generate_series(0, 399) AS n;
SELECT es.append('account', '1', 'Deposited', jsonb_build_object('amount', 1, 'wide', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n)));
SELECT * FROM es.append_events('account', '1', '[{"event_type": "Deposited", "data": {"amount": 1}}, {"event_type": "Deposited", "data": {"amount": 1}}]');
SELECT * FROM es.append_batch('[{"aggregate_type": "account", "aggregate_id": "1", "event_type": "Deposited", "data": {"amount": 1}}, {"aggregate_type": "account", "aggregate_id": "2", "event_type": "Deposited", "data": {"amount": 1}}]');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data, event_id)
SELECT 'account', (n % 10)::text, 'Deposited', '{"amount": 1}', md5((n % 400)::text)::uuid FROM generate_series(0, 399) AS n;
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', (n % 10)::text, 'Deposited', '{"amount": 1}' FROM generate_series(1, 100) AS n ON CONFLICT DO NOTHING;
COPY es.events (aggregate_type, aggregate_id, event_type, data) FROM stdin;
account	1	Deposited	{"amount": 1}
account	2	Deposited	{"amount": 1}
\.
DO $$
BEGIN
	FOR n IN 1 .. 50 LOOP
		BEGIN
			PERFORM es.append('account', '1', 'Deposited', '{"amount": 1}', expected_version => 0);
		EXCEPTION WHEN SQLSTATE 'SE001' THEN NULL;
		END;
		BEGIN
			PERFORM es.append('account', '1', 'Deposited', '{"amount": 2}', event_id => md5('1')::uuid);
		EXCEPTION WHEN SQLSTATE 'SE003' THEN NULL;
		END;
	END LOOP;
END $$;
BEGIN;
SAVEPOINT s;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
RELEASE s;
PREPARE TRANSACTION 'p';
COMMIT PREPARED 'p';
SELECT count(*) FROM es.fetch('s', 1000);
SELECT es.ack(max(lease_id)) FROM es.subscription_streams;
SELECT es.run_projections();
SELECT rows FROM es.replay('account');
));
my $before = vacuum();
like($before, qr/^0 \d{3,} 0 0$/, 'no dead row, in the log nor in its TOAST table');

# One that is rolled back leaves its row, and vacuum finds it.
$node->safe_psql('postgres', q(BEGIN; SELECT es.append('account', '1', 'Deposited', '{"amount": 1}'); ROLLBACK));
is(vacuum(), $before =~ s/^0/1/r, 'a row of a transaction that was rolled back');

$node->stop;
done_testing();

# Returns how many rows of the log a vacuum has removed, and how many there are
# beside, dead or not; then how many of the TOAST table it has removed, and how many are dead.
sub vacuum
{
	my (undef, undef, $said) = $node->psql('postgres', 'VACUUM (VERBOSE) es.events');
	my ($log, $toast) = map { [/tuples: (\d+) removed, (\d+) remain, (\d+) are dead/] } split /INFO:  vacuuming ".*toast/, $said;

	return "$log->[0] " . ($log->[1] + $log->[2]) . " $toast->[0] $toast->[2]";
}
