# ALTER EXTENSION ... UPDATE.
#
# An installation that was upgraded equals a fresh one, object by object, as
# test/members.sql lists them; what is missing in the upgrade script is printed.
# What an old version holds is there afterwards and goes on: test/upgrade has, for
# each version, what its pg_dump gave for a database with projections of all
# kinds and modes.  Such a dump can be loaded into the new version, too.
use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $members = "$FindBin::RealBin/../members.sql";
my $node = PostgreSQL::Test::Cluster->new('upgrade');
$node->init;
$node->start;

my ($new, @old) = split /\n/, $node->safe_psql(
	'postgres', q(
SELECT default_version FROM pg_available_extensions WHERE name = 'pg_eventsourcing';
SELECT v.version
FROM pg_available_extension_versions AS v JOIN pg_available_extensions AS e USING (name)
WHERE name = 'pg_eventsourcing' AND v.version <> e.default_version
ORDER BY string_to_array(v.version, '.')::int[]));
ok(scalar @old, "there are older versions than $new: @old");

# Returns what the catalogs say of the extension in a database, a line each.
sub members
{
	my ($database, $contents) = @_;
	my ($stdout, $stderr) = ('', '');

	IPC::Run::run(
		[
			'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-v', "contents=$contents",
			'-d', $node->connstr($database), '-f', $members
		],
		'>', \$stdout, '2>', \$stderr);
	is($stderr, '', "$database: the catalogs are read");
	return split /\n/, $stdout;
}

# Compares an upgraded database with a fresh one, and says how they differ.
sub is_like
{
	my ($database, $fresh, $contents, $test) = @_;
	my (%upgraded, %fresh);

	$upgraded{$_}++ foreach members($database, $contents);
	$fresh{$_}++ foreach members($fresh, $contents);
	my @missing = grep { !$upgraded{$_} } sort keys %fresh;
	my @wrong = grep { !$fresh{$_} } sort keys %upgraded;
	ok(keys %fresh > 100 && !@missing && !@wrong, $test);
	diag("Missing after the upgrade (see upgrade/, and docs/upgrading.md):\n", map { "  $_\n" } @missing) if @missing;
	diag("Only there after the upgrade:\n", map { "  $_\n" } @wrong) if @wrong;
}

$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION pg_eventsourcing');
foreach my $version (@old)
{
	my $database = "empty_$version";

	$node->safe_psql('postgres', qq(CREATE DATABASE "$database"));
	$node->safe_psql($database, "CREATE EXTENSION pg_eventsourcing VERSION '$version'");
	my ($status, undef, $error) = $node->psql($database, q(SELECT es.append('a', '1', 'A')));
	like($error, qr/version \Q$version\E in this database.*HINT:  Run ALTER EXTENSION/s, "$version: nothing can be done before the upgrade");
	$node->safe_psql($database, 'ALTER EXTENSION pg_eventsourcing UPDATE');
	is_like($database, 'fresh', 'true', "$version: upgraded equals fresh");
	is($node->safe_psql($database, q(SELECT es.append('a', '1', 'A'))), '1', "$version: and works");
}

# Privileges that roles were granted stay as they are, and are dumped.
sub initial_privileges
{
	my ($database) = @_;

	return $node->safe_psql(
		$database, q(
SELECT pg_describe_object(classoid, objoid, objsubid), (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(initprivs) AS a)
FROM pg_init_privs WHERE privtype = 'e' ORDER BY 1));
}

$node->safe_psql('postgres', 'CREATE ROLE app; CREATE ROLE clerk');
foreach my $version (@old)
{
	my $database = "granted_$version";

	$node->safe_psql('postgres', qq(CREATE DATABASE "$database"));
	$node->safe_psql($database, "CREATE EXTENSION pg_eventsourcing VERSION '$version'");
	$node->safe_psql(
		$database, q(
GRANT USAGE ON SCHEMA es TO app;
GRANT SELECT, INSERT ON es.events TO app WITH GRANT OPTION;
GRANT SELECT (position, version) ON es.events TO clerk;
SET ROLE app;
GRANT SELECT ON es.events TO clerk;
RESET ROLE;
GRANT USAGE ON SEQUENCE es.events_position_seq TO app;
GRANT EXECUTE ON FUNCTION es.replays() TO app;
GRANT SELECT ON es.projections TO app;));
	my $grants = sub {
		my ($dump) = run_command([ 'pg_dump', '-s', '-d', $node->connstr($database) ]);

		return join "\n", sort grep { /^GRANT .* TO (app|clerk)/ } split /\n/, $dump;
	};
	my $before = $grants->();
	is(scalar(split /\n/, $before), 8, "$version: privileges that are dumped");
	$node->safe_psql($database, 'ALTER EXTENSION pg_eventsourcing UPDATE');
	is($grants->(), $before, "$version: they are the same after an upgrade");
	is(initial_privileges($database), initial_privileges('fresh'), "$version: and not the extension's");
	$node->safe_psql($database, 'DROP OWNED BY app CASCADE; DROP OWNED BY clerk');
	is_like($database, 'fresh', 'false', "$version: without them it equals a fresh installation");
}
$node->safe_psql('postgres', 'DROP ROLE app; DROP ROLE clerk');

# Whoever upgrades, what is new belongs to the owner of the extension, who need be
# no superuser by then.  What others have in the schema is left alone.
$node->safe_psql('postgres', 'CREATE ROLE keeper SUPERUSER; CREATE ROLE app; CREATE DATABASE fresh_keeper');
$node->safe_psql('fresh_keeper', 'SET ROLE keeper; CREATE EXTENSION pg_eventsourcing');
foreach my $version (@old)
{
	my $database = "kept_$version";
	my $rights = q(SELECT coalesce(p.proacl::text, '-'), count(i.*) FROM pg_proc AS p LEFT JOIN pg_init_privs AS i
		ON i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid WHERE p.oid = 'es.mine()'::regprocedure GROUP BY 1);

	$node->safe_psql('postgres', qq(CREATE DATABASE "$database"));
	$node->safe_psql(
		$database, qq(
SET ROLE keeper;
CREATE EXTENSION pg_eventsourcing VERSION '$version';
CREATE FUNCTION es.mine() RETURNS integer LANGUAGE sql RETURN 1;
GRANT EXECUTE ON FUNCTION es.mine() TO app));
	my $before = $node->safe_psql($database, $rights);
	like($before, qr/^\{=X\/keeper,keeper=X\/keeper,app=X\/keeper\}\|0$/, "$version: rights on an object of others");
	$node->safe_psql($database, 'ALTER EXTENSION pg_eventsourcing UPDATE');
	is($node->safe_psql($database, $rights), $before, "$version: they are the same after an upgrade, and not the extension's");
	$node->safe_psql($database, 'DROP FUNCTION es.mine()');
	is_like($database, 'fresh_keeper', 'true', "$version: upgraded by another superuser it equals a fresh installation");

	$database = "demoted_$version";
	$node->safe_psql('postgres', qq(CREATE DATABASE "$database"));
	$node->safe_psql($database, "SET ROLE keeper; CREATE EXTENSION pg_eventsourcing VERSION '$version'");
	$node->safe_psql('postgres', 'ALTER ROLE keeper NOSUPERUSER');
	$node->safe_psql($database, 'ALTER EXTENSION pg_eventsourcing UPDATE');
	is( $node->safe_psql(
			$database, q(
SET ROLE keeper;
SELECT count(*) FROM es.projections;
SELECT es.grant_reader('app');
SELECT es.append('a', '1', 'A');
SELECT es.create_subscription('s');
SELECT count(*) FROM es.fetch('s');
SELECT count(*) FROM es.subscriptions)),
		"0\n\n1\n\n1\n1", "$version: an owner who is no superuser has the use of all that is new");
	$node->safe_psql('postgres', 'ALTER ROLE keeper SUPERUSER');
}

# What there is, read without the extension's functions.
my $contents = q(
SELECT 'log', count(*), md5(string_agg(e::text, '|' ORDER BY position)) FROM es.events AS e;
SELECT 'sequence', last_value, is_called FROM es.events_position_seq;
SELECT 'projection', name, target, apply, key, aggregate_types, event_types, mode, on_error, protect, settings, enabled FROM es.projection ORDER BY name;
SELECT 'checkpoint', projection, checkpoint, stopped, error, error_position FROM es.projection_checkpoint ORDER BY projection;
SELECT 'parked', projection, position, reason, parked_at FROM es.projection_parked;
SELECT 'handler', projection, event_type, batch, statement FROM es.projection_handler ORDER BY 2, 3;
SELECT t FROM bank.account AS t ORDER BY id;
SELECT t FROM bank.later AS t ORDER BY id;
SELECT t FROM bank.off AS t ORDER BY id;
SELECT tableoid::regclass, t FROM bank.by_hour AS t ORDER BY t;
SELECT t FROM line AS t ORDER BY position;
SELECT t FROM total AS t ORDER BY id;);

# Checks that log and projections of a database go on where the old version left them.
sub goes_on
{
	my ($database) = @_;

	is( $node->safe_psql(
			$database, q(SELECT name, kind, mode, status, checkpoint, lag, parked FROM es.projections ORDER BY name)),
		'account|fold|inline|running||0|0
by hour|fold|inline|running||0|0
later|fold|async|running|62|1|1
line|statement|inline|running||0|0
off|fold|inline|disabled|61|2|0
total|batch|async|running|62|1|0', "$database: projections");
	is($node->safe_psql($database, q(SELECT es.high_water_mark())), '63', "$database: the mark");
	is( $node->safe_psql(
			$database, q(
SELECT es.append('account', '2', 'Noted', '{"n": 7}', expected_version => 10, source => 'EUR', occurred_at => '2026-01-01 00:30+00');
SELECT balance FROM bank.account WHERE id = '2';
TABLE bank.by_hour_am ORDER BY 1 LIMIT 1;
SELECT n FROM line ORDER BY position DESC LIMIT 1;
SELECT position FROM es.events ORDER BY position DESC LIMIT 1)),
		"11\n282\n0|EUR|1\n7\n64", "$database: the next event");
	my ($status, undef, $error) = $node->psql($database, 'UPDATE bank.by_hour_am SET n = 0');
	like($error, qr/is a partition of state table/, "$database: state tables are protected");
	is($node->safe_psql($database, 'UPDATE bank.off SET balance = balance RETURNING 1') ne '', 1, "$database: but for one");
	is($node->safe_psql($database, 'SELECT es.run_projections()'), '4', "$database: async projections go on");
	is( $node->safe_psql(
			$database, q(
SELECT es.alter_projection('off', enabled => true);
SELECT count(*) FROM bank.account JOIN bank.later USING (id, balance) JOIN bank.off USING (id, balance) JOIN total USING (id) WHERE total.n = balance)),
		"\n7", "$database: and all of them agree");
	foreach my $projection ('account', 'off', 'by hour', 'line', 'total')
	{
		my $before = $node->safe_psql($database, "SELECT count(*) FROM bank.account; $contents");

		$node->safe_psql($database, "SELECT es.replay('$projection')");
		is($node->safe_psql($database, "SELECT count(*) FROM bank.account; $contents"), $before, "$database: a replay of \"$projection\" changes nothing");
		is($node->safe_psql($database, "SELECT count(*) FROM es.verify_projection('$projection')"), '0', "$database: \"$projection\" is what the log says")
			unless $projection eq 'line' || $projection eq 'total';
	}
	is($node->safe_psql($database, q(SELECT es.discard_parked('later'))), '1', "$database: the parked event");
}

foreach my $fixture (sort glob "$FindBin::RealBin/../upgrade/*.sql")
{
	my ($version) = $fixture =~ m,([^/]+)\.sql$,;
	my $dump = slurp_file($fixture);
	my $database = "upgraded_$version";

	# Into the old version.  Its functions can't be called by now, so triggers
	# are off: the rows are as they were anyway.
	$node->safe_psql('postgres', qq(CREATE DATABASE "$database"));
	$node->safe_psql($database, "CREATE EXTENSION pg_eventsourcing VERSION '$version'");
	my %enabled = map { split /\|/ } split /\n/, $node->safe_psql($database, 'SELECT evtname, evtenabled FROM pg_event_trigger');
	$node->safe_psql($database, join ';', map { "ALTER EVENT TRIGGER $_ DISABLE" } sort keys %enabled);
	(my $into_old = $dump) =~ s/^CREATE SCHEMA es;$//m;
	$node->safe_psql($database, "SET session_replication_role = replica;\n$into_old");
	$node->safe_psql($database, join ';',
		map { "ALTER EVENT TRIGGER $_ ENABLE" . ($enabled{$_} eq 'A' ? ' ALWAYS' : '') } sort keys %enabled);
	my $before = $node->safe_psql($database, $contents);
	like($before, qr/^log\|62\|/, "$version: there is something to upgrade");

	$node->safe_psql($database, 'ALTER EXTENSION pg_eventsourcing UPDATE');
	is($node->safe_psql($database, $contents), $before, "$version: an upgrade changes nothing");
	is_like($database, 'fresh', 'false', "$version: an upgrade with projections equals a fresh installation");
	goes_on($database);

	# The dump of the old version, loaded into the new one.
	$database = "loaded_$version";
	$node->safe_psql('postgres', qq(CREATE DATABASE "$database"));
	command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database), '-f', $fixture ],
		"$version: its dump loads");
	is($node->safe_psql($database, $contents), $before, "$version: its dump has everything");
	is_like($database, 'fresh', 'false', "$version: loading its dump gives a fresh installation");
	goes_on($database);
}

$node->stop;
done_testing();
