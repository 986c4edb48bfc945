# es.verify_projection(), es.replay_keys(), es.replay_into() and
# es.create_environment() beside writers, an async run and replays.
#
# The oracle.  A row's state is a chain of md5 sums over the events that feed
# it, so an event that is lost, applied twice or applied out of order changes
# it.  A plain SQL aggregate over the log must come to the same.  No
# difference may ever be reported, but those that a transaction has made itself.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_LONG} ? 30 : 4;

my $node = PostgreSQL::Test::Cluster->new('verify');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
deadlock_timeout = 50ms
es.replay_memory = '64kB'
));
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;

CREATE TABLE account (id text PRIMARY KEY, events bigint, chain text);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::account;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}', protect => false);

CREATE TABLE shared (kind integer, name text, events bigint, chain text, PRIMARY KEY (kind, name));
CREATE FUNCTION shared_apply(state shared, event es.events) RETURNS shared LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'row')::integer, 'row', coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::shared;
SELECT es.create_projection('shared', 'shared', 'shared_apply', key => $$(data->>'row')::integer, 'row'$$, protect => false);

CREATE TABLE later (id text PRIMARY KEY, events bigint, chain text);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::later;
SELECT es.create_projection('later', 'later', 'later_apply', aggregate_types => '{account}', mode => 'async');

CREATE FUNCTION link(chain text, event_id uuid) RETURNS text
LANGUAGE sql IMMUTABLE RETURN md5(chain || event_id::text);
CREATE AGGREGATE chain(uuid) (sfunc = link, stype = text, initcond = '');
CREATE FUNCTION wrong(target regclass, up_to bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	result bigint;
BEGIN
	EXECUTE format('WITH expected AS (SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY position) AS chain
		FROM es.events WHERE aggregate_type = ''account'' AND position <= %s GROUP BY 1)
		SELECT count(*) FROM ((TABLE expected EXCEPT ALL TABLE %2$s) UNION ALL (TABLE %2$s EXCEPT ALL TABLE expected)) AS d', up_to, target)
	INTO result;
	RETURN result;
END $$;
));

my $variables = q(
\set a random(1, 300)
\set row random(1, 5)
\set pause random(0, 3)
);
my $append = q(SELECT es.append('account', :a::text, 'X', jsonb_build_object('row', :row)););
my %writers = (
	'single@6' => "$variables $append",
	'paused@2' => "$variables BEGIN; $append \\sleep :pause ms
COMMIT;",
	'rollback@2' => "$variables BEGIN; $append \\sleep :pause ms
ROLLBACK;",
	'batch@2' => "$variables INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'account', (:a + 7 * i)::text, 'X', jsonb_build_object('row', :row) FROM generate_series(1, 5) AS i;",
	'beyond@1' => "$variables BEGIN; SET LOCAL es.max_aggregate_locks = 0; $append $append COMMIT;",
	'run@1' => "SELECT es.run_projections('later', 100);",
	# What one has in hand may be damaged: nobody sees it.
	'repair@1' => "$variables
BEGIN;
SELECT es.replay_keys('account', ARRAY[:a, :a + 1]::text[]);
UPDATE account SET chain = 'damage' WHERE id = :a::text;
SELECT 1 / (es.replay_keys('account', ARRAY[:a::text]) = (SELECT count(*) FROM account WHERE id = :a::text))::integer;
COMMIT;",
	'repair_shared@1' => "$variables
BEGIN;
SELECT 1 / (es.replay_keys('shared', ARRAY['(' || :row || ',row)']) = 0)::integer;
DELETE FROM shared WHERE kind = :row;
SELECT es.replay_keys('shared', ARRAY['(' || :row || ',row)']);
COMMIT;",
	'repair_later@1' => "$variables
SELECT 1 / (es.replay_keys('later', ARRAY[:a::text]) = 0)::integer;");

my ($wrong, $looks) = ('', 0);
my $load = EsLoad->start($node, 'writers', \%writers, '-c', 16, '-j', 2, '-T', $seconds, '--max-tries', 10000);
look() while $load->running;
my $result = $load->finish;
is($result->{exit}, 0, 'writers and repairs: no error') or diag($result->{stderr});
is($result->{failed}, 0, 'none gave up');
cmp_ok($result->{processed}, '>', 200, 'they got on');
look();
is($wrong, '', 'no difference was reported, and each moment was right');
cmp_ok($looks, '>', 1, 'they were looked at');
is($node->safe_psql('postgres', q(SELECT wrong('account', es.high_water_mark()))), '0', 'the rows are right');
note("$result->{processed} transactions, $result->{retried} tried again, $looks looks");

$node->stop;
done_testing();

# Verifies the state tables, and looks at moments of the past.
sub look
{
	$wrong ||= $node->safe_psql(
		'postgres', q(
SELECT p, v FROM unnest('{account,shared,later}'::text[]) AS p, es.verify_projection(p) AS v LIMIT 5));
	$wrong ||= $node->safe_psql(
		'postgres', q(
BEGIN;
CREATE TEMP TABLE moment (LIKE account);
SELECT es.high_water_mark() AS mark \gset
SELECT es.replay_into('account', 'moment', as_of_position => :mark) AS rows \gset
SELECT 'moment', wrong('moment', :mark) WHERE wrong('moment', :mark) <> 0;
SELECT es.create_environment('environment', as_of_position => :mark / 2) AS environment \gset
SELECT 'environment', wrong('environment.account', :mark / 2) WHERE wrong('environment.account', :mark / 2) <> 0;
SELECT 'sums differ' WHERE (SELECT sum(events) FROM environment.account) <> (SELECT sum(events) FROM environment.shared);
ROLLBACK;));
	$wrong ||= $node->safe_psql('postgres', q(SELECT rows FROM es.replay('account') WHERE rows < 0));
	$looks++;
}
