# Calls of every function of schema es that end early: under statement_timeout and
# lock_timeout of random lengths, and under pg_cancel_backend() at random moments, in
# several sessions at once that also wait for each other's locks.
#
# The oracle.  Whatever a call was doing, the session goes on working at once; in the end
# the log, the state tables, the registry and the locks have no problem, no storage is left
# over, and the server's log has no internal error and no warning of leaked resources.
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

my $seconds = $ENV{ES_LONG} ? 120 : 8;
my $sessions = 5;
my $seed = $ENV{ES_SEED} || ($ENV{ES_LONG} ? time : 1);

srand $seed;
note "ES_SEED=$seed";

my $node = PostgreSQL::Test::Cluster->new('timeouts');
$node->init;
$node->append_conf('postgresql.conf', EsServerLog::settings() . q(
max_prepared_transactions = 20
deadlock_timeout = 100ms
log_min_messages = warning
autovacuum_naptime = 1s
));
$node->start;
$node->safe_psql('postgres', EsCalls::domain());
$node->safe_psql('postgres', q(
SELECT count(*) FROM es.append_batch((SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'account', 'aggregate_id', (n % 200)::text,
	'event_type', 'Deposited', 'data', '{"amount": 1}'::jsonb)) FROM generate_series(1, 3000) AS n))));
my $relations = $node->safe_psql('postgres', leftovers());

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';

my $end = time + $seconds;
my ($steps, $number, @found) = (0, 0);
my @running = map { { number => $_ } } 1 .. $sessions;

while (time < $end)
{
	foreach my $session (@running)
	{
		finish($session) if $session->{psql} && !$session->{psql}->pumpable;
		start($session) unless $session->{psql};
		$session->{psql}->pump_nb;
	}
	$node->psql('postgres', q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'victim' AND state = 'active' ORDER BY random() LIMIT 1));
}
finish($_) foreach grep { $_->{psql} } @running;

is(join("\n", @found), '', 'sessions go on working after what has ended early');
cmp_ok($steps, '>', 20 * $sessions, 'there were calls');
note "$steps calls";
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'nothing is left prepared');
$node->safe_psql('postgres', q(SET client_min_messages = error; SELECT es.run_projections()));
is($node->safe_psql('postgres', 'SELECT problems()'), '', 'nothing is wrong in the end');
is($node->safe_psql('postgres', leftovers()), $relations, 'no storage is left over');
# While some session had the projection disabled, others may have appended what it can't cope with.
$node->safe_psql('postgres', q(
CREATE FUNCTION tolerant_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN CASE WHEN event.data->>'amount' = 'many' THEN state ELSE account_apply(state, event) END;
SELECT es.append('account', '1', 'Deposited', '{"amount": 1}');
SELECT count(rows) FROM es.replay('account', apply => 'tolerant_apply');
SELECT count(rows) FROM es.replay('total')));
is($node->safe_psql('postgres', 'SELECT problems()'), '', 'nor after appending and replaying');
$node->stop;
EsServerLog::check($node, 'the server has nothing to say');
done_testing();

# Tables that no test has made by their names: what a replay that ended could leave.
sub leftovers
{
	return q(SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p', 'i', 'I')
		AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace)
		AND relname !~ '^(fresh|empty|parts_)\d' AND relnamespace::regnamespace::text !~ '^past');
}

# Starts a session with some tens of calls.
sub start
{
	my ($session) = @_;
	my @calls = EsCalls::all($session->{number});
	my $text = "\\o /dev/null\nSET client_min_messages = error;\nSET application_name = 'victim';\n";

	foreach my $step (1 .. 40)
	{
		$text .= step($calls[ rand @calls ], $session->{number}, ++$number);
		$steps++;
	}
	my $script = $node->basedir . "/session$session->{number}.sql";

	unlink $script;
	append_to_file($script, $text . "\\echo END\n");
	$session->{stdout} = $session->{stderr} = '';
	$session->{psql} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-f', $script ],
		'<', \undef, '>', \$session->{stdout}, '2>', \$session->{stderr});
}

# One call in a transaction of a random kind, with a timeout of a random length.
sub step
{
	my ($call, $session, $number) = @_;
	my $level = (('READ COMMITTED') x 4, 'REPEATABLE READ', 'SERIALIZABLE')[ rand 6 ];
	my $statement_timeout = int(exp(rand(6)) + 0.5);
	my $lock_timeout = rand() < 0.5 ? 0 : int(exp(rand(5)) + 0.5);
	my $body = (
		"$call->{call};",
		"BEGIN ISOLATION LEVEL $level; $call->{call}; COMMIT;",
		"BEGIN; $call->{call}; ROLLBACK;",
		"BEGIN; SELECT es.append('account', '5', 'Deposited', '{\"amount\": 1}'); SAVEPOINT s; $call->{call}; ROLLBACK TO s; COMMIT;",
		"BEGIN; SAVEPOINT s; $call->{call}; RELEASE s; SELECT es.append('account', '6', 'Deposited', '{\"amount\": 1}'); COMMIT;",
		"DO \$do\$ BEGIN FOR i IN 1 .. 3 LOOP BEGIN $call->{do}; EXCEPTION WHEN OTHERS OR query_canceled THEN NULL; END; END LOOP; END \$do\$;",
		"BEGIN; $call->{call}; PREPARE TRANSACTION 'p$session'; COMMIT PREPARED 'p$session';",
		"BEGIN; $call->{call}; SELECT pg_sleep(0.02); COMMIT;")[ rand 8 ];

	return qq(
$call->{before}
SET statement_timeout = $statement_timeout;
SET lock_timeout = $lock_timeout;
$body
RESET statement_timeout; RESET lock_timeout;
ROLLBACK;
RESET statement_timeout; RESET lock_timeout;
ROLLBACK PREPARED 'p$session';
SELECT es.append('session', '$session', 'Went on', metadata => '$number');
SELECT es.append('session', '$session', 'Went on', metadata => '$number');
\\echo SESSION $number :SQLSTATE
);
}

# Judges a session that has ended.
sub finish
{
	my ($session) = @_;

	$session->{psql}->finish;
	while ($session->{stdout} =~ /^SESSION (\d+) (\S+)/mg)
	{
		my ($step, $code) = ($1, $2);

		# Whom pg_cancel_backend() has chosen may be at work on this, and whoever waits may
		# be the one that the deadlock detector ends.
		push @found, "step $step: the session's next append ends with $code" unless grep { $code eq $_ } qw(00000 57014 40P01);
	}
	push @found, "session $session->{number} has not come to its end: $session->{stderr}" unless $session->{stdout} =~ /^END/m;
	$session->{psql} = undef;
}
