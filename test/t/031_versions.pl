# From one major version of PostgreSQL to another: pg_dump with the programs of
# either, pg_dumpall, and pg_upgrade, which copies or links the files.
#
# The other versions are those in ES_INSTALLATIONS, a list of prefixes with
# bin/pg_config and this extension installed, or else those under
# /usr/lib/postgresql that the extension is installed for.  Of them, one is tried
# in make check.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsWorld;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($own) = `pg_config --version` =~ /(\d+)/;
my @others = sort { $a->[0] <=> $b->[0] } grep { $_->[0] != $own } installations();
my @steps = map { $_->[0] > $own ? [ [$own], $_ ] : [ $_, [$own] ] } @others;
@steps = grep { understands(@$_) } @steps;
@steps = $steps[-1] if @steps && !$ENV{ES_LONG};

# pg_dumpall needs one version only.
dump_all([$own], [$own]);
foreach my $step (@steps)
{
	my $what = "$step->[0][0] to $step->[1][0]";

	dump_all(@$step);
	dump_one(@$step);
	upgrade(@$step, "$what, pg_upgrade");
	upgrade(@$step, "$what, pg_upgrade --link", '--link');
}
SKIP:
{
	skip 'the extension is installed for no other version of PostgreSQL that reads what the older one writes', 1 unless @steps;
	pass('from and to: ' . join(', ', map { "$_->[0][0] to $_->[1][0]" } @steps));
}
done_testing();

# --- parts ------------------------------------------------------------------

# Dumps a whole server with the programs of the newer version.
sub dump_all
{
	my ($from, $to) = @_;
	my $what = "$from->[0] to $to->[0], pg_dumpall";
	my $old = server('old', $from);
	my $file = $old->basedir . '/all.sql';

	$old->start;
	fill($old);
	my $before = EsWorld::contents($old, 'original');
	my $new = server('new', $to);
	$new->start;
	program($new, $what, 'pg_dumpall', '-d', $old->connstr('postgres'), '-f', $file);
	$old->stop;
	# The role that has restored exists already.
	program($new, $what, 'psql', '-X', '-q', '-d', $new->connstr('postgres'), '-f', $file);
	compare($new, 'original', $before, $what);
	remove($old, $new);
}

# Says whether a table without anything of ours can be dumped and restored.
sub understands
{
	my ($from, $to) = @_;
	my $old = server('old', $from);
	my $new = server('new', $to);
	my $file = $old->basedir . '/table';

	$_->start foreach $old, $new;
	$old->safe_psql('postgres', 'CREATE TABLE plain (a integer)');
	program($new, "$from->[0] to $to->[0], a table", 'pg_dump', '-Fc', '-t', 'plain', '-d', $old->connstr('postgres'), '-f', $file);
	my $understood = run_log([ $new->installed_command('pg_restore'), '--exit-on-error', '-d', $new->connstr('postgres'), $file ]);
	note "$from->[0] to $to->[0]: PostgreSQL itself can't restore a table" unless $understood;
	remove($old, $new);
	return $understood;
}

# Dumps one database with the programs of the newer version, and of the older one.
sub dump_one
{
	my ($from, $to) = @_;
	my $what = "$from->[0] to $to->[0]";
	my $old = server('old', $from);
	my $new = server('new', $to);
	my $file = $old->basedir;

	$old->start;
	$new->start;
	fill($old);
	EsWorld::roles($new);
	my $before = EsWorld::contents($old, 'original');
	$new->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(archive script);
	program($new, $what, 'pg_dump', '-Fc', '-d', $old->connstr('original'), '-f', "$file/archive");
	program($new, $what, 'pg_restore', '--exit-on-error', '-j', 4, '-d', $new->connstr('archive'), "$file/archive");
	compare($new, 'archive', $before, "$what, pg_restore -j");
	program($old, $what, 'pg_dump', '-d', $old->connstr('original'), '-f', "$file/script.sql");
	program($new, $what, qw(psql -X -q -v ON_ERROR_STOP=1 -d), $new->connstr('script'), '-f', "$file/script.sql");
	compare($new, 'script', $before, "$what, script");
	remove($old, $new);
}

# Upgrades a server.
sub upgrade
{
	my ($from, $to, $what, @options) = @_;
	my $old = server('old', $from);
	my $new = server('new', $to);
	my $directory = $new->basedir;

	$old->start;
	fill($old);
	my $before = EsWorld::contents($old, 'original');
	$old->stop;
	mkdir "$directory/upgrade";
	chdir "$directory/upgrade";
	program($new, $what, 'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
		'-s', $new->host, '-p', $old->port, '-P', $new->port, @options);
	chdir $FindBin::RealBin;
	$new->start;

	EsWorld::same($new, 'original', $before, $what);
	# What pg_upgrade does not keep is there when it is needed.
	foreach my $refused (
		[ 'DROP FUNCTION later_apply(later, es.events)', qr/depend/ ],
		[ 'DROP TABLE helper', qr/depend/ ],
		[ 'ALTER TABLE helper RENAME COLUMN one TO two', qr/does not exist/ ])
	{
		my ($sql, $expected) = @$refused;
		my ($ret, undef, $error) = $new->psql('original', $sql);

		like($error, $expected, "$what: $sql is refused");
	}
	$new->safe_psql('original', 'ALTER FUNCTION parts_apply(parts, es.events) RENAME TO fold_parts');
	is($new->safe_psql('original', q(SELECT apply FROM es.projections WHERE name = 'parts')),
		'public.fold_parts(public.parts,es.events)', "$what: a renamed function is followed");
	EsWorld::whole($new, 'original', $what);
	EsWorld::goes_on($new, 'original', $what);
	remove($old, $new);
}

# Makes a server of an installation: [version] or [version, prefix].
sub server
{
	my ($name, $installation) = @_;
	my ($version, $prefix) = @$installation;
	my $node = PostgreSQL::Test::Cluster->new("${name}_$version",
		defined $prefix ? (install_path => $prefix) : ());

	# Versions differ in what initdb does unless told: checksums, encoding.
	$node->init(extra => [ '--encoding=UTF8', '--locale=C', $version >= 18 ? '--no-data-checksums' : () ]);
	return $node;
}

sub fill
{
	my ($node) = @_;

	EsWorld::roles($node);
	$node->safe_psql('postgres', 'CREATE DATABASE original');
	EsWorld::make($node, 'original');
}

# Compares a copy and makes use of it.
sub compare
{
	my ($node, $database, $before, $what) = @_;

	EsWorld::same($node, $database, {%$before}, $what);
	EsWorld::whole($node, $database, $what);
	EsWorld::goes_on($node, $database, $what);
}

# Runs a program of a node's installation.
sub program
{
	my ($node, $what, $name, @arguments) = @_;

	$node->command_ok([ $node->installed_command($name), @arguments ], "$what: $name");
}

sub remove
{
	foreach my $node (@_)
	{
		$node->stop('immediate', fail_ok => 1);
		$node->clean_node;
	}
}

# Returns [version, prefix] of the other installations.
sub installations
{
	my @found;

	foreach my $prefix (defined $ENV{ES_INSTALLATIONS} ? split ' ', $ENV{ES_INSTALLATIONS} : glob '/usr/lib/postgresql/*')
	{
		next unless -x "$prefix/bin/pg_config" && -x "$prefix/bin/postgres";
		my ($version) = `$prefix/bin/pg_config --version` =~ /(\d+)/;
		chomp(my $share = `$prefix/bin/pg_config --sharedir`);
		push @found, [ $version, $prefix ] if -e "$share/extension/pg_eventsourcing.control";
	}
	return @found;
}
