# Runs every example that has its expected output beside it, in its directory
# and in an empty database each, and compares what psql prints.
#
# What examples/bugfix prints shows that payments were made before, during and
# after the replay.  Here the log is counted once more from outside.
use strict;
use warnings FATAL => 'all';

use File::Basename;
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
	my $directory = dirname($example);
	my $expected = $example =~ s/\.sql$/.out/r;
	my $actual = "$PostgreSQL::Test::Utils::tmp_check/$name.out";

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	system("cd '$directory' && psql -X -q -d $name <'$example' >'$actual' 2>&1");
	my $diff = `diff -u '$expected' '$actual' 2>&1`;
	is($diff, '', "example $name prints what its .out file says");
	check_bugfix() if $name eq 'bugfix';
}

$node->stop;
done_testing();

# Compares the log that examples/bugfix leaves with its tables.
sub check_bugfix
{
	is( $node->safe_psql(
			'bugfix', q(
SELECT count(*), count(*) FILTER (WHERE event_type = 'Withdrawn' AND data->'amount' = '20'),
	count(DISTINCT aggregate_id) > 100, max(position) = min(position) + 1999
FROM es.events WHERE position > 100000)),
		'2000|2000|t|t',
		'bugfix: pgbench made each payment once');
	is( $node->safe_psql(
			'bugfix', q(
SELECT count(*) FROM es.verify_projection('account')
UNION ALL SELECT count(*) FROM es.verify_projection('till'))),
		"0\n0",
		'bugfix: verification finds nothing');
	is( $node->safe_psql(
			'bugfix', q(
WITH log AS (
	SELECT aggregate_id AS id, data->>'branch' AS branch, (data->>'amount')::numeric AS amount,
		event_type = 'Withdrawn' AS paid, least((data->>'amount')::numeric / 200, 5) AS fee
	FROM es.events
), expected AS (
	SELECT id, 'Customer ' || id AS owner,
		sum(CASE WHEN paid THEN -amount - fee ELSE coalesce(amount, 0) END) AS balance,
		coalesce(sum(fee) FILTER (WHERE paid), 0) AS fees
	FROM log GROUP BY id
), cash AS (
	SELECT branch::integer, sum(CASE WHEN paid THEN -amount ELSE amount END) AS cash
	FROM log WHERE branch IS NOT NULL GROUP BY 1
)
SELECT (SELECT count(*) FROM (TABLE expected EXCEPT ALL TABLE account) AS d),
	(SELECT count(*) FROM (TABLE account EXCEPT ALL TABLE expected) AS d),
	(SELECT count(*) FROM (TABLE cash EXCEPT ALL TABLE till) AS d),
	(SELECT count(*) FROM (TABLE till EXCEPT ALL TABLE cash) AS d),
	(SELECT count(*) FROM account), (SELECT count(*) FROM till))),
		'0|0|0|0|500|9',
		'bugfix: the tables are what a sum over the log gives');
	is($node->safe_psql('bugfix', q(SELECT apply FROM es.projections WHERE name = 'account')),
		'public.account_apply_v2(public.account,es.events)',
		'bugfix: the new function is in use');
}
