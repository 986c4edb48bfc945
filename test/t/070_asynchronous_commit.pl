# A crash takes commits away that were not flushed, as synchronous_commit = off allows.
# What it takes are the last ones, and from the log, the state tables and all
# checkpoints alike: so they still fit together, and readers whose checkpoint is in the
# database miss nothing.  A commit that was flushed keeps all before it.  A reader who
# keeps his position elsewhere has seen events that are gone, but misses none either.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('async_commit');
$node->init;
# Nobody else flushes the WAL meanwhile.
$node->append_conf(
	'postgresql.conf', q(
wal_writer_delay = 10s
autovacuum = off
));
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE account (id text PRIMARY KEY, n bigint NOT NULL, last bigint NOT NULL);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1, event.position)::account;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{a}');
CREATE TABLE later (LIKE account INCLUDING ALL);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1, event.position)::later;
SELECT es.create_projection('later', 'later', 'later_apply', aggregate_types => '{a}', mode => 'async');
SELECT es.create_subscription('reader');
CREATE TABLE seen (position bigint PRIMARY KEY, version bigint NOT NULL);
CREATE FUNCTION consume() RETURNS bigint LANGUAGE sql AS $$
	WITH batch AS MATERIALIZED (SELECT * FROM es.fetch('reader', 1000)),
	work AS (INSERT INTO seen SELECT position, version FROM batch)
	SELECT count(es.ack(lease_id)::text) FROM (SELECT DISTINCT lease_id FROM batch) AS b $$;
CHECKPOINT;
));

# Each event is a transaction, and all readers follow; the second half is not flushed.
my $follow = 'SELECT consume(); SELECT es.run_projections();';
my $append = q(SELECT es.append('a', '1', 'E'););
my $lost = 0;
foreach my $round (1 .. 3)
{
	my $flushed = $node->safe_psql('postgres',
		"SET synchronous_commit = off;\n" . "$append\n$follow\n" x 20 . "SET synchronous_commit = on;\n$append\n" . "SELECT max(version) FROM es.events");
	$flushed = (split /\n/, $flushed)[-1];
	my $told = $node->safe_psql('postgres',
		"SET synchronous_commit = off;\n" . "$append\n$follow\n" x 20 . "SELECT max(version), max(position) FROM es.read_all(max_count => NULL)");
	($told, my $position) = split /\|/, (split /\n/, $told)[-1];
	$node->stop('immediate');
	$node->start;

	my $there = $node->safe_psql('postgres', q(SELECT coalesce(max(version), 0) FROM es.events));
	$lost += $told - $there;
	cmp_ok($there, '>=', $flushed, "round $round: what was flushed is there, with all before it");
	is( $node->safe_psql(
			'postgres', q(
		SELECT count(*) = max(version), count(DISTINCT position) = count(*), max(position) <= es.high_water_mark()
		  FROM es.events)),
		't|t|t', "round $round: versions have no gap");
	is($node->safe_psql('postgres', 'SELECT n, last FROM account'),
		$node->safe_psql('postgres', 'SELECT count(*), max(position) FROM es.events'),
		"round $round: the state has what the log has");
	is( $node->safe_psql(
			'postgres', q(
		SELECT count(*) FROM seen AS s LEFT JOIN es.events AS e USING (position) WHERE e.version IS DISTINCT FROM s.version)),
		'0', "round $round: no reader is ahead of the log");
	$node->safe_psql('postgres', "$append\n$follow");
	is($node->safe_psql('postgres', "SELECT count(*) FROM es.read_all(after_position => $position)"),
		'1', "round $round: a reader who keeps his position elsewhere gets what is new");
	is( $node->safe_psql(
			'postgres', q(
		SELECT (SELECT count(*) FROM seen) = count(*), (SELECT n FROM later) = count(*), (SELECT n FROM account) = count(*)
		  FROM es.events)),
		't|t|t', "round $round: each reader has every event once");
}
cmp_ok($lost, '>', 0, 'the crashes took commits away');
$node->stop;
done_testing();
