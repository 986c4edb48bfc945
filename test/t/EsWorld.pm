# A database with every kind of projection, and what must be true of its copies.
#
#   EsWorld::make($node, $database);             # fills a database that is there and empty
#   my $before = EsWorld::contents($node, $database);
#   EsWorld::same($node, $copy, $before, 'copy');    # log, registry and rows are as they were
#   EsWorld::goes_on($node, $copy, 'copy');          # appends, projections and guards do
#   EsWorld::whole($node, $copy, 'copy');            # nothing half done in the catalogs
#
# Needs the roles that EsWorld::roles($node) makes.  Any of the nodes may be of
# another version of PostgreSQL than the test.
package EsWorld;

use strict;
use warnings FATAL => 'all';

use Test::More;

# State tables, and what orders their rows.  The fold of each is
# (key, number of events, chain of their ids), so that an event that is lost,
# applied twice or in another order changes it.
my %states = (
	'bank.account' => 'id',
	'bank.by_type' => 'kind, day',
	'bank.off' => 'id',
	'public."odd ""name"""' => 'id',
	'parts' => 'id',
	'later' => 'id',
	'stopped' => 'id',
	'line' => 'position',
	'line_later' => 'position',
	'total' => 'id',
	'total_later' => 'id');

# The catalogs must say of each of these: nothing.
my %half_done = (
	'a projection without its table, its trigger or the trigger\'s state' => q(
SELECT p.name, t.tgenabled FROM es.projection AS p
LEFT JOIN pg_class AS c ON c.oid = p.target
LEFT JOIN pg_trigger AS t ON t.tgrelid = c.oid AND t.tgname = 'es_protect'
WHERE t.tgenabled IS DISTINCT FROM CASE WHEN p.protect THEN 'A'::"char" ELSE 'D' END),
	'a partition that is protected otherwise than its table' => q(
SELECT p.name, i.relid FROM es.projection AS p CROSS JOIN pg_partition_tree(p.target) AS i
LEFT JOIN pg_trigger AS t ON t.tgrelid = i.relid AND t.tgname = 'es_protect'
WHERE p.protect AND t.tgenabled IS DISTINCT FROM 'A'),
	'a trigger without its projection' => q(
SELECT t.tgrelid::regclass FROM pg_trigger AS t
WHERE t.tgfoid = 'es.refuse_direct_write()'::regprocedure
  AND coalesce((SELECT max(a.relid::oid) FROM pg_partition_ancestors(t.tgrelid) AS a
                WHERE a.relid IN (SELECT target FROM es.projection)), t.tgrelid)
      NOT IN (SELECT target FROM es.projection)),
	'a fold that depends on no function, or on another than its row names' => q(
SELECT p.name, p.apply, f.identity FROM es.projection AS p
LEFT JOIN pg_trigger AS t ON t.tgrelid = p.target AND t.tgname = 'es_protect'
LEFT JOIN pg_depend AS d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
                        AND d.refclassid = 'pg_proc'::regclass AND d.refobjid <> t.tgfoid
LEFT JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, 0) AS f ON d.refobjid IS NOT NULL
WHERE p.apply IS NOT NULL AND p.apply IS DISTINCT FROM f.identity),
	'statements that depend on nothing' => q(
SELECT p.name FROM es.projection AS p JOIN pg_trigger AS t ON t.tgrelid = p.target AND t.tgname = 'es_protect'
WHERE EXISTS (SELECT FROM es.projection_handler AS h WHERE h.projection = p.name AND h.statement <> 'SELECT')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n')),
	'a checkpoint too many or too few' => q(
SELECT p.name, c.projection FROM es.projection AS p
FULL JOIN es.projection_checkpoint AS c ON c.projection = p.name
WHERE (p.mode = 'async' OR NOT p.enabled) IS DISTINCT FROM (c.projection IS NOT NULL)),
	'what belongs to no projection' => q(
SELECT projection FROM es.projection_handler WHERE projection NOT IN (SELECT name FROM es.projection) UNION ALL
SELECT projection FROM es.projection_parked WHERE projection NOT IN (SELECT name FROM es.projection)),
	'a parked event that is not in the log, or not behind the checkpoint' => q(
SELECT p.projection, p.position FROM es.projection_parked AS p
LEFT JOIN es.projection_checkpoint AS c USING (projection)
WHERE p.position NOT IN (SELECT position FROM es.events) OR p.position <= c.checkpoint IS NOT TRUE),
	'a stream without its subscription, or too many or too few' => q(
SELECT s.name, t.partition FROM es.subscription AS s
CROSS JOIN LATERAL generate_series(0, s.partitions - 1) AS p
FULL JOIN (SELECT subscription AS name, partition FROM es.subscription_stream WHERE kind = 'live') AS t ON t.name = s.name AND t.partition = p
WHERE s.name IS NULL OR t.name IS NULL),
	'a parked event of no subscription' => q(
SELECT p.subscription, p.position FROM es.subscription_parked AS p
LEFT JOIN es.subscription AS s ON s.name = p.subscription LEFT JOIN es.events AS e ON e.position = p.position
WHERE s.name IS NULL OR e.position IS NULL),
	'a table of a replay' => q(SELECT relname FROM pg_class WHERE relname LIKE 'pg\_temp\_%'),
	'an invalid index' => q(SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid OR NOT indisready),
	'an aggregate whose versions have gaps, or do not follow the positions' => q(
SELECT aggregate_type, aggregate_id, version FROM (
	SELECT aggregate_type, aggregate_id, version,
	       row_number() OVER (PARTITION BY aggregate_type, aggregate_id ORDER BY position) AS number
	FROM es.events) AS e
WHERE version <> number),
	'a position or an id that comes twice' => q(
SELECT position::text FROM es.events GROUP BY position HAVING count(*) > 1 UNION ALL
SELECT event_id::text FROM es.events GROUP BY event_id HAVING count(*) > 1),
	'a position that the sequence has not come to' => q(
SELECT position FROM es.events, es.events_position_seq AS s WHERE position > s.last_value));

# Lets time pass until all leases are over, and takes all that is delivered then.
my $drain = q(
UPDATE es.subscription_stream SET lease_until = now() - interval '1 s' WHERE lease_until IS NOT NULL;
CREATE TEMP TABLE got (name text, partition integer, attempt integer, replayed boolean, position bigint);
DO $$
DECLARE
	subscription text;
	lease bigint;
BEGIN
	FOR subscription IN SELECT s.name FROM es.subscription AS s ORDER BY 1 LOOP
		LOOP
			WITH f AS MATERIALIZED (SELECT * FROM es.fetch(subscription)),
			g AS (INSERT INTO got SELECT subscription, partition, f.attempt, replayed, position FROM f)
			SELECT min(lease_id) INTO lease FROM f;
			EXIT WHEN lease IS NULL;
			PERFORM es.ack(lease);
		END LOOP;
	END LOOP;
END $$;
);

# Makes the roles that the database's objects belong to.
sub roles
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'CREATE ROLE es_keeper; CREATE ROLE es_reader');
}

# Fills a database.
sub make
{
	my ($node, $database) = @_;

	$node->safe_psql($database, _definitions());
	# All kinds of rows: wide ones, odd names, gaps where something was rolled back.
	$node->safe_psql(
		$database, q(
SELECT count(es.append('account', (n % 17)::text, (ARRAY['Noted', 'Moved', 'Other'])[n % 3 + 1],
                       jsonb_build_object('n', n), '{"user": "ada"}', NULL, NULL, 'request ' || n / 3, 'cause',
                       CASE WHEN n % 2 = 0 THEN 'web' END, '2020-01-01'::timestamptz + n * interval '1 hour', 2))
FROM generate_series(1, 400) AS n;
BEGIN;
SELECT es.append('account', '1', 'Noted', '{"n": 0}') FROM generate_series(1, 10);
ROLLBACK;
SELECT es.append('odd "names"' || E'\t\\\\', E'line\nbreak', 'Ünïcode', to_jsonb(repeat('x', 100000)));
SELECT * FROM es.append_events('order', '1', '[{"event_type": "Placed", "data": {"n": 1}}, {"event_type": "Paid", "data": null}]');
SELECT es.alter_projection('off', enabled => false);
SELECT es.run_projections(max_events => 300);
));
	# Subscriptions in the middle of leases, half acknowledged, with parked events and a playback.
	$node->safe_psql(
		$database, q(
SELECT es.create_subscription('mailer', event_types => '{Noted,Poison}', partitions => 2);
SELECT es.create_subscription('auditor', after_park => 'wait');
CREATE TEMP TABLE got (lease_id bigint, position bigint);
INSERT INTO got SELECT lease_id, position FROM es.fetch('mailer', 20, 'one', '1 day');
SELECT es.ack(lease_id, position) FROM (SELECT * FROM got ORDER BY position OFFSET 7 LIMIT 1) AS g;
TRUNCATE got;
INSERT INTO got SELECT lease_id, position FROM es.fetch('mailer', 20, 'two', '1 day');
SELECT es.nack(lease_id, position, 'unreadable', park => true) FROM (SELECT * FROM got ORDER BY position OFFSET 3 LIMIT 1) AS g;
TRUNCATE got;
SELECT count(*) FROM es.fetch('mailer', 20, 'two', '1 day');
INSERT INTO got SELECT lease_id, position FROM es.fetch('auditor', 50, NULL, '1 day');
SELECT es.ack(min(lease_id)) FROM got;
SELECT es.playback('auditor', 0, 30);
));
	# The async ones stop, park or go on where this one comes.
	$node->safe_psql($database, q(SELECT es.append('account', '2', 'Poison', '{"n": "many"}')));
	$node->safe_psql($database, q(SELECT es.append('account', '3', 'Noted', '{"n": 7}')));
	$node->psql($database, "SELECT es.run_projections('$_')") foreach qw(later stopped line_later);
	$node->safe_psql($database, q(SELECT es.append('account', '4', 'Noted', '{"n": 8}')));
	is( $node->safe_psql(
			$database, q(SELECT string_agg(name || ' ' || kind || ' ' || mode || ' ' || status || ' ' || parked, E'\n' ORDER BY name)
FROM es.projections)),
		join("\n",
			'account fold inline running 0', 'by_type fold inline running 0',
			'it\'s "odd" fold inline running 0', 'later fold async running 1',
			'line statement inline running 0', 'line_later statement async running 0',
			'off fold inline disabled 0', 'parts fold inline running 0',
			'stopped fold async stopped 0', 'total batch inline running 0',
			'total_later batch async running 0'),
		"$database: what there is");
	whole($node, $database, $database);
	return;
}

# Returns what a copy must have, by name.
sub contents
{
	my ($node, $database) = @_;
	my %queries = (
		'the log' => 'SELECT e::text FROM es.events AS e ORDER BY position',
		'the sequence' => 'SELECT last_value, is_called FROM es.events_position_seq',
		'the projections' => 'SELECT p::text FROM es.projections AS p ORDER BY name',
		'the registry' => 'SELECT p::text FROM es.projection AS p ORDER BY name',
		'the statements' => 'SELECT h::text FROM es.projection_handler AS h ORDER BY projection, event_type',
		'the checkpoints' => 'SELECT c::text FROM es.projection_checkpoint AS c ORDER BY projection',
		'the parked events' => 'SELECT p::text FROM es.projection_parked AS p ORDER BY projection, position',
		'the subscriptions' => 'SELECT s::text FROM es.subscription_streams AS s ORDER BY name, partition, kind',
		'the writers' => 'SELECT w::text FROM es.writer AS w ORDER BY 1',
		'their rows' => 'SELECT s::text FROM es.subscription AS s ORDER BY name',
		'their streams' => 'SELECT s::text FROM es.subscription_stream AS s ORDER BY stream',
		'their parked events' => 'SELECT p::text FROM es.subscription_parked AS p ORDER BY subscription, position',
		'the sequence of streams' => 'SELECT last_value, is_called FROM es.subscription_stream_seq',
		'what the subscriptions deliver' => "BEGIN; $drain TABLE got ORDER BY name, partition, replayed, position; ROLLBACK",
		'the triggers' =>
		  q(SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgrelid::regclass::text, tgname),
		'the owners and rights' => q(SELECT c.oid::regclass, relowner::regrole,
       -- An owner has the privileges that his version of PostgreSQL knows.
       ARRAY(SELECT a::text FROM unnest(relacl) AS a WHERE a::text NOT LIKE relowner::regrole || '=%')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE nspname IN ('es', 'bank', 'public') AND relkind <> 'i' ORDER BY c.oid::regclass::text));

	$queries{"the rows of $_"} = "SELECT tableoid::regclass, t::text FROM $_ AS t ORDER BY $states{$_}" foreach keys %states;
	return { map { $_ => _ask($node, $database, $queries{$_}) } keys %queries };
}

# Compares a copy with what contents() has returned; @but are not to be compared.
sub same
{
	my ($node, $database, $before, $what, @but) = @_;
	my $after = contents($node, $database);

	delete @$_{@but} foreach $before, $after;
	is_deeply($after, $before, "$what: everything is as it was");
	return;
}

# Looks for what must not be in the catalogs; @but is not looked for.
sub whole
{
	my ($node, $database, $what, @but) = @_;
	my %queries = %half_done;

	delete @queries{@but};
	my @found = grep { _ask($node, $database, $queries{$_}) ne '' } sort keys %queries;
	is(join('; ', @found), '', "$what: nothing is half done in the catalogs")
	  or diag map { "$_: " . _ask($node, $database, $queries{$_}) . "\n" } @found;
	return;
}

# Appends to a copy and brings its projections up to date: in the end they are what the log says.
sub goes_on
{
	my ($node, $database, $what) = @_;
	my $name = $what;
	my $last = _ask($node, $database, 'SELECT max(position) FROM es.events');

	is( _ask(
			$node, $database, q(
CREATE TEMP TABLE before AS
SELECT aggregate_type, aggregate_id, max(version) AS version, max(position) AS position FROM es.events GROUP BY 1, 2;
CREATE TEMP TABLE retried AS SELECT * FROM es.events WHERE event_type IN ('Paid', 'Ünïcode');
SELECT count(*) FROM before WHERE es.append(aggregate_type, aggregate_id, 'Noted', '{"n": 5}', expected_version => version) <> version + 1;
SELECT count(*) - (SELECT count(*) FROM before) FROM before AS b JOIN es.events AS e USING (aggregate_type, aggregate_id)
WHERE e.version = b.version + 1 AND e.position > (SELECT max(position) FROM before);
SELECT count(*) - count(*) FILTER (WHERE es.append(aggregate_type, aggregate_id, event_type, data, event_id => event_id) = version)
FROM retried;
SELECT es.append('new', '1', 'Noted', '{"n": 6}', expected_version => 0);
SELECT es.high_water_mark() - max(position), (SELECT count(*) FROM es.read_all(max_count => NULL)) - count(*) FROM es.events;)),
		"0\n0\n0\n1\n0|0",
		"$name: versions, positions, retries and the mark go on");

	foreach my $guarded (
		[ 'DELETE FROM es.events', qr/append-only/ ],
		[ 'UPDATE es.events SET data = data', qr/append-only/ ],
		[ 'TRUNCATE es.events', qr/append-only/ ],
		[ 'UPDATE bank.account SET events = 0', qr/is a state table/ ],
		[ 'DELETE FROM parts_b', qr/is a partition of state table/ ],
		[ 'DELETE FROM total_later', qr/is a state table/ ],
		[ 'DROP FUNCTION bank.account_apply(bank.account, es.events)', qr/depend|uses it/ ],
		[ 'ALTER TABLE helper RENAME COLUMN one TO two', qr/does not exist|SE007|invalid/ ],
		[ 'DROP TABLE helper', qr/depend/ ])
	{
		my ($sql, $expected) = @$guarded;
		my ($ret, undef, $error) = $node->psql($database, "BEGIN; $sql; ROLLBACK", on_error_stop => 1);

		like($error, $expected, "$name: $sql is refused");
	}

	# What has been put aside or has stopped goes on as well, once nothing is wrong with the event.
	_ask($node, $database, q(SELECT es.run_projections('stopped')));
	is(_ask($node, $database, q(SELECT status FROM es.projections WHERE name = 'stopped')), 'stopped', "$name: what has stopped stops again");
	_ask($node, $database, 'UPDATE allowed SET poison = true');
	is(_ask($node, $database, q(SELECT es.retry_parked('later'))), '1', "$name: a parked event is retried");
	_ask($node, $database, q(
SELECT es.run_projections('stopped');
SELECT es.run_projections();
SELECT es.alter_projection('off', enabled => true);
ALTER TABLE bank.by_type ADD COLUMN more integer;
ALTER TABLE bank.by_type DROP COLUMN more;));
	is(_ask($node, $database, q(SELECT name, status, lag, parked FROM es.projections WHERE status <> 'running' OR lag <> 0 OR parked <> 0)),
		'', "$name: no projection is behind");
	_subscriptions_go_on($node, $database, $name, $last);
	right($node, $database, $name);
	is( _ask($node, $database, q(
SELECT string_agg(rows::text, ' ' ORDER BY name)
FROM es.projections CROSS JOIN LATERAL es.replay(name) WHERE name IN ('account', 'by_type', 'parts'))),
		_ask($node, $database, 'SELECT (SELECT count(*) FROM bank.account) || \' \' || (SELECT count(*) FROM bank.by_type) || \' \' || (SELECT count(*) FROM parts)'),
		"$name: replays");
	_ask($node, $database, "SELECT rows FROM es.replay('$_')") foreach qw(line total total_later);
	right($node, $database, "$name, replayed");
	whole($node, $database, $name);
	return;
}

# What is delivered after the appends is each of their events, once.
sub _subscriptions_go_on
{
	my ($node, $database, $what, $last) = @_;

	is( _ask($node, $database, "BEGIN; $drain COMMIT;
SELECT name, replayed, count(*), count(DISTINCT position) FROM got WHERE position > $last GROUP BY 1, 2 ORDER BY 1, 2;
"),
		join("\n", map { "$_|f|" . _ask($node, $database,
			"SELECT count(*), count(*) FROM es.events WHERE position > $last AND event_type = 'Noted'") } qw(auditor mailer)),
		"$what: subscriptions deliver what is new, once");
	is(_ask($node, $database, 'SELECT * FROM es.subscription_streams WHERE lag > 0 OR lease_id IS NOT NULL'),
		'', "$what: no subscription is behind");
	return;
}

# The rows of all projections are what the log says: that is found out with SQL,
# and by es.verify_projection().  'later' has applied its parked event last.
sub right
{
	my ($node, $database, $what) = @_;

	is(_ask($node, $database, 'SELECT * FROM wrong LIMIT 10'), '', "$what: the rows are what the log says");
	is( _ask($node, $database, q(
SELECT name, v.* FROM es.projections AS p CROSS JOIN LATERAL es.verify_projection(name) AS v
WHERE kind = 'fold' AND name <> 'later' LIMIT 10)),
		'', "$what: so says es.verify_projection()");
	return;
}

# Runs SQL with output in one time zone.
sub _ask
{
	my ($node, $database, $sql) = @_;

	return $node->safe_psql($database, "SET TimeZone = 'UTC'; SET client_min_messages = warning;\n$sql");
}

# Returns the SQL that makes the tables, functions and projections.
sub _definitions
{
	my $sql = q(
CREATE EXTENSION pg_eventsourcing;
SELECT es.grant_reader('es_keeper'), es.grant_reader('es_reader');
SELECT es.grant_writer('es_keeper', '{order}');
GRANT INSERT ON es.events TO es_keeper;
CREATE SCHEMA bank;
GRANT ALL ON SCHEMA bank, public TO es_keeper;

CREATE FUNCTION link(chain text, event_id uuid) RETURNS text
LANGUAGE sql IMMUTABLE RETURN md5(coalesce(chain, '') || event_id::text);
CREATE AGGREGATE chain(uuid) (sfunc = link, stype = text, initcond = '');
CREATE DOMAIN quantity AS bigint CHECK (VALUE > 0);

CREATE TABLE allowed (poison boolean);
INSERT INTO allowed VALUES (false);
-- Not quite immutable, so that what fails can be made to work.
CREATE FUNCTION allow(event_type text) RETURNS quantity LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF event_type = 'Poison' AND NOT (SELECT poison FROM public.allowed) THEN
		RAISE EXCEPTION 'not now';
	END IF;
	RETURN 1;
END $$;
);
	my $fold = sub {
		my ($table, $columns, $key, $one, $type_of_key) = @_;
		my ($function) = $table =~ /"/ ? ('public."odd ""apply"""') : ("${table}_apply");

		$sql .= "
CREATE TABLE $table ($columns);
CREATE FUNCTION $function(state $table, event es.events) RETURNS $table LANGUAGE sql IMMUTABLE
RETURN ROW($key, coalesce(state.events, 0) + $one, link(state.chain, event.event_id))::$table;";
	};
	my $columns = 'id text PRIMARY KEY, events quantity NOT NULL, chain text';

	$fold->('bank.off', $columns, 'event.aggregate_id', 1);
	$fold->('public."odd ""name"""', $columns, 'event.aggregate_id', 1);
	$fold->('later', $columns, 'event.aggregate_id', 'allow(event.event_type)');
	$fold->('stopped', $columns, 'event.aggregate_id', 'allow(event.event_type)');
	$fold->('parts', 'id text PRIMARY KEY, events quantity NOT NULL, chain text) PARTITION BY LIST (id', 'event.aggregate_id', 1);
	return $sql . q(
CREATE TABLE bank.by_type (kind text, day date, events quantity NOT NULL, chain text, PRIMARY KEY (day, kind));
CREATE FUNCTION bank.by_type_apply(state bank.by_type, event es.events) RETURNS bank.by_type LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(event.event_type, (event.occurred_at AT TIME ZONE 'UTC')::date, (coalesce(state.events, 0) + 1)::public.quantity,
	           public.link(state.chain, event.event_id));
END $$;

CREATE TABLE parts_a (chain text, events quantity NOT NULL, id text NOT NULL);
ALTER TABLE parts ATTACH PARTITION parts_a FOR VALUES IN ('1', '2', '3');
CREATE TABLE parts_b PARTITION OF parts DEFAULT PARTITION BY HASH (id);
CREATE TABLE parts_b0 PARTITION OF parts_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_b1 PARTITION OF parts_b FOR VALUES WITH (MODULUS 2, REMAINDER 1);

CREATE TABLE bank.account (id text PRIMARY KEY, events quantity NOT NULL, chain text,
                           twice bigint GENERATED ALWAYS AS (events * 2) STORED);
CREATE INDEX ON bank.account (events);
CREATE FUNCTION bank.account_apply(state bank.account, event es.events) RETURNS bank.account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.events, 0) + 1, link(state.chain, event.event_id), NULL)::bank.account;
CREATE TABLE audit (id bigserial PRIMARY KEY, account text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN INSERT INTO public.audit (account) VALUES (new.id); RETURN NULL; END$$;
CREATE TRIGGER audit AFTER INSERT ON bank.account FOR EACH ROW EXECUTE FUNCTION audit();
CREATE VIEW bank.largest AS SELECT * FROM bank.account ORDER BY events DESC LIMIT 3;

CREATE TABLE helper (one integer PRIMARY KEY);
INSERT INTO helper VALUES (1);
CREATE TABLE line (position bigint PRIMARY KEY, event_id uuid NOT NULL);
CREATE TABLE line_later (position bigint PRIMARY KEY, event_id uuid NOT NULL);
CREATE TABLE total (id text PRIMARY KEY, events quantity NOT NULL);
CREATE TABLE total_later (id text PRIMARY KEY, events quantity NOT NULL);

ALTER TABLE bank.off OWNER TO es_keeper;
ALTER FUNCTION bank.off_apply OWNER TO es_keeper;
ALTER TABLE total_later OWNER TO es_keeper;

SELECT es.create_projection('account', 'bank.account', 'bank.account_apply');
SELECT es.create_projection('by_type', 'bank.by_type', 'bank.by_type_apply(bank.by_type, es.events)',
                            key => $$(occurred_at AT TIME ZONE 'UTC')::date, event_type$$, protect => false);
SELECT es.create_projection('off', 'bank.off', 'bank.off_apply');
SELECT es.create_projection($$it's "odd"$$, '"odd ""name"""', '"odd ""apply"""', event_types => '{Noted,Ünïcode,"odd, \"type\""}');
SELECT es.create_projection('parts', 'parts', 'parts_apply');
SELECT es.create_projection('later', 'later', 'later_apply', mode => 'async', on_error => 'park');
SELECT es.create_projection('stopped', 'stopped', 'stopped_apply', mode => 'async');
SELECT es.create_projection('line', 'line');
SELECT es.set_handler('line', 'Noted', 'INSERT INTO line SELECT event.position, event.event_id FROM helper WHERE one = 1');
SELECT es.set_handler('line', 'Other', 'SELECT');
SELECT es.set_handler('line', NULL, 'INSERT INTO line VALUES (event.position, event.event_id)');
SELECT es.create_projection('line_later', 'line_later', aggregate_types => '{account,new}', mode => 'async');
SELECT es.set_handler('line_later', NULL, 'INSERT INTO line_later VALUES (event.position, event.event_id)');
SELECT es.create_projection('total', 'total');
SELECT es.set_batch_handler('total', $$
	INSERT INTO total AS t SELECT aggregate_id, count(*) FROM events GROUP BY 1
	ON CONFLICT (id) DO UPDATE SET events = t.events + excluded.events$$);
SET ROLE es_keeper;
SELECT es.create_projection('total_later', 'total_later', event_types => '{Noted,Poison}', mode => 'async');
SELECT es.set_batch_handler('total_later', $$
	INSERT INTO public.total_later AS t SELECT aggregate_id, count(*) FROM events GROUP BY 1
	ON CONFLICT (id) DO UPDATE SET events = t.events + excluded.events$$);
RESET ROLE;

CREATE VIEW wrong AS
WITH fold AS (SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY position) AS chain FROM es.events GROUP BY 1),
noted AS (SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY position) AS chain FROM es.events
          WHERE event_type IN ('Noted', 'Ünïcode', 'odd, "type"') GROUP BY 1),
parked_last AS (SELECT aggregate_id AS id, count(*) AS events, chain(event_id ORDER BY event_type = 'Poison' AND later, position) AS chain
                FROM es.events, (SELECT EXISTS (SELECT FROM later WHERE chain NOT IN (SELECT chain FROM fold))) AS l (later) GROUP BY 1),
by_type AS (SELECT event_type AS kind, (occurred_at AT TIME ZONE 'UTC')::date AS day, count(*) AS events,
                   chain(event_id ORDER BY position) AS chain FROM es.events GROUP BY 1, 2),
counted AS (SELECT aggregate_id AS id, count(*) AS events FROM es.events WHERE event_type IN ('Noted', 'Poison') GROUP BY 1)
SELECT 'account ' || id AS what FROM fold AS f FULL JOIN bank.account AS s USING (id)
WHERE (f.events, f.chain, f.events * 2) IS DISTINCT FROM (s.events, s.chain, s.twice) UNION ALL
SELECT 'by_type ' || kind || day FROM by_type AS f FULL JOIN bank.by_type AS s USING (kind, day)
WHERE (f.events, f.chain) IS DISTINCT FROM (s.events, s.chain) UNION ALL
SELECT 'off ' || id FROM fold AS f FULL JOIN bank.off AS s USING (id)
WHERE (f.events, f.chain) IS DISTINCT FROM (s.events, s.chain) UNION ALL
SELECT 'odd ' || id FROM noted AS f FULL JOIN "odd ""name""" AS s USING (id)
WHERE (f.events, f.chain) IS DISTINCT FROM (s.events, s.chain) UNION ALL
SELECT 'parts ' || id FROM fold AS f FULL JOIN parts AS s USING (id)
WHERE (f.events, f.chain) IS DISTINCT FROM (s.events, s.chain) UNION ALL
SELECT 'later ' || id FROM parked_last AS f FULL JOIN later AS s USING (id)
WHERE (f.events, f.chain) IS DISTINCT FROM (s.events, s.chain) UNION ALL
SELECT 'stopped ' || id FROM fold AS f FULL JOIN stopped AS s USING (id)
WHERE (f.events, f.chain) IS DISTINCT FROM (s.events, s.chain) UNION ALL
SELECT 'line ' || position FROM (SELECT * FROM es.events WHERE event_type <> 'Other') AS e FULL JOIN line AS s USING (position)
WHERE e.event_id IS DISTINCT FROM s.event_id UNION ALL
SELECT 'line_later ' || position FROM (SELECT * FROM es.events WHERE aggregate_type IN ('account', 'new')) AS e FULL JOIN line_later AS s USING (position)
WHERE e.event_id IS DISTINCT FROM s.event_id UNION ALL
SELECT 'total ' || id FROM fold AS f FULL JOIN total AS s USING (id) WHERE f.events IS DISTINCT FROM s.events UNION ALL
SELECT 'total_later ' || id FROM counted AS f FULL JOIN total_later AS s USING (id) WHERE f.events IS DISTINCT FROM s.events;
);
}

1;
