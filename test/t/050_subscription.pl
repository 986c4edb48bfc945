# Subscriptions under load: writers with pauses, rollbacks, savepoints and
# prepared transactions; consumers that acknowledge all, a part or nothing, give
# back, put aside, are too slow or are killed; playbacks, retries and discards;
# idle transactions; and a crash of the server in the middle.  After it the worker
# wakes who waits.
#
# The oracle.  A consumer notes in the transaction of a fetch what it was given, and
# in that of an acknowledgement what is finished, so a key is violated where an
# event is finished twice.  Both draw numbers from one sequence while they hold
# the stream, so the numbers tell what was first.  In the end every event must be
# finished, and the order in which the events of each aggregate were delivered
# must be right; how, the queries below say.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $seconds = $ENV{ES_LONG} ? 35 : 10;    # of each of the two parts

my $node = PostgreSQL::Test::Cluster->new('subscription');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
max_connections = 60
max_prepared_transactions = 40
deadlock_timeout = 200ms
));
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
SELECT es.create_subscription('all', partitions => 8, max_attempts => 4);
SELECT es.create_subscription('some', event_types => '{A, B}', sources => '{web, bank}', partitions => 3,
                              max_attempts => 4, after_park => 'wait');

CREATE SEQUENCE step;
CREATE TABLE delivered (
	n bigint PRIMARY KEY DEFAULT nextval('step'), subscription text, lease_id bigint, attempt integer,
	replayed boolean, position bigint, event_id uuid);
CREATE INDEX ON delivered (lease_id);
CREATE TABLE finished (
	n bigint NOT NULL DEFAULT nextval('step'), subscription text, position bigint, replayed boolean, lease_id bigint,
	PRIMARY KEY (subscription, position, replayed));
CREATE TABLE played_back (subscription text PRIMARY KEY, up_to bigint, events bigint);

-- Fetches, notes what it was given, and returns the lease, 0 if there is none.
CREATE FUNCTION take(name text, max_count integer, lease interval) RETURNS bigint LANGUAGE sql AS $$
	WITH fetched AS MATERIALIZED (SELECT * FROM es.fetch(name, max_count, lease => lease, wait => '100 ms')),
	noted AS (
		INSERT INTO delivered (subscription, lease_id, attempt, replayed, position, event_id)
		SELECT name, lease_id, attempt, replayed, position, event_id FROM fetched RETURNING lease_id)
	SELECT coalesce(max(lease_id), 0) FROM noted $$;

-- An event of a lease that is not finished: the last one, or any one.
CREATE FUNCTION unfinished(lease bigint, last boolean) RETURNS bigint LANGUAGE sql AS $$
	SELECT position FROM delivered AS d
	 WHERE lease_id = lease AND NOT EXISTS (SELECT FROM finished AS f WHERE f.lease_id = lease AND f.position = d.position)
	 ORDER BY CASE WHEN last THEN -position ELSE random() END LIMIT 1 $$;

-- Acknowledges and notes what is finished, unless the lease is lost.
CREATE FUNCTION finish(lease bigint, part boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	up_to bigint := unfinished(lease, NOT part);
BEGIN
	PERFORM es.ack(lease, CASE WHEN part THEN up_to END);
	INSERT INTO finished (subscription, position, replayed, lease_id)
	SELECT subscription, position, replayed, lease_id FROM delivered AS d WHERE lease_id = lease AND position <= up_to
	   AND NOT EXISTS (SELECT FROM finished AS f WHERE f.lease_id = lease AND f.position = d.position AND f.replayed = d.replayed)
	 ORDER BY n;
	RETURN true;
EXCEPTION WHEN SQLSTATE 'SE012' THEN
	RETURN false;
END $$;

CREATE FUNCTION refuse(lease bigint, park boolean) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es.nack(lease, unfinished(lease, false), 'no', park);
	RETURN true;
EXCEPTION WHEN SQLSTATE 'SE012' THEN
	RETURN false;
END $$;

-- Forgets an event that was put aside; that finishes it, too.
CREATE FUNCTION discard(name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	at bigint := (SELECT position FROM es.parked_events WHERE subscription = name ORDER BY random() LIMIT 1);
	parked boolean[] := ARRAY(SELECT replayed FROM es.parked_events WHERE subscription = name AND position = at);
BEGIN
	IF at IS NULL OR es.discard_parked(name, at) <> cardinality(parked) THEN
		RAISE invalid_parameter_value;
	END IF;
	INSERT INTO finished (subscription, position, replayed) SELECT name, at, p FROM unnest(parked) AS p;
	RETURN at;
EXCEPTION WHEN invalid_parameter_value THEN
	RETURN 0;
END $$;

-- Events that a subscription is for, and their number within the aggregate.
CREATE VIEW expected AS
SELECT s.subscription, replayed, position, event_id, aggregate_id,
       row_number() OVER (PARTITION BY s.subscription, replayed, aggregate_id ORDER BY position) AS number
  FROM es.events AS e
 CROSS JOIN (VALUES ('all'), ('some')) AS s (subscription)
 CROSS JOIN (VALUES (false), (true)) AS r (replayed)
  LEFT JOIN played_back AS p ON p.subscription = s.subscription
 WHERE (s.subscription = 'all' OR e.event_type IN ('A', 'B') AND e.source IN ('web', 'bank'))
   AND (NOT replayed OR e.position <= p.up_to);
));

# --- the load ---------------------------------------------------------------

my $variables = q(
\set a random_zipfian(1, 40, 1.01)
\set b random(1, 40)
\set type random(0, 2)
\set source random(0, 2)
\set pause random(0, 30)
\set slow random(0, 19) / 19 * 300
);
my $append = q(SELECT es.append('a', 'a:a', ('{A,B,C}'::text[])[:type + 1], source => ('{web,bank,NULL}'::text[])[:source + 1]););
my $other = $append =~ s/:type \+ 1/3 - :type/r;
my $pause = "\\sleep :pause ms\n\\sleep :slow ms\n";
my %writes = (
	'single@4' => "$variables$append\n$pause",
	'paused@4' => "${variables}BEGIN;\n$append\n${pause}COMMIT;\n",
	'undone@3' => "${variables}BEGIN;\n$append\n${pause}ROLLBACK;\n",
	'savepoint@3' => "${variables}BEGIN;\n$append\nSAVEPOINT s;\n$other\n${pause}ROLLBACK TO s;\n$append\nCOMMIT;\n",
	'firstgone@2' => "${variables}BEGIN;\nSAVEPOINT s;\n$append\nROLLBACK TO s;\n${pause}SAVEPOINT s;\n$other\nRELEASE s;\nCOMMIT;\n",
	'prepared@2' => "${variables}BEGIN;\n$append\nPREPARE TRANSACTION 'w_:client_id';\n${pause}COMMIT PREPARED 'w_:client_id';\n",
	'unprepared@1' => "${variables}BEGIN;\n$append\nPREPARE TRANSACTION 'w_:client_id';\n${pause}ROLLBACK PREPARED 'w_:client_id';\n",
	'batch@2' => "$variables
SELECT count(*) FROM es.append_batch((
	SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'a', 'aggregate_id', 'a' || a, 'event_type', 'B', 'source', 'web'))
	FROM unnest(ARRAY[:a, :b, :a]) AS a));
$pause");

# What a consumer does with a fetch.
my $take = q(
\set count random(1, 40)
\set what random(1, 100)
\set ms random(0, 10)
\set lease 20 + random(0, 9) / 9 * 1000
);
sub consumes
{
	my ($name) = @_;
	my $fetch = "SELECT take('$name', :count, :lease * interval '1 ms') AS lease_id \\gset\n";

	return (
		'by_steps@8' => "$take$fetch
\\if :lease_id > 0
\\sleep :ms ms
\\if :what <= 60
SELECT finish(:lease_id, false);
\\elif :what <= 80
SELECT finish(:lease_id, true);
\\sleep :ms ms
SELECT finish(:lease_id, :ms % 2 = 0);
\\elif :what <= 90
SELECT refuse(:lease_id, false);
\\elif :what <= 93
SELECT refuse(:lease_id, true);
\\elif :what <= 96
\\sleep 50 ms
SELECT finish(:lease_id, false);
\\endif
\\endif
",
		'at_once@4' => "${take}BEGIN;\n$fetch
\\if :lease_id > 0
SELECT finish(:lease_id, false);
\\endif
COMMIT;
",
		'undone@1' => "${take}BEGIN;\n$fetch
\\if :lease_id > 0
SELECT finish(:lease_id, true);
\\endif
\\sleep :ms ms
ROLLBACK;
",
		'savepoint@1' => "${take}BEGIN;\nSAVEPOINT s;\n${fetch}ROLLBACK TO s;\n$fetch
\\if :lease_id > 0
SAVEPOINT s;
SELECT finish(:lease_id, false);
ROLLBACK TO s;
SELECT finish(:lease_id, :what < 50);
\\endif
COMMIT;
",
		'prepared@1' => "${take}BEGIN;\n$fetch
\\if :lease_id > 0
SELECT finish(:lease_id, false);
\\endif
PREPARE TRANSACTION 'c_:process';
\\sleep :ms ms
\\if :what < 50
COMMIT PREPARED 'c_:process';
\\else
ROLLBACK PREPARED 'c_:process';
\\endif
");
}

my @errors;
my @idle;
my $started = 0;

sub consumer
{
	my ($name, $time) = @_;

	$started++;
	return [ $name, EsLoad->start($node, 'consumer', { consumes($name) }, '-c', 1, '-T', $time, '-D', "process=$started") ];
}

# Waits for a consumer, and notes its errors but that it was killed.
sub finish_consumer
{
	my ($consumer) = @_;
	my $result = $consumer->[1]->finish;

	push @errors, grep { /ERROR|FATAL|PANIC|aborted/ && !/terminating connection|aborted in command|Run was aborted|connection to server was lost/ }
	  split /\n/, $result->{stderr};
}

# Prepared transactions that have been left behind are finished.
sub finish_prepared
{
	foreach my $gid (split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts ORDER BY gid'))
	{
		$node->safe_psql('postgres', (rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
}

# Runs the load for some seconds; crash: until the server is stopped in the middle.
sub torture
{
	my ($what, $crash) = @_;
	my $end = time + $seconds;
	my $writers = EsLoad->start($node, 'writers', \%writes, '-c', 16, '-j', 2, '-T', $seconds + ($crash ? 60 : 0));
	my @consumers = map { consumer($_, $seconds + 60) } ('all') x 4, ('some') x 2;
	my ($kills, $retries, $discards) = (0, 0, 0);

	while (time < $end)
	{
		die "$what: the writers have ended\n" unless $writers->running || time + 1 >= $end;
		$node->safe_psql(
			'postgres', q(
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'consumer' ORDER BY random() LIMIT 1));
		$kills++;
		foreach my $consumer (@consumers)
		{
			next if $consumer->[1]->running;
			finish_consumer($consumer);
			$consumer = consumer($consumer->[0], $seconds + 60);
		}
		# A consumer that was killed leaves its prepared transaction behind.
		$node->safe_psql('postgres', "ROLLBACK PREPARED '$_'")
		  foreach split /\n/, $node->safe_psql('postgres',
			q(SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'c_%' AND prepared < now() - interval '1 s'));
		$retries += $node->safe_psql('postgres', q(SELECT es.retry_parked(CASE WHEN random() < 0.5 THEN 'all' ELSE 'some' END)));
		$discards++ if $node->safe_psql('postgres', q(SELECT discard(CASE WHEN random() < 0.5 THEN 'all' ELSE 'some' END))) > 0;
		if (!$crash && time > $end - $seconds / 2)
		{
			$node->safe_psql(
				'postgres', q(
INSERT INTO played_back SELECT s, es.high_water_mark() FROM unnest('{all, some}'::text[]) AS s ON CONFLICT DO NOTHING;
UPDATE played_back SET events = es.playback(subscription, 0, up_to) WHERE events IS NULL));
		}
		sleep 0.1;
	}
	if ($crash)
	{
		$_->quit foreach @idle;
		$node->stop('immediate');
		$_->finish foreach $writers, map { $_->[1] } @consumers;
		$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_eventsourcing'\nes.worker_databases = 'postgres'\n");
		$node->start;
		finish_prepared();
	}
	else
	{
		my $result = $writers->finish;

		is($result->{exit}, 0, "$what: the writers have had no error") or diag $result->{stderr};
		$node->safe_psql('postgres', q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'consumer'));
		finish_consumer($_) foreach @consumers;
		finish_prepared();
	}
	note "$what: $kills consumers killed, $retries events retried, $discards discarded";
}

# Idle transactions hold nothing back: a snapshot and a transaction id, here and in another database.
sub idle
{
	my ($database) = @_;
	my $session = $node->background_psql($database);

	$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id();');
	return $session;
}

@idle = map { idle($_) } 'postgres', 'other';
torture('before the crash', 1);
@idle = map { idle($_) } 'postgres', 'other';
torture('after the crash', 0);
is_deeply(\@errors, [], 'the consumers have had no error');

# What is left, with the idle transactions still open.
my $unfinished = q(SELECT count(*) FROM expected AS e LEFT JOIN finished AS f USING (subscription, position, replayed) WHERE f.position IS NULL);
my $left = $node->safe_psql('postgres', $unfinished);
$node->safe_psql('postgres', q(SELECT es.retry_parked('all'), es.retry_parked('some')));
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
while (time < $deadline && $node->safe_psql('postgres', $unfinished) > 0)
{
	$node->safe_psql(
		'postgres', q(
DO $$
DECLARE
	lease bigint;
BEGIN
	FOR i IN 1 .. 20 LOOP
		FOR name IN 0 .. 1 LOOP
			lease := take(('{all,some}'::text[])[name + 1], 500, '30 s');
			COMMIT;
			IF lease > 0 THEN
				ASSERT finish(lease, false);
			END IF;
			COMMIT;
		END LOOP;
	END LOOP;
END $$));
}

# --- the oracle ---------------------------------------------------------------

sub none
{
	my ($query, $what) = @_;

	is($node->safe_psql('postgres', "$query LIMIT 5"), '', $what);
}

none(
	q(SELECT e.subscription, e.replayed, e.position, f.position FROM expected AS e FULL JOIN finished AS f USING (subscription, position, replayed)
WHERE e.position IS NULL OR f.position IS NULL),
	'every event, and no other, is finished exactly once');
none(
	q(SELECT subscription, replayed, position, event_id FROM expected AS e
WHERE NOT EXISTS (SELECT FROM delivered AS d WHERE (d.subscription, d.replayed, d.position, d.event_id) = (e.subscription, e.replayed, e.position, e.event_id))),
	'every event was delivered');
none(
	q(SELECT subscription, replayed, position, event_id FROM delivered AS d
WHERE NOT EXISTS (SELECT FROM expected AS e WHERE (d.subscription, d.replayed, d.position, d.event_id) = (e.subscription, e.replayed, e.position, e.event_id))),
	'and no other');
none(
	q(SELECT d.subscription, d.replayed, d.position, d.n, f.n FROM delivered AS d JOIN finished AS f USING (subscription, position, replayed)
WHERE d.n > f.n),
	'none was delivered after it had been finished');
none(
	q(SELECT subscription, replayed, aggregate_id, number, n FROM (
	SELECT e.subscription, replayed, e.aggregate_id, e.number, d.n,
	       lag(d.n) OVER (PARTITION BY e.subscription, replayed, e.aggregate_id ORDER BY e.number) AS before
	  FROM expected AS e JOIN (SELECT subscription, replayed, position, min(n) AS n FROM delivered GROUP BY 1, 2, 3) AS d
	 USING (subscription, replayed, position)) AS x WHERE n < before),
	'the events of an aggregate were delivered for the first time in their order');
none(
	q(SELECT d.* FROM delivered AS d JOIN expected AS e USING (subscription, replayed, position)
JOIN expected AS before ON (before.subscription, before.replayed, before.aggregate_id, before.number) = (e.subscription, e.replayed, e.aggregate_id, e.number - 1)
JOIN finished AS f ON (f.subscription, f.replayed, f.position) = (before.subscription, before.replayed, before.position)
WHERE d.subscription = 'some' AND f.n > d.n AND NOT EXISTS (
	SELECT FROM delivered AS s WHERE s.lease_id = d.lease_id AND (s.replayed, s.position) = (before.replayed, before.position) AND s.n < d.n)),
	'where they wait, none was delivered before the one before it was finished or fetched by the same consumer');
none(
	q(SELECT * FROM (SELECT DISTINCT ON (subscription, replayed, position) * FROM delivered ORDER BY subscription, replayed, position, n) AS d
WHERE attempt <> 1),
	'the first delivery is the first attempt');
is($node->safe_psql('postgres', q(SELECT count(*) FROM played_back AS p WHERE events <> (SELECT count(*) FROM finished AS f WHERE f.subscription = p.subscription AND replayed))),
	'0', 'a playback says how many events it is for');
is($node->safe_psql('postgres', q(SELECT name, kind, lag, parked FROM es.subscription_streams WHERE kind <> 'live' OR parked > 0 LIMIT 5)), '', 'nothing is left over');
is( $node->safe_psql(
		'postgres', q(
SELECT string_agg(name, ' ') FROM es.subscription_streams WHERE lease_until > now() AND lease_id IS NOT NULL)),
	'', 'no lease is left over');
note $node->safe_psql(
	'postgres', q(
SELECT format('%s events, %s deliveries, %s of them once more, %s finished, up to %s attempts',
	(SELECT count(*) FROM es.events), count(*), count(*) - count(DISTINCT (subscription, replayed, position)),
	(SELECT count(*) FROM finished), max(attempt)) FROM delivered)), ", $left left in the end";
$_->quit foreach @idle;

$node->stop;
done_testing();
