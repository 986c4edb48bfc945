# Runs every example that has its expected output beside it, in an empty
# database each, and compares what psql prints.
use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @examples = sort glob "$FindBin::Bin/../../examples/*/*.sql";
plan skip_all => 'no examples here' if !@examples;

my $node = PostgreSQL::Test::Cluster->new('examples');
$node->init;
$node->start;
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;

foreach my $example (@examples)
{
	my ($name) = $example =~ m{([^/]+)\.sql$};
	my $expected = $example =~ s/\.sql$/.out/r;
	my $actual = "$PostgreSQL::Test::Utils::tmp_check/$name.out";

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	system("psql -X -q -d $name <'$example' >'$actual' 2>&1");
	my $diff = `diff -u '$expected' '$actual' 2>&1`;
	is($diff, '', "example $name prints what its .out file says");
}

$node->stop;
done_testing();
