# The worker is nobody's session, and works for all owners in turn.  What the code
# of one does there, it does as this owner, and leaves nothing behind for the next
# one or for the worker.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('worker_roles');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
shared_preload_libraries = 'pg_eventsourcing'
es.worker_databases = 'postgres'
));
$node->start;

$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE ROLE mallory; CREATE ROLE alice;
SELECT es.grant_reader('mallory'), es.grant_reader('alice');
GRANT REFERENCES ON es.events TO mallory, alice;
CREATE SCHEMA evil AUTHORIZATION mallory;
CREATE SCHEMA alice AUTHORIZATION alice;

SET ROLE mallory;
CREATE TABLE evil.seen (place text, who text, escaped boolean);
CREATE FUNCTION evil.probe(place text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	escaped boolean := false;
BEGIN
	PERFORM set_config('search_path', 'evil', false), set_config('es.replay_workers', '7', false),
		set_config('evil.left', place, false);
	BEGIN
		PERFORM set_config('role', 'none', false);
		escaped := true;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	BEGIN
		EXECUTE 'SET SESSION AUTHORIZATION DEFAULT';
		escaped := true;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	INSERT INTO evil.seen VALUES (place, current_user, escaped);
	RETURN true;
END $$;
CREATE FUNCTION evil.trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evil.probe('trigger');
	RETURN NEW;
END $$;
CREATE FUNCTION evil.key(id text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.probe('key');
	RETURN id;
END $$;
CREATE TABLE evil.fold (id text PRIMARY KEY, n bigint CHECK (evil.probe('check')));
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON evil.fold FOR EACH ROW EXECUTE FUNCTION evil.trigger();
CREATE FUNCTION evil.apply(state evil.fold, event es.events) RETURNS evil.fold LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.probe('apply');
	RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1);
END $$;
SELECT es.create_projection('evil', 'evil.fold', 'evil.apply', key => 'evil.key(aggregate_id)', mode => 'async');
CREATE TABLE evil.lines (position bigint);
SELECT es.create_projection('lines', 'evil.lines', mode => 'async');
SELECT es.set_handler('lines', NULL, $$INSERT INTO evil.lines SELECT event.position WHERE evil.probe('statement')$$);
CREATE TABLE evil.counts (n bigint);
SELECT es.create_projection('counts', 'evil.counts', mode => 'async');
SELECT es.set_batch_handler('counts', $$INSERT INTO evil.counts SELECT count(*) FROM events WHERE evil.probe('batch')$$);

-- Where alice's code would go astray, had it mallory's search_path.
CREATE FUNCTION evil.upper(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM evil.probe('upper'); RETURN 'evil'; END $$;
SET ROLE alice;
CREATE TABLE alice.fold (id text PRIMARY KEY, who text, path text, left_behind text);
CREATE FUNCTION alice.apply(state alice.fold, event es.events) RETURNS alice.fold LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(upper(event.aggregate_id), current_user::text, current_setting('search_path'), current_setting('evil.left', true));
END $$;
SELECT es.create_projection('zz alice', 'alice.fold', 'alice.apply', mode => 'async', key => 'upper(aggregate_id)');
));

# Twice, so that the second run of alice's comes after mallory's, whatever the order.
for my $round (1, 2)
{
	my $at = $node->safe_psql('postgres',
		q(SELECT max(position) FROM es.append_events('a', 'x', '[{"event_type": "X"}, {"event_type": "X"}]')));
	is($node->safe_psql('postgres', "SELECT es.wait_for('$_', $at, '20s')"), 't', "round $round: the worker has run $_")
	  foreach 'evil', 'lines', 'counts', 'zz alice';
}
is( $node->safe_psql('postgres', q(SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM evil.seen)),
	'apply batch check key statement trigger',
	'all of mallory\'s code has run');
is($node->safe_psql('postgres', q(SELECT DISTINCT who, escaped FROM evil.seen)), 'mallory|f', 'and as mallory only');
is($node->safe_psql('postgres', q(TABLE alice.fold)), 'X|alice|"$user", public, pg_temp|', 'alice\'s code has run as if mallory was not there');
is( $node->safe_psql('postgres', q(SELECT count(*) FROM es.projections WHERE status <> 'running' OR parked <> 0)),
	0, 'no projection has failed');

$node->stop;
done_testing();
