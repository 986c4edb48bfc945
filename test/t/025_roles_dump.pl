# What roles may do is in a dump: GRANTs, and the aggregate types of writers.
# Restored beside the roles it is the same; where roles are missing, or renamed, or
# without the data of es.writer, nobody may do more than before.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('roles');
$node->init;
$node->start;
my $dumps = $node->backup_dir;
mkdir $dumps;

$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql(
	'original', q(
CREATE EXTENSION pg_eventsourcing;
CREATE ROLE clerk; CREATE ROLE boss; CREATE ROLE reader; CREATE ROLE leaver; CREATE ROLE member IN ROLE clerk;
SELECT es.grant_writer('clerk', '{order,"a, b"}'), es.grant_writer('boss'), es.grant_reader('reader'),
	es.grant_writer('leaver', '{secret}'), es.grant_reader('leaver');
SELECT es.set_node_id(9);
SELECT es.append('order', '1', 'X');
ALTER ROLE clerk RENAME TO agent;
));

# What there is to compare: privileges, and what roles can do indeed.
my $privileges = q(
SELECT c.oid::regclass, a.attname, g.grantee::regrole, g.privilege_type
  FROM pg_class AS c LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attacl IS NOT NULL,
       aclexplode(coalesce(a.attacl, c.relacl)) AS g
 WHERE c.relnamespace = 'es'::regnamespace AND c.relkind IN ('r', 'v', 'S')
UNION ALL
SELECT p.oid::regprocedure, NULL, CASE g.grantee WHEN 0 THEN '-' ELSE g.grantee::regrole END, g.privilege_type
  FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS g
 WHERE p.pronamespace = 'es'::regnamespace
UNION ALL
SELECT n.oid::regnamespace, NULL, CASE g.grantee WHEN 0 THEN '-' ELSE g.grantee::regrole END, g.privilege_type
  FROM pg_namespace AS n, aclexplode(n.nspacl) AS g WHERE n.nspname = 'es'
 ORDER BY 1, 2, 3, 4);
$privileges =~ s/c\.oid::regclass/c.oid::regclass::text/;
$privileges =~ s/p\.oid::regprocedure/p.oid::regprocedure::text/;
$privileges =~ s/n\.oid::regnamespace/n.oid::regnamespace::text/;
$privileges =~ s/g\.grantee::regrole/g.grantee::regrole::text/g;

sub abilities
{
	my ($database) = @_;
	my $result = '';

	for my $role (qw(agent member boss reader leaver))
	{
		for my $type ('order', 'a, b', 'secret')
		{
			my (undef, $version, $error) = $node->psql($database,
				"BEGIN; SET LOCAL ROLE $role; SELECT es.append('$type', 'new', 'X'); ROLLBACK");

			$result .= "$role $type: $version" . ($error =~ /(permission denied.*)/ ? $1 : $error) . "\n";
		}
		my (undef, $count, $error) = $node->psql($database,
			"BEGIN; SET LOCAL ROLE $role; SELECT count(*) FROM es.read_all(); ROLLBACK");
		$result .= "$role reads: $count" . ($error =~ /(permission denied.*)/ ? $1 : $error) . "\n";
	}
	return $result;
}

my $had = $node->safe_psql('original', $privileges);
my $could = abilities('original');
my $nodes = q(SELECT es.high_water_mark() >> 48);
like($could, qr/agent order: 1\nagent a, b: 1\nagent secret: permission denied for aggregate type "secret"\nagent reads: permission/, 'before: a writer of types');
like($could, qr/member order: 1\n/, 'before: a member');
like($could, qr/leaver order: permission.*\nleaver a, b: permission.*\nleaver secret: 1\nleaver reads: 1\n/, 'before: both');

command_ok([ 'pg_dump', '-f', "$dumps/plain.sql", $node->connstr('original') ], 'pg_dump, plain');
command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/archive", $node->connstr('original') ], 'pg_dump, archive');
command_ok([ 'pg_dump', '--schema-only', '-f', "$dumps/schema.sql", $node->connstr('original') ], 'pg_dump, schema only');

# The same cluster.
$node->safe_psql('postgres', 'CREATE DATABASE plain');
command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', "$dumps/plain.sql" ], 'plain: loads');
$node->safe_psql('postgres', 'CREATE DATABASE archive');
command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $node->connstr('archive'), "$dumps/archive" ], 'archive: loads');
for my $database ('plain', 'archive')
{
	is($node->safe_psql($database, $privileges), $had, "$database: the privileges are the same");
	is(abilities($database), $could, "$database: roles can do the same");
	is($node->safe_psql($database, $nodes), 9, "$database: the node is the same");
}
command_ok([ 'pg_dump', '-f', "$dumps/again.sql", $node->connstr('plain') ], 'pg_dump of what was restored');
is(acls("$dumps/again.sql"), acls("$dumps/plain.sql"), 'it has the same GRANTs');

# Without the data of es.writer a writer of some types may append nothing.
$node->safe_psql('postgres', 'CREATE DATABASE bare');
command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('bare'), '-f', "$dumps/schema.sql" ], 'schema only: loads');
like(abilities('bare'), qr/agent order: permission denied for table events/, 'schema only: no types, no appends');
like(abilities('bare'), qr/boss order: 1\n/, 'schema only: every type');

# Without privileges.
$node->safe_psql('postgres', 'CREATE DATABASE no_acl');
command_ok([ 'pg_restore', '--exit-on-error', '--no-acl', '-d', $node->connstr('no_acl'), "$dumps/archive" ], '--no-acl: loads');
unlike(abilities('no_acl'), qr/: [0-9]/, '--no-acl: nobody may do anything');
$node->safe_psql('no_acl', q(SELECT es.grant_reader('reader')));
like(abilities('no_acl'), qr/reader reads: 1\n/, '--no-acl: granted anew');

# Another cluster, where none of the roles is there, and where one that comes
# later has the name of one of the original's.
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
$other->start;
$other->safe_psql('postgres', 'CREATE DATABASE other');
command_fails([ 'pg_restore', '-d', $other->connstr('other'), "$dumps/archive" ], 'without the roles: GRANTs fail');
is($other->safe_psql('other', 'SELECT count(*) FROM es.events'), 1, 'without the roles: the log is there');
is($other->safe_psql('other', 'SELECT string_agg(concat(role, aggregate_types), $$ $$ ORDER BY aggregate_types) FROM es.writer'),
	'{"a, b",order} {secret}', 'without the roles: entries are of no role');
$other->safe_psql('other', 'CREATE ROLE agent; CREATE ROLE leaver');
for my $role ('agent', 'leaver')
{
	my (undef, undef, $error) = $other->psql('other',
		"SET ROLE $role; INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES ('order', '2', 'X')");
	like($error, qr/permission denied/, "without the roles: a new role $role may do nothing");
}
$other->safe_psql('other', q(SELECT es.grant_writer('leaver', '{letter}')));
is($other->safe_psql('other', q(SELECT string_agg(concat(role, aggregate_types), ' ') FROM es.writer)),
	'leaver{letter}', 'without the roles: granting does not bring old types back');
is($other->safe_psql('other', q(SET ROLE leaver; SELECT es.append('letter', '1', 'X'))), 1, 'granted anew');

$node->stop;
$other->stop;
done_testing();

# Returns the GRANTs and REVOKEs of a dump.
sub acls
{
	return join('', grep { /^(GRANT|REVOKE)/ } split(/^/m, slurp_file($_[0])));
}
