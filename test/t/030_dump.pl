# Every way to dump and to restore a database with projections of all kinds, and
# subscriptions in the middle of leases: what comes back is identical, nothing in the catalogs is half done, and appends,
# retries, projections and guards go on.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsWorld;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('dump');
$node->init;
$node->start;
EsWorld::roles($node);
$node->safe_psql('postgres', 'CREATE DATABASE original');
EsWorld::make($node, 'original');
my $original = EsWorld::contents($node, 'original');
my $dumps = $node->basedir;
my @from = ('-d', $node->connstr('original'));
my @psql = qw(psql -X -q -v ON_ERROR_STOP=1);
my @pg_restore = qw(pg_restore --exit-on-error);

command_ok([ 'pg_dump', @from, '-f', "$dumps/plain.sql" ], 'pg_dump as a script');
command_ok([ 'pg_dump', '-Fc', @from, '-f', "$dumps/custom" ], 'pg_dump as an archive');
command_ok([ 'pg_dump', '-Fd', '-j', '4', @from, '-f', "$dumps/directory" ], 'pg_dump as a directory');
command_ok([ 'pg_dump', '-Ft', @from, '-f', "$dumps/tar" ], 'pg_dump as a tar file');
command_ok([ 'pg_dump', '--schema-only', @from, '-f', "$dumps/schema.sql" ], 'pg_dump of the schema');
command_ok([ 'pg_dump', '--data-only', @from, '-f', "$dumps/data.sql" ], 'pg_dump of the data');
command_ok([ 'pg_dump', '--data-only', '--disable-triggers', @from, '-f', "$dumps/disabled.sql" ],
	'pg_dump of the data, to be loaded without triggers');

my %restores = (
	plain => [ [ @psql, '-f', "$dumps/plain.sql" ] ],
	plain_single => [ [ @psql, '-1', '-f', "$dumps/plain.sql" ] ],
	custom => [ [ @pg_restore, '-j', '4', "$dumps/custom" ] ],
	custom_single => [ [ @pg_restore, '-1', "$dumps/custom" ] ],
	directory => [ [ @pg_restore, '-j', '4', "$dumps/directory" ] ],
	tar => [ [ @pg_restore, "$dumps/tar" ] ],
	sections => [ map { [ @pg_restore, '-j', '2', "--section=$_", "$dumps/custom" ] } qw(pre-data data post-data) ],
	schema_then_data => [ [ @psql, '-f', "$dumps/schema.sql" ], [ @psql, '-f', "$dumps/disabled.sql" ] ],
	schema_then_archive => [ [ @pg_restore, '--schema-only', "$dumps/custom" ],
		[ @pg_restore, '--data-only', '--disable-triggers', '-j', '4', "$dumps/custom" ] ],
	# The triggers are on; those that are the user's own are his business.
	triggers => [ [ @psql, '-f', "$dumps/schema.sql", '-c', 'ALTER TABLE bank.account DISABLE TRIGGER audit' ],
		[ @psql, '-f', "$dumps/data.sql", '-c', 'ALTER TABLE bank.account ENABLE TRIGGER audit' ] ],
	triggers_archive => [ [ @pg_restore, '--schema-only', "$dumps/custom" ],
		[ qw(psql -X -q -c), 'ALTER TABLE bank.account DISABLE TRIGGER audit' ],
		[ @pg_restore, '--data-only', '-j', '4', "$dumps/custom" ],
		[ qw(psql -X -q -c), 'ALTER TABLE bank.account ENABLE TRIGGER audit' ] ],
	# PostgreSQL's own --clean stumbles over the indexes of partitions.
	clean => [ [ @psql, '-f', "$dumps/plain.sql" ], [ qw(pg_restore --clean --if-exists), "$dumps/custom" ] ]);

# These differ little from others.
delete @restores{qw(plain_single custom_single directory tar schema_then_data triggers)} unless $ENV{ES_LONG};

foreach my $name (sort keys %restores)
{
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	foreach my $command (@{ $restores{$name} })
	{
		my ($out, $error) = run_command([ @$command, '-d', $node->connstr($name) ]);
		my @errors = grep { /(error|ERROR): / && !/cannot drop inherited constraint/ } split /\n/, $error;
		is(join("\n", @errors), '', "$name: loads");
	}
	EsWorld::same($node, $name, { %$original }, $name);
	EsWorld::whole($node, $name, $name);
	EsWorld::goes_on($node, $name, $name);
}

$node->stop;
done_testing();
