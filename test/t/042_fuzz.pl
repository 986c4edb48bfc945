# Hostile input of a generator of our own (test/fuzz/EsFuzz.pm), as a superuser and as a
# plain role at the same time, in one database after the other.
#
# The oracle.  The server does not crash, no assertion fails, and its log has no internal
# error (XX000) and no warning of leaked resources.  ES_SEED repeats a run, with one
# session at a time if ES_SESSIONS is 1.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../fuzz";
use EsCalls;
use EsFuzz;
use EsServerLog;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_LONG} ? 240 : 10;
my $seed = $ENV{ES_SEED} || ($ENV{ES_LONG} ? time % 1000000 : 1);
my @roles = (undef, 'plain');
my $statements = 150;

@roles = @roles[ 0 .. $ENV{ES_SESSIONS} - 1 ] if $ENV{ES_SESSIONS};
my $node = PostgreSQL::Test::Cluster->new('fuzz');
$node->init;
$node->append_conf('postgresql.conf', EsServerLog::settings() . q(
max_prepared_transactions = 10
max_connections = 40
deadlock_timeout = 100ms
max_stack_depth = 2MB
statement_timeout = 1s
lock_timeout = 300ms
idle_in_transaction_session_timeout = 20s
));
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE domain');
my $setup = $node->basedir . '/domain.sql';
append_to_file($setup, EsCalls::domain() . EsFuzz::domain());
$node->command_ok([ 'psql', '-X', '-q', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('domain'), '-f', $setup ], 'the domain is there');
my @functions = split /\n/, $node->safe_psql('domain', EsFuzz::query());

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;

my $end = time + $seconds;
my ($round, $lost) = (0, 0);
for (; time < $end && !$lost; $round++)
{
	my @running;

	$node->safe_psql('postgres', "SET statement_timeout = 0; CREATE DATABASE fuzz$round TEMPLATE domain");
	foreach my $n (0 .. $#roles)
	{
		my $fuzz = EsFuzz->new(($seed + $round) * 10 + $n, \@functions);
		my $script = $node->basedir . "/round$round-$n.sql";
		my $session = { stdout => "$script.out" };
		local $ENV{PGDATABASE} = "fuzz$round";

		append_to_file($script, $fuzz->script($statements, role => $roles[$n]));
		$session->{psql} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-f', $script ], '<', \undef, '>', $session->{stdout}, '2>', '/dev/null');
		push @running, $session;
	}
	foreach my $session (@running)
	{
		$session->{psql}->finish;
		$lost++ if slurp_file($session->{stdout}) !~ /^END/m;
	}
	$node->psql("fuzz$round", "ROLLBACK PREPARED 'fuzz'");
	$node->psql('postgres', "SET statement_timeout = 0; DROP DATABASE fuzz$round WITH (FORCE)");
}
is($lost, 0, 'no session has lost its server');
note "seed $seed, $round rounds of " . @roles . " sessions with $statements statements";
$node->stop('fast', fail_ok => 1);
EsServerLog::check($node, "the server has nothing to say (seed $seed)");
done_testing();
