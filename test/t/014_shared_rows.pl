# Fifty writers, five rows: many aggregates feed them, in every way there is to append.
#
# The oracle.  A row's state is a chain of md5 sums over the events that feed
# it, from the last one on that emptied the row.  So an event that is lost, applied twice or applied
# out of order changes it.  A plain SQL aggregate over the log, in the order of
# positions, must come to the same, whenever looked at, and so must a replay.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_LONG} ? 30 : 4;

my $node = PostgreSQL::Test::Cluster->new('shared_rows');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
max_connections = 70
deadlock_timeout = 50ms
));
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;

CREATE TABLE row_of_many (kind integer, name text, events bigint NOT NULL, sum numeric NOT NULL, chain text NOT NULL,
                          PRIMARY KEY (kind, name));
CREATE FUNCTION apply(state row_of_many, event es.events) RETURNS row_of_many
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type WHEN 'Emptied' THEN NULL
	ELSE ROW((event.data->>'row')::integer, 'row ' || (event.data->>'row'), coalesce(state.events, 0) + 1,
	         coalesce(state.sum, 0) + (event.data->>'n')::numeric,
	         md5(coalesce(state.chain, '') || event.event_id::text))::row_of_many END;
SELECT es.create_projection('row_of_many', 'row_of_many', 'apply',
                            key => $$(data->>'row')::integer, 'row ' || (data->>'row')$$);

CREATE FUNCTION link(chain text, event_id uuid) RETURNS text
LANGUAGE sql IMMUTABLE RETURN md5(chain || event_id::text);
CREATE AGGREGATE chain(uuid) (sfunc = link, stype = text, initcond = '');

CREATE VIEW wrong AS
WITH expected AS (
	SELECT kind, count(*) AS events, sum(n) AS sum, chain(event_id ORDER BY position) AS chain
	FROM (SELECT (data->>'row')::integer AS kind, (data->>'n')::numeric AS n, position, event_id,
	             max(position) FILTER (WHERE event_type = 'Emptied') OVER (PARTITION BY data->>'row') AS emptied
	      FROM es.events) AS e
	WHERE emptied IS NULL OR position > emptied
	GROUP BY kind)
SELECT kind, e::text AS expected, s::text AS actual
FROM expected AS e FULL JOIN row_of_many AS s USING (kind)
WHERE (e.events, e.sum, e.chain) IS DISTINCT FROM (s.events, s.sum, s.chain)
   OR s.name <> 'row ' || kind;
));

my $variables = q(
\set a random(1, 500)
\set b random(1, 500)
\set row random(1, 5)
\set other random(1, 5)
\set n random(-1000, 1000)
\set pause random(0, 3)
\set type random(0, 40) / 40
);
my $type = q((ARRAY['Happened', 'Emptied'])[:type + 1]);
my $data = q(jsonb_build_object('row', :row, 'n', :n));
my $append = qq(SELECT es.append('a' || :a % 7, :a::text, $type, $data););
my $batch = q(SELECT count(*) FROM es.append_batch((
	SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'a', 'aggregate_id', (:a + 13 * i)::text,
		'event_type', 'Happened', 'data', jsonb_build_object('row', 1 + (:row + i) % 5, 'n', i)))
	FROM generate_series(1, 6) AS i)););

# Transactions that lock one row, or all of theirs in one call: these never deadlock.
my %orderly = (
	'single@6' => "$variables $append",
	'paused@2' => "$variables BEGIN; $append \\sleep :pause ms
COMMIT;",
	'rollback@2' => "$variables BEGIN; $append \\sleep :pause ms
ROLLBACK;",
	'savepoint@2' => "$variables
BEGIN;
$append
SAVEPOINT s;
$append
ROLLBACK TO s;
$append
COMMIT;",
	'batch@3' => "$variables $batch",
	'insert@2' => "$variables
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'a', :a::text, 'Happened', jsonb_build_object('row', :row, 'n', i) FROM generate_series(1, 5) AS i;");

# Transactions that are tried again after a deadlock, or because of their isolation level.
my %retried = (
	'two@1' => "$variables
BEGIN;
$append
SELECT es.append('b', :b::text, $type, jsonb_build_object('row', :other, 'n', 1));
COMMIT;",
	'repeatable@1' => "$variables
BEGIN ISOLATION LEVEL REPEATABLE READ;
$append
COMMIT;",
	'serializable@1' => "$variables
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM row_of_many;
$append
COMMIT;");

my ($wrong, $looks) = ('', 0);

my $load = EsLoad->start($node, 'writers', \%orderly, '-c', 50, '-j', 2, '-T', $seconds);
look() while $load->running;
my $result = $load->finish;
is($result->{exit}, 0, 'fifty writers: no error') or diag($result->{stderr});
is($result->{failed}, 0, 'and no deadlock');
cmp_ok($result->{processed}, '>', 200, 'they got on');

$load = EsLoad->start($node, 'writers', { %orderly, %retried },
	'-c', 50, '-j', 2, '-T', $seconds / 2, '--max-tries', 10000);
look() while $load->running;
$result = $load->finish;
is($result->{exit}, 0, 'and others that are tried again: no error') or diag($result->{stderr});
is($result->{failed}, 0, 'none gave up');
note("$result->{retried} of $result->{processed} tried again");

look();
is($wrong, '', 'the five rows were the fold of the log whenever looked at');
cmp_ok($looks, '>', 1, 'they were looked at');
is($node->safe_psql('postgres', 'SELECT count(*) <= 5 FROM row_of_many'), 't', 'there are no others');
is( $node->safe_psql(
		'postgres', q(
CREATE TABLE before AS TABLE row_of_many;
SELECT events = (SELECT count(*) FROM es.events), rows = (SELECT count(*) FROM before) FROM es.replay('row_of_many');
SELECT count(*) FROM ((TABLE before EXCEPT ALL TABLE row_of_many) UNION ALL (TABLE row_of_many EXCEPT ALL TABLE before)) AS d)),
	"t|t\n0",
	'and a replay gives the same');
note($node->safe_psql('postgres', q(SELECT format('%s events of %s aggregates', count(*),
	count(DISTINCT (aggregate_type, aggregate_id))) FROM es.events)) . ", $looks looks");

$node->stop;
done_testing();

# Compares the rows with the log, both as one snapshot shows them.
sub look
{
	$wrong ||= $node->safe_psql('postgres', 'SELECT * FROM wrong LIMIT 5');
	$looks++;
}
