# Runs the psql blocks of README.md, so that they can not rot.
#
# A fenced block tagged psql holds a session as psql prints it.  Lines with a
# prompt ("=# ", or "-# " and "(# " where a statement goes on, each with or
# without a database's name before it) are typed in, all other lines are what
# psql answers.  All blocks run in order, in one session in an empty database,
# so that a block can use what earlier ones made.  White space counts only as
# a separator; UUIDs and timestamps match any others; a line "..." matches any
# number of lines.  Other blocks (sql, sh) are not run.
use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $readme = $ENV{README} || "$FindBin::Bin/../../README.md";
plan skip_all => 'no README.md here' if !-e $readme;

my @blocks = read_blocks($readme);
plan skip_all => 'README.md has no psql block' if !@blocks;

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE readme');

# One session; a marker after each block's output tells them apart.
my $script = "$PostgreSQL::Test::Utils::tmp_check/readme.sql";
my $output = "$PostgreSQL::Test::Utils::tmp_check/readme.out";
append_to_file($script, "\\pset pager off\n\\echo >>> 0\n");
foreach my $i (0 .. $#blocks)
{
	append_to_file($script, join("\n", @{ $blocks[$i]{input} }) . "\n\\echo >>> " . ($i + 1) . "\n");
}
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
system("psql -X -d readme <'$script' >'$output' 2>&1");

my @actual = split /^>>> \d+\n/m, slurp_file($output);
foreach my $i (0 .. $#blocks)
{
	my $pattern = pattern($blocks[$i]{output});
	my $actual = normalise($actual[ $i + 1 ] // 'psql has ended before this block');

	ok($actual =~ /\A$pattern\z/, "the psql block at line $blocks[$i]{line} of README.md")
	  or diag("expected:\n" . normalise($blocks[$i]{output}) . "\npsql says:\n$actual");
}

$node->stop;
done_testing();

# Returns the psql blocks: the line each starts at, its input and its output.
sub read_blocks
{
	my ($file) = @_;
	my (@blocks, $block);
	my $line = 0;

	foreach (split /\n/, slurp_file($file))
	{
		$line++;
		if (!$block)
		{
			$block = { line => $line, input => [], output => '' } if /^```psql\s*$/;
		}
		elsif (/^```\s*$/)
		{
			push @blocks, $block;
			$block = undef;
		}
		elsif (/^\w*[-=(*'"\$][#>](?: (.*))?$/)
		{
			push @{ $block->{input} }, $1 // '';
		}
		else
		{
			$block->{output} .= "$_\n";
		}
	}
	die "$file: the psql block at line $block->{line} has no end\n" if $block;
	return @blocks;
}

# Reduces output to what counts in a comparison.
sub normalise
{
	my ($text) = @_;
	my $hex = '[0-9a-f]';

	$text =~ s/\b$hex{8}-$hex{4}-$hex{4}-$hex{4}-$hex{12}\b/(uuid)/g;
	$text =~ s/\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?:[-+]\d\d(?::\d\d)?)?/(timestamp)/g;
	$text =~ s/^-[-+]*$/---/mg;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/^ | $//mg;
	$text =~ s/\n+/\n/g;
	$text =~ s/\A\n//;
	return $text;
}

# Makes the regular expression that expected output stands for.
sub pattern
{
	my $pattern = quotemeta(normalise($_[0]));

	$pattern =~ s/^\\\.\\\.\\\.\\\n/(?:.*\\n)*?/mg;
	return $pattern;
}
