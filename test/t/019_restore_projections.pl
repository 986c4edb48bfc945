# A dump holds the projections of all kinds and modes, with their statements,
# checkpoints and parked events, beside the state tables as they are.  Loaded into
# another database, they go on where they were.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('restore_projections');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql(
	'original', q(
CREATE EXTENSION pg_eventsourcing;
CREATE SCHEMA bank;
CREATE TABLE bank.account (id text PRIMARY KEY, balance numeric NOT NULL);
CREATE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric)::bank.account;
CREATE TABLE bank.later (LIKE bank.account INCLUDING ALL);
CREATE FUNCTION bank.later_apply(state bank.later, event es.events) RETURNS bank.later
LANGUAGE plpgsql IMMUTABLE AS
$$BEGIN RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric); END$$;
CREATE TABLE bank.off (LIKE bank.account INCLUDING ALL);
CREATE FUNCTION bank.off_apply(state bank.off, event es.events) RETURNS bank.off
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric)::bank.off;
CREATE TABLE line (position bigint PRIMARY KEY, n numeric);
CREATE TABLE total (id text PRIMARY KEY, n numeric NOT NULL);

SELECT es.create_projection('account', 'bank.account', 'bank.account_apply');
SELECT es.create_projection('later', 'bank.later', 'bank.later_apply', mode => 'async', on_error => 'park');
SELECT es.create_projection('off', 'bank.off', 'bank.off_apply', protect => false);
SELECT es.create_projection('line', 'line');
SELECT es.set_handler('line', 'Noted', 'INSERT INTO line VALUES (event.position, (event.data->>''n'')::numeric)');
SELECT es.set_handler('line', NULL, 'SELECT');
SELECT es.create_projection('total', 'total', mode => 'async', event_types => '{Noted}');
SELECT es.set_batch_handler('total', $$
	INSERT INTO total AS t SELECT aggregate_id, sum((data->>'n')::numeric) FROM events GROUP BY 1
	ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n$$);
));
$node->safe_psql('original',
	q(SELECT count(es.append('a', (n % 7)::text, 'Noted', jsonb_build_object('n', n))) FROM generate_series(1, 100) AS n));
$node->safe_psql('original', q(SELECT es.alter_projection('account', enabled => false), es.alter_projection('off', enabled => false)));
$node->safe_psql('original', q(SELECT es.append('a', '1', 'Other', '{"n": "many"}')));
$node->safe_psql('original', q(SELECT es.run_projections('later', 40)));
$node->safe_psql('original', q(SELECT es.run_projections('total')));
$node->safe_psql('original', q(SELECT es.run_projections('later')));
$node->safe_psql('original', q(SELECT es.append('a', '2', 'Noted', '{"n": 5}')));

my @contents = (
	q(SELECT p FROM es.projections AS p ORDER BY name),
	q(SELECT h FROM es.projection_handlers AS h ORDER BY projection, event_type),
	q(SELECT e FROM es.parked_events AS e),
	q(SELECT t FROM bank.account AS t ORDER BY id), q(SELECT t FROM bank.later AS t ORDER BY id),
	q(SELECT t FROM bank.off AS t ORDER BY id), q(SELECT t FROM line AS t ORDER BY position),
	q(SELECT t FROM total AS t ORDER BY id));
my @original = map { $node->safe_psql('original', $_) } @contents;
is($node->safe_psql('original', q(SELECT string_agg(name || ' ' || status || ' ' || lag, ', ' ORDER BY name) FROM es.projections)),
	'account disabled 2, later running 1, line running 0, off disabled 2, total running 1', 'what is dumped');
like($original[2], qr/later,101,Other/, 'with a parked event');

my $dumps = $node->basedir;
command_ok([ 'pg_dump', '-d', $node->connstr('original'), '-f', "$dumps/script.sql" ], 'pg_dump as a script');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('original'), '-f', "$dumps/archive" ], 'pg_dump as an archive');
my %restore = (
	script => [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/script.sql" ],
	archive => [ 'pg_restore', '--exit-on-error', '-j', '4', "$dumps/archive" ],
	single => [ 'pg_restore', '--exit-on-error', '--single-transaction', "$dumps/archive" ]);

foreach my $name (sort keys %restore)
{
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	command_ok([ @{ $restore{$name} }, '-d', $node->connstr($name) ], "$name: loads");
	for my $i (0 .. $#contents)
	{
		is($node->safe_psql($name, $contents[$i]), $original[$i], "$name: the same: $contents[$i]");
	}
	my ($ret, $out, $err) = $node->psql($name, 'UPDATE total SET n = 0');
	like($err, qr/is a state table/, "$name: still protected");
	($ret, $out, $err) = $node->psql($name, 'DROP FUNCTION bank.later_apply');
	like($err, qr/depends on|uses it/, "$name: the function can't be dropped");

	$node->safe_psql($name, q(SELECT es.append('a', '3', 'Noted', '{"n": 7}')));
	is($node->safe_psql($name, 'SELECT es.run_projections()'), '4', "$name: the async ones go on");
	$node->safe_psql($name, q(SELECT es.discard_parked('later')));
	is($node->psql($name, q(SELECT es.alter_projection('account', enabled => true))), 3, "$name: the event that fails, fails");
	$node->safe_psql($name, q(
CREATE OR REPLACE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN event.event_type = 'Noted' THEN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'n')::numeric)::bank.account ELSE state END;
SELECT es.alter_projection('account', enabled => true);
));
	is( $node->safe_psql(
			$name, q(
WITH expected AS (SELECT aggregate_id AS id, sum((data->>'n')::numeric) AS n FROM es.events WHERE event_type = 'Noted' GROUP BY 1)
SELECT (SELECT count(*) FROM expected FULL JOIN bank.account USING (id) WHERE n IS DISTINCT FROM balance),
       (SELECT count(*) FROM expected FULL JOIN bank.later USING (id) WHERE n IS DISTINCT FROM balance),
       (SELECT count(*) FROM expected AS e FULL JOIN total AS t USING (id) WHERE e.n IS DISTINCT FROM t.n),
       (SELECT count(*) FROM line) - (SELECT count(*) FROM es.events WHERE event_type = 'Noted'))),
		'0|0|0|0', "$name: and all is what the log says");
	is($node->safe_psql($name, q(SELECT rows FROM es.replay('total'))), '7', "$name: replay");
}
$node->stop;
done_testing();
