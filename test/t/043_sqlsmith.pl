# sqlsmith, which makes random queries from the catalogs, in a database with the log,
# projections of all kinds, a subscription.  It takes its list of functions from pg_proc; a
# view of this name stands before the catalog, so that most of them are ours.
#
# The oracle.  The server does not crash, no assertion fails; its log has no warning of
# leaked resources, and no internal error of our own sources.  (Random queries do
# find internal errors of PostgreSQL's planner.)
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsCalls;
use EsServerLog;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($sqlsmith) = grep { -x $_ } map { "$_/sqlsmith" } split /:/, $ENV{PATH}, -1;

plan skip_all => 'takes long (make check-world)' unless $ENV{ES_LONG};
plan skip_all => 'sqlsmith is not installed' unless $sqlsmith;

my $seconds = 60;    # as each of the users
my $seed = $ENV{ES_SEED} || time % 1000000;
my $node = PostgreSQL::Test::Cluster->new('sqlsmith');

$node->init;
$node->append_conf('postgresql.conf', EsServerLog::settings() . q(
max_prepared_transactions = 10
lock_timeout = 300ms
));
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE smith; CREATE DATABASE smith OWNER smith');
$node->safe_psql('smith', q(CREATE EXTENSION pg_eventsourcing; GRANT ALL ON SCHEMA public TO smith; GRANT pg_monitor TO smith));
$node->safe_psql('smith', q(SELECT es.grant_reader('smith'), es.grant_writer('smith'); GRANT ALL ON ALL FUNCTIONS IN SCHEMA es TO smith; ALTER ROLE smith LOGIN));
$node->safe_psql('smith', EsCalls::projections() . EsCalls::events() . q(
SELECT es.create_subscription('reader', partitions => 3);
CREATE SCHEMA smith;
CREATE VIEW smith.pg_proc AS SELECT * FROM pg_catalog.pg_proc
WHERE pronamespace = 'es'::regnamespace OR pronamespace = 'public'::regnamespace
	OR pronamespace = 'pg_catalog'::regnamespace AND proname IN ('lower', 'length', 'now', 'clock_timestamp', 'md5', 'repeat', 'to_jsonb', 'jsonb_typeof', 'abs', 'int8', 'text',
		'count', 'max', 'min', 'array_append', 'array_length', 'gen_random_uuid', 'age', 'jsonb_build_array', 'jsonb_object', 'current_schema', 'random', 'string_to_array', 'jsonb_agg', 'array_agg', 'string_agg');
ALTER ROLE smith SET search_path = smith, pg_catalog, public;
ALTER ROLE postgres SET search_path = smith, pg_catalog, public;
GRANT USAGE ON SCHEMA smith TO smith;
GRANT SELECT ON smith.pg_proc TO smith;
), extra_params => [ '-U', 'postgres' ]);

foreach my $user ('smith', 'postgres')
{
	my ($stdout, $stderr) = ('', '');
	my $target = 'host=' . $node->host . ' port=' . $node->port . " dbname=smith user=$user";
	my $run = IPC::Run::start([ 'timeout', $seconds, $sqlsmith, "--target=$target", "--seed=$seed", '--exclude-catalog', '--verbose' ],
		'<', \undef, '>', \$stdout, '2>', \$stderr);

	$run->finish;
	note "seed $seed as $user: ", ($stderr =~ /.*(queries: \d+.*)/s)[0] // $stderr;
	like($stderr, qr/queries: \d/, "there were queries as $user") or diag "$stdout $stderr";
}
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'the server is there');
$node->stop;

my %ours = map { (m{([^/]+)$})[0] => 1 } glob "$ENV{TESTDIR}/src/*.c";
my @lines = split /\n/, slurp_file($node->logfile);
my @internal;

foreach my $n (0 .. $#lines)
{
	my ($pid) = $lines[$n] =~ /\[(\d+)\] XX\w+ (?:ERROR|FATAL)/ or next;
	my ($location) = grep { defined && /\[$pid\] XX\w+ LOCATION/ } @lines[ $n .. $n + 40 ];
	my ($file) = ($location // '') =~ /, (\w+\.c):/;

	push @internal, $lines[$n], $location if defined $file && $ours{$file};
}
is(join("\n", @internal), '', 'no internal error of ours');
EsServerLog::check($node, 'the server has nothing else to say', qr/\] XX000 (ERROR|FATAL)/);
done_testing();
