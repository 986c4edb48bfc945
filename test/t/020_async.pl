# Async projections under load: writers with pauses, rollbacks and savepoints,
# sessions that bring the projections up to date and are killed at random, one
# that changes modes and replays all the time, and a crash of the server.
#
# The oracle.  A fold is a chain of md5 sums over what many aggregates feed into
# one row, so that any event that is lost, applied twice or applied in another
# order changes it; statements insert one row per event; a batch counts them.  In
# the end all must equal what SQL makes of the log.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_LONG} ? 60 : 8;

my $node = PostgreSQL::Test::Cluster->new('async');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
max_connections = 60
deadlock_timeout = 200ms
restart_after_crash = on
));
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;

CREATE TABLE chain (bucket integer PRIMARY KEY, events bigint, chain text);
CREATE FUNCTION chain_apply(state chain, event es.events) RETURNS chain
LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'bucket')::integer, coalesce(state.events, 0) + 1,
           md5(coalesce(state.chain, '') || event.event_id::text))::chain;
SELECT es.create_projection('chain', 'chain', 'chain_apply', key => $$(data->>'bucket')::integer$$,
                            mode => 'async');

CREATE TABLE lines (position bigint PRIMARY KEY, event_id uuid NOT NULL);
SELECT es.create_projection('lines', 'lines', mode => 'async');
SELECT es.set_handler('lines', NULL, 'INSERT INTO lines VALUES (event.position, event.event_id)');

CREATE TABLE totals (bucket integer PRIMARY KEY, events bigint);
SELECT es.create_projection('totals', 'totals', mode => 'async');
SELECT es.set_batch_handler('totals', $$
	INSERT INTO totals AS t SELECT (data->>'bucket')::integer, count(*) FROM events GROUP BY 1
	ON CONFLICT (bucket) DO UPDATE SET events = t.events + excluded.events$$);

CREATE FUNCTION link(chain text, event_id uuid) RETURNS text
LANGUAGE sql IMMUTABLE RETURN md5(chain || event_id::text);
CREATE AGGREGATE chain(uuid) (sfunc = link, stype = text, initcond = '');

CREATE VIEW wrong AS
WITH log AS (SELECT (data->>'bucket')::integer AS bucket, position, event_id FROM es.events),
expected AS (SELECT bucket, count(*) AS events, chain(event_id ORDER BY position) AS chain FROM log GROUP BY bucket)
SELECT 'chain ' || bucket AS what FROM expected AS e FULL JOIN chain AS c USING (bucket)
WHERE (e.events, e.chain) IS DISTINCT FROM (c.events, c.chain)
UNION ALL
SELECT 'totals ' || bucket FROM expected AS e FULL JOIN totals AS t USING (bucket)
WHERE e.events IS DISTINCT FROM t.events
UNION ALL
SELECT 'line ' || position FROM log FULL JOIN lines AS l USING (position)
WHERE log.event_id IS DISTINCT FROM l.event_id;
));

my %writes = (
	'one@6' => q(
\set a random(1, 50)
\set b random(1, 5)
SELECT es.append('a', :a::text, 'e', jsonb_build_object('bucket', :b::integer));
),
	'slow@2' => q(
\set a random(1, 50)
\set b random(1, 5)
\set ms random(0, 30)
BEGIN;
SELECT es.append('a', :a::text, 'e', jsonb_build_object('bucket', :b::integer));
\sleep :ms ms
COMMIT;
),
	'undone@1' => q(
\set a random(1, 50)
\set b random(1, 5)
\set ms random(0, 10)
BEGIN;
SELECT es.append('a', :a::text, 'e', jsonb_build_object('bucket', :b::integer));
\sleep :ms ms
ROLLBACK;
),
	'savepoint@1' => q(
\set a random(1, 50)
\set b random(1, 5)
BEGIN;
SAVEPOINT s;
SELECT es.append('a', :a::text, 'e', jsonb_build_object('bucket', :b::integer));
ROLLBACK TO s;
SELECT es.append('a', :a::text, 'f', jsonb_build_object('bucket', :b::integer));
COMMIT;
));
my %runs = (
	'all@4' => q(SELECT es.run_projections();),
	'some@2' => q(
\set n random(1, 200)
SELECT es.run_projections('chain', :n);
),
	'undone@1' => q(
BEGIN;
SELECT es.run_projections();
ROLLBACK;
));
my @changes = (
	q(SELECT es.alter_projection('chain', mode => 'inline')),
	q(SELECT es.alter_projection('lines', mode => 'inline')),
	q(SELECT es.alter_projection('totals', mode => 'inline')),
	q(SELECT rows FROM es.replay('chain')),
	q(SELECT es.alter_projection('totals', mode => 'async')),
	q(SELECT es.alter_projection('lines', enabled => false)),
	q(SELECT es.alter_projection('chain', mode => 'async')),
	q(SELECT es.alter_projection('lines', enabled => true, mode => 'async')),
	q(SELECT rows FROM es.replay('totals')),
	q(SELECT rows FROM es.replay('chain')));

# Runs the load for some seconds; what changes the modes may lose to a deadlock, nobody else.
sub torture
{
	my ($what) = @_;
	my @options = ('-c', 8, '-j', 2, '-T', $seconds, '--max-tries=1000');
	my $writers = EsLoad->start($node, 'writers', \%writes, @options);
	my @deaths = (0, 0);
	my $changed = 0;
	my @runners = map { EsLoad->start($node, "runner$_", \%runs, '-c', 1, '-T', $seconds) } 1 .. 3;

	while ($writers->running)
	{
		my ($ret) = $node->psql('postgres', $changes[ $changed++ % @changes ]);

		$node->psql('postgres',
			q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'runner%' ORDER BY random() LIMIT 1)
		) if $changed % 3 == 0;
		for my $i (0 .. $#runners)
		{
			next if $runners[$i]->running;
			$runners[$i]->finish;
			$deaths[0]++;
			$runners[$i] = EsLoad->start($node, 'runner', \%runs, '-c', 1, '-T', 2);
		}
	}
	$_->finish foreach @runners;
	my $result = $writers->finish;
	is($result->{exit}, 0, "$what: the writers have had no error") or diag $result->{stderr};
	cmp_ok($changed, '>=', scalar @changes, "$what: every change was made");
	note "$result->{processed} transactions, $changed changes, $deaths[0] runners ended";
}

# Brings everything up to date and compares.
sub compare
{
	my ($what) = @_;

	$node->safe_psql('postgres', 'SELECT es.run_projections()');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM wrong'), '0', "$what: rows are what the log says")
	  or diag $node->safe_psql('postgres', 'SELECT * FROM wrong LIMIT 10');
	is($node->safe_psql('postgres', q(SELECT count(*) FROM es.projections WHERE status <> 'running' OR lag <> 0)),
		'0', "$what: nothing is behind");
}

torture('load');
$node->safe_psql('postgres', q(SELECT es.alter_projection(name, mode => 'async', enabled => true) FROM es.projections));
compare('load');

# A crash in the middle of it.
$node->safe_psql('postgres', q(SELECT es.append('a', g::text, 'e', '{"bucket": 1}') FROM generate_series(1, 3000) AS g));
my $writers = EsLoad->start($node, 'writers', \%writes, '-c', 4, '-T', 3);
my $runner = EsLoad->start($node, 'runner', \%runs, '-c', 2, '-T', 3);
$node->poll_query_until('postgres', q(SELECT max(position) > (SELECT checkpoint + 20 FROM es.projections WHERE name = 'lines') FROM es.events));
$node->stop('immediate');
$_->finish foreach $writers, $runner;
$node->start;
compare('crash');

# Reading one's own writes.
my $waiting = $node->background_psql('postgres');
my $position = $node->safe_psql('postgres', q(SELECT position FROM es.append_events('a', '1', '[{"event_type": "e", "data": {"bucket": 1}}]')));
is($node->safe_psql('postgres', "SELECT es.wait_for('lines', $position, '0s')"), 'f', 'not yet applied');
$waiting->query_until(qr/^waiting$/m, "\\echo waiting\nSELECT es.wait_for('lines', $position, '1 h');\n");
$node->safe_psql('postgres', 'SELECT es.run_projections()');
is($node->safe_psql('postgres', "SELECT es.wait_for('lines', $position, '0s')"), 't', 'applied');
like($waiting->query_safe(q(SELECT 'done')), qr/t\n.*done|done/, 'who has waited goes on');
$waiting->quit;

# Many sessions run them, in parts, by name and all at once: nobody meets a deadlock.
$writers = EsLoad->start($node, 'writers', { one => $writes{'one@6'} }, '-c', 1, '-T', 4);
$runner = EsLoad->start($node, 'runner',
	{
		all => 'SELECT es.run_projections();',
		part => "\\set n random(1, 20)\nSELECT es.run_projections(NULL, :n);",
		one => "SELECT es.run_projections((ARRAY['chain', 'lines', 'totals'])[1 + floor(random() * 3)::integer]);"
	},
	'-c', 4, '-T', 4);
my $ran = $runner->finish;
is("$ran->{exit} $ran->{failed}", '0 0', 'they all run') or diag $ran->{stderr};
cmp_ok($ran->{processed}, '>', 0, 'so they do');
$writers->finish;
compare('many runs');

$node->stop;
done_testing();
