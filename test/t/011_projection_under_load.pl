# Projections are created, dropped and replayed while writers append, get
# killed, and the server crashes.
#
# The oracle is the log: after each round, and at any time for projections that
# exist all the time, every state must equal the chain of md5 sums that an SQL aggregate
# computes from the events in the order of their positions.  The server's log must
# hold no error but those the test provokes, and neither pg_class nor the disk may
# keep anything of a replay that was cancelled.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $seconds = $ENV{ES_LONG} ? 20 : 5;    # of each part

my $node = PostgreSQL::Test::Cluster->new('under_load');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
max_connections = 60
deadlock_timeout = 200ms
log_line_prefix = '%m [%p] %a sqlstate=%e '
));
$node->start;

# Four projections: one row per aggregate, protected or not; many aggregates to
# a row; rows that come and go.  The last one is dropped and made again.
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;

CREATE FUNCTION link(chain text, event_id uuid) RETURNS text
LANGUAGE sql IMMUTABLE RETURN md5(coalesce(chain, '') || event_id::text);
CREATE AGGREGATE chain(uuid) (sfunc = link, stype = text, initcond = '');

CREATE TABLE by_aggregate (id text PRIMARY KEY, events bigint, chain text);
CREATE TABLE by_bucket (bucket integer PRIMARY KEY, events bigint, chain text);
CREATE TABLE alive (id text PRIMARY KEY, events bigint, chain text);
CREATE TABLE made (bucket integer, kind text, events bigint, chain text, PRIMARY KEY (bucket, kind));
CREATE INDEX ON by_aggregate (events);
CREATE INDEX ON alive (chain) WHERE events > 3;

CREATE FUNCTION apply(state by_aggregate, event es.events) RETURNS by_aggregate
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1, link(state.chain, event.event_id))::by_aggregate;

CREATE FUNCTION apply(state by_bucket, event es.events) RETURNS by_bucket
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	state.bucket := (event.data->>'bucket')::integer;
	state.events := coalesce(state.events, 0) + 1;
	state.chain := public.link(state.chain, event.event_id);
	RETURN state;
END $$;

CREATE FUNCTION apply(state alive, event es.events) RETURNS alive
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
	WHEN 'Ended' THEN NULL
	ELSE ROW(event.aggregate_id, coalesce(state.events, 0) + 1, link(state.chain, event.event_id))::alive END;

CREATE FUNCTION apply(state made, event es.events) RETURNS made
LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'bucket')::integer, event.event_type,
           coalesce(state.events, 0) + 1, link(state.chain, event.event_id))::made;

SELECT es.create_projection('by_aggregate', 'by_aggregate', 'apply(by_aggregate, es.events)',
                            aggregate_types => '{load}', protect => false);
SELECT es.create_projection('by_bucket', 'by_bucket', 'apply(by_bucket, es.events)',
                            key => $$(data->>'bucket')::integer$$);
SELECT es.create_projection('alive', 'alive', 'apply(alive, es.events)',
                            event_types => '{Happened,Ended}');

CREATE FUNCTION make() RETURNS void LANGUAGE sql
RETURN es.create_projection('made', 'made', 'apply(made, es.events)',
                            key => $$(data->>'bucket')::integer, event_type$$);
SELECT make();

-- Replays a projection, unless somebody else does.
CREATE FUNCTION replay(projection text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT rows FROM es.replay(replay.projection));
EXCEPTION WHEN SQLSTATE 'SE009' THEN
	RETURN NULL;
END $$;

-- Waits until somebody replays by_bucket; for a transaction tried again there may be none.
CREATE FUNCTION wait_for_replay() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 500 LOOP
		EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE relation = 'by_bucket'::regclass
		                  AND mode = 'AccessExclusiveLock' AND NOT granted);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

CREATE VIEW wrong_by_aggregate AS
SELECT 'by_aggregate ' || id AS what, e.chain AS expected, s.chain AS actual
FROM (SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY position) AS chain
      FROM es.events GROUP BY aggregate_id) AS e FULL JOIN by_aggregate AS s USING (id)
WHERE (e.events, e.chain) IS DISTINCT FROM (s.events, s.chain);

CREATE VIEW wrong_by_bucket AS
SELECT 'by_bucket ' || bucket AS what, e.chain AS expected, s.chain AS actual
FROM (SELECT (data->>'bucket')::integer AS bucket, count(*) AS events, chain(event_id ORDER BY position) AS chain
      FROM es.events GROUP BY 1) AS e FULL JOIN by_bucket AS s USING (bucket)
WHERE (e.events, e.chain) IS DISTINCT FROM (s.events, s.chain);

CREATE VIEW wrong_alive AS
SELECT 'alive ' || id AS what, e.chain AS expected, s.chain AS actual
FROM (SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY position) AS chain
      FROM (SELECT *, max(position) FILTER (WHERE event_type = 'Ended') OVER (PARTITION BY aggregate_id) AS ended
            FROM es.events WHERE event_type IN ('Happened', 'Ended')) AS e
      WHERE ended IS NULL OR position > ended
      GROUP BY aggregate_id) AS e FULL JOIN alive AS s USING (id)
WHERE (e.events, e.chain) IS DISTINCT FROM (s.events, s.chain);

CREATE VIEW wrong_made AS
SELECT 'made ' || bucket || kind AS what, e.chain AS expected, s.chain AS actual
FROM (SELECT (data->>'bucket')::integer AS bucket, event_type AS kind, count(*) AS events,
             chain(event_id ORDER BY position) AS chain
      FROM es.events GROUP BY 1, 2) AS e FULL JOIN made AS s USING (bucket, kind)
WHERE (e.events, e.chain) IS DISTINCT FROM (s.events, s.chain);

CREATE VIEW wrong AS
TABLE wrong_by_aggregate UNION ALL TABLE wrong_by_bucket UNION ALL TABLE wrong_alive;

-- Enough history for a replay to take some time.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'load', 'a' || i % 3000, 'Happened', jsonb_build_object('bucket', i % 1500)
FROM generate_series(1, 12000) AS i;
));

# --- the loads --------------------------------------------------------------

my $variables = q(
\set a random_zipfian(1, 3000, 1.05)
\set b random(1, 3000)
\set bucket random(1, 1500)
\set type random(0, 9)
);
my $type = q((ARRAY['Ended', 'Other', 'Happened'])[least(:type + 1, 3)]);
my $event = q(jsonb_build_object('bucket', :bucket));
my %writers = (
	'single@4' => "$variables SELECT es.append('load', 'a:a', $type, $event);",
	'two@2' => "$variables
BEGIN;
SELECT es.append('load', 'a:a', $type, $event);
\\sleep :type ms
SELECT es.append('load', 'a:b', $type, $event);
COMMIT;",
	'savepoint@2' => "$variables
BEGIN;
SAVEPOINT s;
SELECT es.append('load', 'a:a', $type, $event);
ROLLBACK TO s;
SELECT es.append('load', 'a:a', 'Happened', $event);
COMMIT;",
	'reader@1' => "$variables
SELECT count(*) FROM by_bucket WHERE bucket = :bucket;
SELECT es.append('load', 'a:a', $type, $event);",
	'rows@2' => "$variables
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'load', 'a' || (:a + i) % 3000, $type, jsonb_build_object('bucket', (:bucket + i * 7) % 1500)
FROM generate_series(1, 10) AS i;");

# Writers get a moment between two of these.
my $breath = '\sleep 50 ms';
my %managers = (
	'remake@2' => "
SELECT es.drop_projection(name) FROM es.projections WHERE name = 'made';
$breath
SELECT make();
$breath",
	'together@1' => "
SELECT es.drop_projection(name) FROM es.projections WHERE name = 'made';
BEGIN;
SELECT make();
SELECT * FROM es.replay('made');
COMMIT;
$breath",
	'undone@1' => "
BEGIN;
SELECT replay('alive');
ROLLBACK;
$breath",
	'replay@2' => "
SELECT replay('by_aggregate');
$breath
SELECT replay('by_bucket');
$breath",
	'small@2' => "
SET es.replay_memory = '64kB';
SELECT replay('alive');
$breath
SELECT replay('by_aggregate');
$breath
RESET es.replay_memory;");

my $start = events();
my $wrong = '';
my $looks = 0;

# Managers alone with the writers.
my ($load, $managing) = start_loads();
look() while $load->running;
finish_loads($load, $managing);
states_are_right('after a load');

# Replays are cancelled.
($load, $managing) = start_loads();
my ($cancelled, $done) = (0, 0);
while ($load->running)
{
	my $timeout = 1 + int(rand(300));
	my $projection = (qw(by_aggregate by_bucket alive))[ rand 3 ];
	my $ret = $node->psql('postgres', "SET application_name = 'provoked';
SET es.replay_memory = '64kB'; SET statement_timeout = $timeout;
SELECT * FROM es.replay('$projection');", on_error_stop => 1);

	$ret == 0 ? $done++ : $cancelled++;
	look();
}
finish_loads($load, $managing);
cmp_ok($cancelled, '>', 0, 'replays were cancelled');
note("$cancelled replays cancelled, $done not");
states_are_right('after replays were cancelled');
nothing_is_left();

# Writers are killed.  pgbench gives up a client whose connection is gone.
$load = EsLoad->start($node, 'writers', \%writers, '-c', 24, '-T', $seconds, '--max-tries', 1000);
$managing = EsLoad->start($node, 'manager', \%managers, '-c', 1, '-T', $seconds, '--max-tries', 1000);
my $killed = 0;
while ($load->running)
{
	$killed += $node->safe_psql(
		'postgres', q(SELECT count(pg_terminate_backend(pid)) FROM (
SELECT pid FROM pg_stat_activity
WHERE application_name = 'writers' AND state <> 'idle'
ORDER BY random() LIMIT 1) AS p)) if $killed < 20;
	look();
}
my $result = $load->finish;
is($managing->finish->{exit}, 0, 'the managing session did not fail');
cmp_ok($killed, '>', 0, 'writers were killed');
cmp_ok($result->{processed}, '>', 0, 'and others went on');
states_are_right('after writers were killed');
nothing_is_left();

# The server crashes in the middle.
($load, $managing) = start_loads();
my $before = events();
$node->poll_query_until('postgres', "SELECT count(*) > $before + 200 FROM es.events");
$node->poll_query_until('postgres',
	q(SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'manager' AND query ~ 'replay' AND state = 'active'))
  or die 'nobody replays';
$node->stop('immediate');
$_->finish foreach $load, $managing;
$node->start;
$before = events();
$node->safe_psql('postgres', 'SELECT make()')
  if $node->safe_psql('postgres', q(SELECT count(*) FROM es.projections WHERE name = 'made')) eq '0';
states_are_right('after a crash');
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_class WHERE relname LIKE 'pg\_temp\_%')),
	'0', 'and nothing is left of the replay in pg_class');

# A transaction that has read the state, and appends when a replay waits for the
# state table, is let through, and the replay ends after it.
$load = EsLoad->start($node, 'reader', { reader => "
BEGIN;
SELECT count(*) FROM by_bucket;
SELECT wait_for_replay();
SELECT es.append('load', 'a1', 'Happened', '{\"bucket\": 1}');
COMMIT;" }, '-c', 1, '-t', 1);
$node->poll_query_until('postgres',
	q(SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'reader' AND query ~ 'wait_for_replay'));
my $begun = time;
my ($ret, $stdout, $stderr) = $node->psql('postgres', q(SELECT * FROM es.replay('by_bucket')));
$result = $load->finish;
cmp_ok(time - $begun, '<', 30, 'a reader that appends does not keep a replay waiting');
is($ret, 0, 'the replay does its work') or diag($stderr);
is($result->{exit} . $result->{failed}, '00', 'and the append is done at once') or diag($result->{stderr});
states_are_right('after it');

# And everything goes on.
($load, $managing) = start_loads();
look() while $load->running;
finish_loads($load, $managing);
cmp_ok(events(), '>', $before, 'after the crash the log goes on');
states_are_right('at the end');
is( $node->safe_psql(
		'postgres', q(
SELECT aggregate_id, version, number, position FROM (
	SELECT aggregate_id, version, position,
	       row_number() OVER (PARTITION BY aggregate_type, aggregate_id ORDER BY position) AS number
	FROM es.events) AS e
WHERE version <> number LIMIT 5)),
	'',
	'versions have no gaps and are in the order of positions');
is($wrong, '', 'the states were right whenever looked at');
note("$looks looks at the states, " . (events() - $start) . ' events');
is(unexpected_errors(), '', 'no error but those expected');

$node->stop;
done_testing();

# --- parts ------------------------------------------------------------------

# Starts writers, and a session that creates, drops and replays projections.
sub start_loads
{
	return (
		EsLoad->start($node, 'writers', \%writers, '-c', 12, '-T', $seconds, '--max-tries', 1000),
		EsLoad->start($node, 'manager', \%managers, '-c', 1, '-T', $seconds, '--max-tries', 1000));
}

sub finish_loads
{
	my ($load, $managing) = @_;
	my $written = $load->finish;
	my $managed = $managing->finish;

	is($written->{exit}, 0, 'the writers did not fail') or diag($written->{stderr});
	is($managed->{exit}, 0, 'the managing session did not fail') or diag($managed->{stderr});
	is($written->{failed} + $managed->{failed}, 0, 'what deadlocked went through when tried again');
	note("$written->{processed} writes ($written->{retried} retried), $managed->{processed} times managed");
}

# Compares the states that exist all the time with the log, under one snapshot.
# The pause leaves replays a moment without this long reader.
sub look
{
	$wrong ||= $node->safe_psql('postgres', 'SELECT * FROM wrong LIMIT 5');
	$looks++;
	usleep(200_000);
}

sub states_are_right
{
	my ($when) = @_;

	is($node->safe_psql('postgres', 'TABLE wrong UNION ALL TABLE wrong_made LIMIT 5'),
		'', "each state is the fold of the log $when");
}

sub events
{
	return $node->safe_psql('postgres', 'SELECT count(*) FROM es.events');
}

# Neither a table of a replay may be left, nor a file that belongs to no table.
# A dropped table's first file stays, empty, until the next checkpoint.
sub nothing_is_left
{
	is($node->safe_psql('postgres', q(SELECT relname FROM pg_class WHERE relname LIKE 'pg\_temp\_%')),
		'', 'nothing is left of replays in pg_class');
	is( $node->safe_psql(
			'postgres', q(
CHECKPOINT;
SELECT file FROM pg_database AS d, pg_ls_dir('base/' || d.oid) AS file
WHERE datname = current_database() AND file ~ '^\d+'
  AND NOT EXISTS (SELECT FROM pg_class WHERE pg_relation_filenode(oid) = substring(file FROM '^\d+')::oid))),
		'',
		'nor on the disk');
}

# Returns the first lines of the server's log that report an error we did not ask for.
sub unexpected_errors
{
	my %expected = ('40001' => 1, '40P01' => 1, '57P01' => 1, '57P02' => 1, '57P03' => 1);
	my @lines;

	foreach (split /\n/, slurp_file($node->logfile))
	{
		next unless /\] (\S*) sqlstate=(\w+) (?:ERROR|FATAL|PANIC): /;
		next if $expected{$2} || $1 eq 'provoked' && $2 =~ /^(57014|SE009)$/;
		push @lines, $_;
	}
	return join("\n", grep { defined } @lines[ 0 .. 4 ]);
}
