# Events that kill whoever works on them: consumers that fetch many events and die on
# one of them.  The leases that follow are for fewer and fewer events, until
# it is clear which one is to blame; it is put aside, with the reason, and all others
# get through.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('poison');
$node->init;
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE work (subscription text, position bigint, PRIMARY KEY (subscription, position));
CREATE TABLE fetched (n serial, subscription text, events integer, attempt integer);

-- Fetches and works; in a transaction of its own, since the next one may be the last.
CREATE PROCEDURE consume(name text, max_count integer, INOUT events integer) LANGUAGE plpgsql AS $$
DECLARE
	positions bigint[];
	poison boolean;
	lease bigint;
BEGIN
	SELECT array_agg(position), bool_or(event_type = 'Poison'), max(lease_id), count(*)
	  INTO positions, poison, lease, events FROM es.fetch(name, max_count, lease => CASE WHEN name = 'slow' THEN interval '1 us' ELSE '10 ms' END);
	INSERT INTO fetched (subscription, events) VALUES (name, events);
	COMMIT;
	IF poison THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
	END IF;
	IF events > 0 THEN
		INSERT INTO work SELECT name, unnest(positions);
		PERFORM es.ack(lease);
	END IF;
END $$;
SELECT count(es.append('a', 'a' || i % 10, CASE WHEN i IN (57, 230) THEN 'Poison' ELSE 'Happened' END)) FROM generate_series(1, 300) AS i;
SELECT es.create_subscription('poison');
SELECT es.create_subscription('hasty', max_attempts => 2);
SELECT es.create_subscription('wait', max_attempts => 3, after_park => 'wait');
));

# Consumes until nothing is left; returns how many have died.
sub consume
{
	my ($name, $max_count) = @_;
	my $deaths = 0;
	my $idle = 0;

	while ($idle < 3)
	{
		my ($ret, $stdout, $stderr) = $node->psql('postgres', "CALL consume('$name', $max_count, NULL)");

		$deaths++ if $ret != 0;
		like($stderr, qr/terminating connection|^$/, "$name: no error") if $ret != 0 && $stderr !~ /terminating connection/;
		# A lease of one who has died runs out before long.
		$idle = $ret == 0 && $stdout eq '0' && $node->safe_psql('postgres', "SELECT count(*) FROM es.subscription_streams WHERE name = '$name' AND lease_id IS NOT NULL") eq '0' ? $idle + 1 : 0;
		die "$name: too many have died\n" if $deaths > 400;
	}
	return $deaths;
}

my $deaths = consume('poison', 100);
is($node->safe_psql('postgres', q(SELECT position, event_type, attempts > 0, reason ~ '^the lease has run out' FROM es.parked_events WHERE subscription = 'poison' ORDER BY position)),
	"57|Poison|t|t\n230|Poison|t|t", 'both are put aside, with the reason');
is($node->safe_psql('postgres', q(SELECT count(*) FROM work WHERE subscription = 'poison')), '298', 'all others get through');
is($node->safe_psql('postgres', q(SELECT max(events), bool_or(events = 50), bool_or(events = 25), bool_or(events = 1) FROM fetched WHERE subscription = 'poison')),
	'100|t|t|t', 'leases are for half as many events each time');
is($node->safe_psql('postgres', q(SELECT lag FROM es.subscription_streams WHERE name = 'poison' AND kind = 'live')), '0', 'nothing is left');
note "$deaths consumers died, ", $node->safe_psql('postgres', q(SELECT string_agg(events::text, ' ' ORDER BY n) FROM fetched WHERE subscription = 'poison'));
cmp_ok($deaths, '<=', 40, 'not too many had to die for it');

# Once more: they are as poisonous as before.
$node->safe_psql('postgres', q(SELECT es.retry_parked('poison')));
$deaths = consume('poison', 100);
is($node->safe_psql('postgres', q(SELECT string_agg(position::text, ' ' ORDER BY position) FROM es.parked_events WHERE subscription = 'poison')), '57 230', 'put aside again');
note "$deaths consumers died of the events that were retried";

# The poison is gone.
$node->safe_psql('postgres', q(SELECT es.retry_parked('poison');
CREATE OR REPLACE FUNCTION pg_temp.take() RETURNS bigint LANGUAGE sql AS $$ WITH f AS MATERIALIZED (SELECT * FROM es.fetch('poison')),
 w AS (INSERT INTO work SELECT 'poison', position FROM f) SELECT max(lease_id) FROM f $$;
SELECT es.ack(pg_temp.take())));
is($node->safe_psql('postgres', q(SELECT count(*) FROM work WHERE subscription = 'poison')), '300', 'and they get through');

# Fewer attempts.
$deaths = consume('hasty', 100);
is($node->safe_psql('postgres', q(SELECT string_agg(position::text, ' ' ORDER BY position) FROM es.parked_events WHERE subscription = 'hasty')), '57 230', 'two attempts: put aside');
is($node->safe_psql('postgres', q(SELECT count(*) FROM work WHERE subscription = 'hasty')), '298', 'all others get through');
cmp_ok($deaths, '<=', 10, 'with two attempts nearly none but those');

# Those that wait for it.
$deaths = consume('wait', 100);
is($node->safe_psql('postgres', q(SELECT string_agg(position::text, ' ' ORDER BY position) FROM es.parked_events WHERE subscription = 'wait')), '57 230', 'others wait: put aside');
is( $node->safe_psql(
		'postgres', q(
SELECT string_agg(position::text, ' ' ORDER BY position) FROM es.events AS e
WHERE event_type <> 'Poison' AND (position IN (SELECT position FROM work WHERE subscription = 'wait'))
   <> NOT EXISTS (SELECT FROM es.events AS p WHERE p.event_type = 'Poison' AND p.aggregate_id = e.aggregate_id AND p.position < e.position))),
	'', 'those of other aggregates, and earlier ones, get through, and no other');
note "others wait: $deaths consumers died";
$node->safe_psql('postgres', q(SELECT es.discard_parked('wait')));
consume('wait', 100);
is($node->safe_psql('postgres', q(SELECT count(*) FROM work WHERE subscription = 'wait')), '298', 'they go on when it is discarded');

$node->stop;
done_testing();
