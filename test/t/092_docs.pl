# Runs the SQL of docs/*.md, so that it can not rot.
#
# The blocks tagged sql of one file run in order, in one session in a database of
# their own; no statement may fail.  Blocks that are no statements are left out:
# signatures, fragments, and what has an ellipsis.
use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @files = sort glob "$FindBin::Bin/../../docs/*.md";
plan skip_all => 'no docs here' if !@files;

# What a file takes for granted.
my %given = (
	operations => q(
CREATE TABLE account (id text PRIMARY KEY, balance numeric);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, 0)::account;
SELECT es.create_projection('account', 'account', 'account_apply');),
	security => 'CREATE ROLE reporting; CREATE ROLE shop;');

# What fails since nothing has been put aside.
my %fails = (subscriptions => qr/the event at position 17 is not parked for "turnover"/);

my $node = PostgreSQL::Test::Cluster->new('docs');
$node->init(allows_streaming => 'logical');
$node->start;
my $run = 0;

foreach my $file (@files)
{
	my ($name) = $file =~ m,([^/]+)\.md$,;
	my @blocks = grep { /^[A-Z]/ && !/\x{e2}\x{80}\x{a6}/ } slurp_file($file) =~ /^```sql\n(.*?)^```$/msg;
	my $script = join "\n", $given{$name} // '', @blocks;

	next if !@blocks;
	$script =~ s/wait => '\d+s'/wait => '0s'/g;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION pg_eventsourcing');
	my (undef, undef, $error) = $node->psql($name, $script, on_error_stop => 0);
	my @errors = grep { /ERROR: / && !(exists $fails{$name} && $_ =~ $fails{$name}) } split /\n/, $error;
	is(join("\n", @errors), '', "the SQL of docs/$name.md");
	$run += @blocks;
}
cmp_ok($run, '>', 30, 'there are enough of them');

$node->stop;
done_testing();
