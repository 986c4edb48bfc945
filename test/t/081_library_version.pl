# A library and SQL objects that are not of the same version.
#
# The server runs from a copy of the installation, in which the library is
# replaced by one that says it is of another version, as an update of packages
# does.  Sessions that have loaded the old one go on until the upgrade.
use strict;
use warnings FATAL => 'all';

use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Copies the installation: programs, libraries and shared files keep their places
# to each other, by which PostgreSQL finds them.
my $copy = PostgreSQL::Test::Utils::tempdir();
my %dir;
foreach my $kind ('bindir', 'pkglibdir', 'sharedir')
{
	chomp($dir{$kind} = `pg_config --$kind`);
}
my $root = $dir{bindir};
$root = dirname($root) while grep { index("$_/", "$root/") != 0 } values %dir;
foreach my $kind (sort keys %dir)
{
	my $place = $copy . substr($dir{$kind}, length($root));

	system_or_bail('mkdir', '-p', dirname($place));
	system_or_bail('cp', '-a', $dir{$kind}, $place);
	$dir{$kind} = $place;
}

my $library = "$dir{pkglibdir}/pg_eventsourcing.so";
my $built = slurp_file($library);
my ($version) = $built =~ /pg_eventsourcing library (\d[\d.]*)\0/ or BAIL_OUT('the library has no version');

# Replaces the library as package managers do: another file under the same name.
sub install_library
{
	my ($name) = @_;
	my $length = length("pg_eventsourcing library $version") + 8;

	(my $other = $built) =~ s/(pg_eventsourcing library )\Q$version\E\0+?(?=.)/$1 . $name . "\0"/es
		if length($name) == length($version);
	$other //= $built =~ s/(pg_eventsourcing library )\Q$version\E\0{16}/$1 . $name . "\0" x (16 + length($version) - length($name))/er;
	PostgreSQL::Test::Utils::append_to_file("$library.new", $other);
	rename("$library.new", $library) or die "rename: $!";
}

# Installs version 99.0 as a whole.
sub install_99
{
	my $control = slurp_file("$dir{sharedir}/extension/pg_eventsourcing.control");

	install_library('99.0');
	$control =~ s/^default_version.*/default_version = '99.0'/m;
	unlink "$dir{sharedir}/extension/pg_eventsourcing.control";
	append_to_file("$dir{sharedir}/extension/pg_eventsourcing.control", $control);
	append_to_file("$dir{sharedir}/extension/pg_eventsourcing--$version--99.0.sql",
		"CREATE OR REPLACE FUNCTION es.version() RETURNS text LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_version';\n"
		  . 'ALTER TABLE es.projection_handler ' . join(', ', map { "ADD COLUMN later_$_ text" } 1 .. 40) . ";\n"
	);
}

my $node = PostgreSQL::Test::Cluster->new('versions', install_path => dirname($dir{bindir}));
$node->init;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->start;

my $install = q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE account (id text PRIMARY KEY, n bigint);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::account;
SELECT es.create_projection('account', 'account', 'account_apply');
SELECT es.grant_writer('clerk', '{account}');
SELECT es.append('account', '1', 'A'););
$node->safe_psql('postgres', 'CREATE ROLE clerk');
my $append = q(SELECT es.append('account', '1', 'A'));
foreach my $database ('app', 'other', 'dropped', 'late')
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, $install);
}

# A session that lasts: what it is sent is answered up to a mark.
my ($in, $out, $timer) = ('', '', IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
sub connect_session
{
	($in, $out) = ('', '');
	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('app'), '-f', '-' ], '<', \$in, '>', \$out, '2>&1', $timer);
}

# Another one, which gets its commands without being waited for.
$node->safe_psql('late', q(
CREATE TABLE line (position bigint PRIMARY KEY);
SELECT es.create_projection('line', 'line');
SELECT es.set_handler('line', NULL, 'INSERT INTO line VALUES (event.position)');));
my ($late_in, $late_out) = ("SET application_name = 'late'; SELECT es.append('account', '1', 'A');\n", '');
my $late = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('late'), '-f', '-' ], '<', \$late_in, '>', \$late_out, '2>&1', $timer);
$late->pump until $late_out =~ /^2$/m;

sub ask
{
	my ($session, $sql) = @_;

	$out = '';
	$timer->start;
	$in .= "$sql\n;\\echo (done)\n";
	$session->pump until $out =~ s/\(done\)\n//;
	return $out;
}

# Checks that a statement fails with the message and the hint, whatever it is.
sub fails_like
{
	my ($database, $sql, $pattern, $test) = @_;
	my ($status, $stdout, $stderr) = $node->psql($database, "\\set VERBOSITY verbose\n$sql");

	like($stderr, $pattern, $test);
}

my $session = connect_session();
is(ask($session, "$append; SELECT es.version()"), "2\n$version\n", 'the session has loaded the library');

install_99();
my $update = qr/ERROR:  55000: pg_eventsourcing is version \Q$version\E in this database, but the loaded library is version 99\.0\nHINT:  Run ALTER EXTENSION pg_eventsourcing UPDATE\./;
my $reconnect = qr/ERROR:  pg_eventsourcing is version 99\.0 in this database, but the loaded library is version \Q$version\E\nHINT:  Connect again/;

# New library, old objects.
is($node->safe_psql('app', 'SELECT es.version()'), '99.0', 'a new session loads the new library');
foreach my $sql (
	$append,
	q(INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'A')),
	q(COPY es.events (aggregate_type, aggregate_id, event_type) FROM stdin;
account	1	A
\.
), q(SELECT * FROM es.read_all()), q(SELECT es.high_water_mark()), q(TABLE es.projections),
	q(SELECT es.replay('account')), q(SELECT es.run_projections()),
	q(SELECT es.load(NULL::account, 'account', '1')), q(UPDATE account SET n = 0), q(DELETE FROM es.events), q(DROP TABLE account CASCADE),
	q(ALTER TABLE account ADD COLUMN m int))
{
	fails_like('app', $sql, $update, "new library, old objects: " . (split /\n/, $sql)[0]);
}
is($node->safe_psql('app', q(SELECT count(*), max(version) FROM es.events)), '2|2', 'the log can be read');
$node->command_ok([ 'pg_dump', '-f', "$copy/dump.sql", 'app' ], 'and dumped');
is(ask($session, $append), "3\n", 'the old session goes on');
is(ask($session, 'SELECT es.high_water_mark()'), "3\n", 'also with functions that it has not used before');
$node->safe_psql('dropped', 'DROP EXTENSION pg_eventsourcing CASCADE; DROP TABLE account');
is($node->safe_psql('dropped', q(SELECT count(*) FROM pg_namespace AS n JOIN pg_proc AS p ON p.pronamespace = n.oid WHERE nspname = 'es')),
	'0', 'it can be dropped');

# A session of the old library that waits for a table to which the upgrade adds columns.
# It has to read the registry again, as that has changed in the moment before.
my ($upgrade_in, $upgrade_out) = ('', '');
my $upgrade = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('late'), '-f', '-' ], '<', \$upgrade_in, '>', \$upgrade_out, '2>&1', $timer);
$upgrade_in .= "ALTER EVENT TRIGGER es_follow_ddl DISABLE; ALTER EVENT TRIGGER es_before_ddl DISABLE; ALTER EVENT TRIGGER es_follow_partitions DISABLE;
ALTER TABLE es.projection SET (fillfactor = 90);
BEGIN;\nALTER EXTENSION pg_eventsourcing UPDATE;\n\\echo upgraded\n";
$upgrade->pump until $upgrade_out =~ /^upgraded$/m;
$late_in .= "$append;\n\\echo answered\n";
$late->pump_nb;
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'late' AND wait_event_type = 'Lock')),
	'a session of the old library waits');
$upgrade_in .= "COMMIT;\n\\echo committed\n";
$upgrade->pump until $upgrade_out =~ /^committed$/m;
$late->pump until $late_out =~ /^answered$/m;
like($late_out, $reconnect, 'and fails after the upgrade');
$upgrade->finish;
$late->finish;

# An upgrade beside a transaction of the old library, which has written and ends as it wants.
is(ask($session, "BEGIN; $append"), "4\n", 'a transaction begins');
is( $node->safe_psql('app', "ALTER EXTENSION pg_eventsourcing UPDATE; SELECT extversion FROM pg_extension WHERE extname = 'pg_eventsourcing'"),
	'99.0', 'upgraded');
is($node->safe_psql('app', "SELECT es.append('account', '2', 'A')"), '1', 'and works');
is(ask($session, 'COMMIT'), '', 'the transaction ends');
is($node->safe_psql('app', $append), '5', 'and another appends');
is($node->safe_psql('app', "SELECT string_agg(id || ' ' || n, ', ' ORDER BY id) FROM account"), '1 5, 2 1', 'the projection has them all');

# Old library, new objects.
foreach my $sql ($append, q(INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('account', '1', 'A')), 'DROP TABLE account CASCADE')
{
	like(ask($session, $sql), $reconnect, "old library, new objects: $sql");
}
like(ask($session, "BEGIN; SELECT 1; $append; COMMIT; SELECT 2"), qr/^1\n.*Connect again.*^2\n/ms, 'the session is none the worse for it');
$session->finish;
fails_like('other', $append, $update, 'each database has its version');
is($node->safe_psql('other', "ALTER EXTENSION pg_eventsourcing UPDATE; $append"), '2', 'upgraded and used in one session');

# A server that has loaded the library before it was replaced, and its worker.
$node->safe_psql(
	'app', q(
CREATE TABLE later (id text PRIMARY KEY, n bigint);
CREATE FUNCTION later_apply(state later, event es.events) RETURNS later LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::later;
SELECT es.create_projection('later', 'later', 'later_apply', mode => 'async');));
install_library($version);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_eventsourcing'\nes.worker_databases = 'app'\n");
$node->restart;
like($node->safe_psql('app', 'SELECT es.version()'), qr/^\Q$version\E$/, 'the old library is preloaded');
fails_like('app', $append, qr/ERROR:  55000: .*HINT:  Connect again.*restart the server/s, 'a restart is due');
$node->wait_for_log(qr/is version 99\.0 in this database.*\n.*restart the server.*\n.*CONTEXT:  worker/);
install_library('99.0');
fails_like('app', $append, qr/ERROR:  55000: .*HINT:  Connect again.*restart the server/s, 'with the new one on disk, too');
$node->restart;
is($node->safe_psql('app', $append), '6', 'after which all is well');
ok($node->poll_query_until('app', 'SELECT count(*) = 2 FROM account JOIN later USING (id, n)'), 'with the worker, too');

$node->stop;
done_testing();
