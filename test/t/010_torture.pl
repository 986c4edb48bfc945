# Many writers with pauses and rollbacks, three pollers, two inline projections.
#
# The oracle.  Each poller notes what es.read_all() gave it, in order.  At the
# end every poller must have seen every committed event exactly once, with
# positions that only grow and with each aggregate's versions 1, 2, 3 in this order.
# The state of each projection is a chain of md5 sums, so that any event that is
# lost, applied twice or applied in another order changes it; at any time
# it must equal the chain that an SQL aggregate computes from the log.
#
# The load comes in two parts.  In the first every transaction writes with one
# call, or to one aggregate and one row of state, and nothing may deadlock.  In the
# second there are also transactions that write to several aggregates in any order,
# and those are retried.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_LONG} ? 30 : 6;    # of each part
my $pollers = 3;

my $node = PostgreSQL::Test::Cluster->new('torture');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
max_connections = 60
max_prepared_transactions = 40
deadlock_timeout = 200ms
));
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;

CREATE TABLE by_aggregate (id text PRIMARY KEY, events bigint, chain text);
CREATE TABLE by_bucket (bucket integer PRIMARY KEY, events bigint, chain text);

CREATE FUNCTION apply(state by_aggregate, event es.events) RETURNS by_aggregate
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::by_aggregate;

CREATE FUNCTION apply(state by_bucket, event es.events) RETURNS by_bucket
LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'bucket')::integer, coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::by_bucket;

SELECT es.create_projection('by_aggregate', 'by_aggregate', 'apply(by_aggregate, es.events)',
                            aggregate_types => '{torture}');
SELECT es.create_projection('by_bucket', 'by_bucket', 'apply(by_bucket, es.events)',
                            key => $$(data->>'bucket')::integer$$);

CREATE FUNCTION link(chain text, event_id uuid) RETURNS text
LANGUAGE sql IMMUTABLE RETURN md5(chain || event_id::text);
CREATE AGGREGATE chain(uuid) (sfunc = link, stype = text, initcond = '');

CREATE VIEW wrong AS
WITH aggregate AS (
	SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY position) AS chain
	FROM es.events GROUP BY aggregate_id),
bucket AS (
	SELECT (data->>'bucket')::integer AS bucket, count(*) AS events,
	       chain(event_id ORDER BY position) AS chain
	FROM es.events GROUP BY 1)
SELECT 'aggregate ' || id AS what, a.chain AS expected, s.chain AS actual
FROM aggregate AS a FULL JOIN by_aggregate AS s USING (id)
WHERE (a.events, a.chain) IS DISTINCT FROM (s.events, s.chain)
UNION ALL
SELECT 'bucket ' || bucket, b.chain, s.chain
FROM bucket AS b FULL JOIN by_bucket AS s USING (bucket)
WHERE (b.events, b.chain) IS DISTINCT FROM (s.events, s.chain);

CREATE TABLE seen (poller integer, number bigserial, position bigint, aggregate_id text,
                   version bigint, event_id uuid, PRIMARY KEY (poller, number));
));

# --- the load ---------------------------------------------------------------

# Few aggregates get most of the events; :pause and :slow are milliseconds.
my $variables = q(
\set a random_zipfian(1, 300, 1.05)
\set b random(1, 300)
\set c random(1, 300)
\set bucket random(0, 31)
\set pause random(0, 4)
\set slow random(0, 19) / 19 * 100
);
my $event = q(jsonb_build_object('bucket', :bucket));
my $append = qq(SELECT es.append('torture', 'a:a', 'Happened', $event););
my $pause = q(SELECT pg_sleep((:pause + :slow) / 1000.0););

my %orderly = (
	'single@4' => "$variables $append",
	'paused@4' => "$variables BEGIN; $append $pause COMMIT;",
	'rollback@3' => "$variables BEGIN; $append $pause ROLLBACK;",
	'savepoint@3' => "$variables
BEGIN;
$append
SAVEPOINT s;
$append
$pause
ROLLBACK TO s;
$append
COMMIT;",
	'firstgone@2' => "$variables
BEGIN;
SAVEPOINT s;
$append
ROLLBACK TO s;
$pause
SAVEPOINT s;
$append
RELEASE s;
COMMIT;",
	'events@3' => "$variables
SELECT count(*) FROM es.append_events('torture', 'a:a', (
	SELECT jsonb_agg(jsonb_build_object('event_type', 'Happened', 'data', $event))
	FROM generate_series(1, 4)));",
	'batch@3' => "$variables
SELECT count(*) FROM es.append_batch((
	SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'torture', 'aggregate_id', 'a' || a,
		'event_type', 'Happened', 'data', jsonb_build_object('bucket', a % 32)))
	FROM unnest(ARRAY[:a, :b, :c, :a]) AS a));",
	'insert@3' => "$variables
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
VALUES ('torture', 'a:a', 'Happened', $event);",
	'prepared@2' => "$variables
BEGIN;
$append
PREPARE TRANSACTION 'torture_:client_id';
$pause
COMMIT PREPARED 'torture_:client_id';",
	'unprepared@1' => "$variables
BEGIN;
$append
PREPARE TRANSACTION 'torture_:client_id';
$pause
ROLLBACK PREPARED 'torture_:client_id';");

my %disorderly = (
	'rows@2' => "$variables
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'torture', 'a' || a, 'Happened', jsonb_build_object('bucket', (a + :bucket) % 32)
FROM unnest(ARRAY[:b, :c, :a]) AS a;",
	'several@2' => "$variables
BEGIN;
SELECT es.append('torture', 'a:b', 'Happened', $event);
$pause
SAVEPOINT s;
SELECT es.append('torture', 'a:c', 'Happened', jsonb_build_object('bucket', :c % 32));
ROLLBACK TO s;
$append
COMMIT;");

# A poller goes on where its last committed batch ended.
my $poll = q(
SELECT coalesce((SELECT position FROM seen WHERE poller = :client_id
                 ORDER BY number DESC LIMIT 1), 0) AS last
\gset
INSERT INTO seen (poller, position, aggregate_id, version, event_id)
SELECT :client_id, position, aggregate_id, version, event_id
FROM es.read_all(after_position => :last, max_count => 500);
\sleep 2 ms
);

# Pollers first: they must get along with an empty log.
my $polling =
  EsLoad->start($node, 'pollers', { poll => $poll }, '-c', $pollers, '-T', 2 * $seconds + 1);

my $load = EsLoad->start($node, 'writers', \%orderly, '-c', 20, '-j', 2, '-T', $seconds);
my ($checks, $wrong) = (0, '');
check_states() while $load->running;
my $result = $load->finish;
is($result->{exit}, 0, 'writers of one aggregate or one call: no error') or diag($result->{stderr});
is($result->{failed}, 0, 'and no deadlock');

$load = EsLoad->start($node, 'writers', { %orderly, %disorderly },
	'-c', 20, '-j', 2, '-T', $seconds, '--max-tries', 1000);
check_states() while $load->running;
$result = $load->finish;
is($result->{exit}, 0, 'writers of several aggregates: no error but deadlocks')
  or diag($result->{stderr});
is($result->{failed}, 0, 'which go away when tried again');
is($wrong, '', 'the states were right whenever looked at');

$result = $polling->finish;
is($result->{exit}, 0, 'pollers: no error') or diag($result->{stderr});
my $rounds = $result->{processed};

# What the pollers had not come to yet.
my $events = $node->safe_psql('postgres', 'SELECT count(*) FROM es.events');
$node->pgbench('-n -t ' . (1 + int($events / 500)) . " -c $pollers", 0, [qr/processed/], [qr/^$/],
	'pollers catch up', { '010_torture_poll' => $poll });

# --- the oracle -------------------------------------------------------------

is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'nothing is left prepared');
cmp_ok($events, '>', 1000, 'there were events');
is($node->safe_psql('postgres', 'SELECT max(position) <= es.high_water_mark() FROM es.events'),
	't', 'at rest the mark covers the whole log');

is( $node->safe_psql(
		'postgres', q(
SELECT aggregate_id, version, number, position FROM (
	SELECT aggregate_id, version, position,
	       row_number() OVER (PARTITION BY aggregate_type, aggregate_id ORDER BY position) AS number
	FROM es.events) AS e
WHERE version <> number LIMIT 5)),
	'',
	'versions have no gaps and are in the order of positions');

is( $node->safe_psql(
		'postgres', qq(
SELECT poller, e.event_id, count(s.event_id) FROM es.events AS e
CROSS JOIN generate_series(0, $pollers - 1) AS poller
LEFT JOIN seen AS s USING (poller, event_id, position, aggregate_id, version)
GROUP BY poller, e.event_id HAVING count(s.event_id) <> 1 LIMIT 5)),
	'',
	'each poller has seen each event exactly once');

is( $node->safe_psql(
		'postgres', q(
SELECT poller, count(*) FROM seen AS s
WHERE NOT EXISTS (SELECT FROM es.events AS e WHERE e.event_id = s.event_id)
GROUP BY poller)),
	'',
	'and none that was rolled back');

is( $node->safe_psql(
		'postgres', q(
SELECT poller, number, position FROM (
	SELECT poller, number, position, version,
	       lag(position, 1, 0::bigint) OVER (PARTITION BY poller ORDER BY number) AS before,
	       lag(version, 1, 0::bigint) OVER (PARTITION BY poller, aggregate_id ORDER BY number) AS version_before
	FROM seen) AS s
WHERE position <= before OR version <> version_before + 1 LIMIT 5)),
	'',
	'in order of position, and of version within an aggregate');

check_states();
is($wrong, '', 'the states are the fold of the log in the order of positions');
cmp_ok($checks, '>', 1, 'the states were looked at');
note("$events events, $rounds rounds of the pollers, $checks looks at the states");

$node->stop;
done_testing();

# Compares the states with the log as one snapshot shows them.
sub check_states
{
	$wrong ||= $node->safe_psql('postgres', 'SELECT * FROM wrong LIMIT 5');
	$checks++;
}
