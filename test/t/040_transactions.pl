# Every function and view of schema es (the catalogs name them) in every kind of
# transaction: isolation levels, read only, savepoints, exception blocks, cursors, prepared
# statements across DDL, prepared transactions, parallel queries.
#
# The oracle.  Each call ends as its entry in EsCalls says.  After it the log, the state
# tables, the registry and the locks have no problem; what was rolled back has left
# everything as it was, down to the catalogs' rows; the session goes on working.  The
# server's log has no internal error and no warning of leaked resources.
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

my $node = PostgreSQL::Test::Cluster->new('transactions');
$node->init;
$node->append_conf('postgresql.conf', EsServerLog::settings() . q(
max_prepared_transactions = 10
autovacuum = off
));
$node->start;
my $template = $node->basedir . '/domain.sql';
append_to_file($template, EsCalls::domain());
$node->safe_psql('postgres', 'CREATE DATABASE domain');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('domain'), '-f', $template ],
	'the domain is there');
is($node->safe_psql('domain', 'SELECT problems()'), '', 'and has no problem');

# --- nothing is forgotten -----------------------------------------------------

my $calls = EsCalls::calls();
my @known = split /\n/, $node->safe_psql('domain', q(
SELECT proname FROM pg_proc WHERE pronamespace = 'es'::regnamespace UNION
SELECT relname FROM pg_class WHERE relnamespace = 'es'::regnamespace AND relkind = 'v' ORDER BY 1));
is_deeply([ sort keys %$calls ], \@known, 'every function and view of schema es has calls, and there are no others');

# The marks, those of views being the worst of what they call.
my %marks = map { split /\|/ } split /\n/, $node->safe_psql('domain', q(
SELECT proname, proparallel FROM pg_proc WHERE pronamespace = 'es'::regnamespace));
foreach my $call (EsCalls::all(1))
{
	is($marks{ $call->{name} }, $call->{parallel}, "$call->{title}: parallel mark") if $marks{ $call->{name} };
}

# --- the cases ----------------------------------------------------------------

my $elsewhere = q(\! psql -X -q -o /dev/null -c "SELECT es.append('account', a, 'Deposited', '{\"amount\": 1}') FROM unnest('{1,2}'::text[]) AS a UNION ALL SELECT es.append('late', '1', 'Seen')"
);
my $forced = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';

# Each case is a name, a function that says whether it applies, a script, and the
# expected SQLSTATE.  In the script, <call> is the call and <note> the place where its
# SQLSTATE is looked at.
my @cases = (
	[ 'plain', sub { 1 }, '<call>', sub { undef } ],
	[ 'repeatable read', sub { 1 },
		'BEGIN ISOLATION LEVEL REPEATABLE READ; <call> COMMIT;', sub { $_[0]->{snapshot} } ],
	[ 'serializable', sub { 1 },
		'BEGIN ISOLATION LEVEL SERIALIZABLE; <call> COMMIT;', sub { $_[0]->{snapshot} } ],
	[ 'repeatable read, behind', sub { 1 },
		"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM es.events;\n$elsewhere<call> COMMIT;",
		sub { $_[0]->{behind} // $_[0]->{snapshot} } ],
	[ 'serializable, behind', sub { 1 },
		"BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM es.events;\n$elsewhere<call> COMMIT;",
		sub { $_[0]->{behind} // $_[0]->{snapshot} } ],
	[ 'read only', sub { 1 },
		'<same>BEGIN READ ONLY; <call> COMMIT;<as before>', sub { $_[0]->{writes} ? '25006' : undef } ],
	[ 'deferrable', sub { 1 },
		'<same>BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; <call> COMMIT;<as before>',
		sub { $_[0]->{writes} ? '25006' : $_[0]->{snapshot} } ],
	[ 'rolled back', sub { 1 }, '<same>BEGIN; <call> ROLLBACK;<as before>', sub { undef } ],
	[ 'savepoint', sub { 1 },
		'<same>BEGIN; SAVEPOINT s; <call> ROLLBACK TO s; COMMIT;<as before>', sub { undef } ],
	[ 'savepoint, then again', sub { 1 },
		'BEGIN; SAVEPOINT s; <call> ROLLBACK TO s; <call> RELEASE s; COMMIT;', sub { undef } ],
	[ 'savepoints, appends around', sub { $_[0]->{name} !~ /^wait_for$/ },
		q(BEGIN; SELECT es.append('account', '3', 'Deposited', '{"amount": 1}'); SAVEPOINT s; SAVEPOINT t; <call>
		RELEASE t; ROLLBACK TO s; SELECT es.append('account', '3', 'Deposited', '{"amount": 1}'); COMMIT;),
		sub { undef } ],
	[ 'exception block', sub { 1 },
		q(<same>DO $do$ BEGIN EXECUTE <literal>; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END $do$; <note><as before>),
		sub { undef } ],
	[ 'caught', sub { 1 },
		q(DO $do$ BEGIN FOR i IN 1 .. 3 LOOP BEGIN EXECUTE <literal>; IF i < 3 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $do$; <note>), sub { undef } ],
	[ 'cursor', sub { !$_[0]->{plain} },
		q(BEGIN; DECLARE c CURSOR FOR <sql>; FETCH 1 FROM c; <note> FETCH ALL FROM c; CLOSE c; COMMIT;), sub { undef } ],
	[ 'cursor, appends between', sub { !$_[0]->{plain} && !$_[0]->{writes} },
		q(BEGIN; DECLARE c CURSOR FOR <sql>; FETCH 1 FROM c; <note>
		SELECT es.append('account', '1', 'Deposited', '{"amount": 1}'); FETCH ALL FROM c; CLOSE c; COMMIT;), sub { undef } ],
	[ 'cursor, savepoint', sub { !$_[0]->{plain} },
		q(<same>BEGIN; SAVEPOINT s; DECLARE c CURSOR FOR <sql>; FETCH 1 FROM c; <note> ROLLBACK TO s; COMMIT;<as before>), sub { undef } ],
	[ 'cursor, left open', sub { !$_[0]->{plain} },
		q(<same>BEGIN; DECLARE c CURSOR FOR <sql>; SAVEPOINT s; FETCH 1 FROM c; <note> ROLLBACK TO s; ROLLBACK;<as before>), sub { undef } ],
	[ 'cursor with hold', sub { !$_[0]->{plain} },
		q(BEGIN; DECLARE h CURSOR WITH HOLD FOR <sql>; COMMIT; <note> FETCH ALL FROM h; CLOSE h;), sub { undef } ],
	[ 'loop with exit', sub { !$_[0]->{plain} },
		q(DO $do$ DECLARE r record; BEGIN FOR r IN <sql> LOOP EXIT; END LOOP; END $do$; <note>), sub { undef } ],
	[ 'limit', sub { !$_[0]->{plain} }, q(WITH q AS (<sql>) SELECT * FROM q LIMIT 1; <note>), sub { undef } ],
	[ 'prepare, commit', sub { 1 },
		q(BEGIN; <call> PREPARE TRANSACTION :'session'; COMMIT PREPARED :'session';), sub { undef } ],
	[ 'prepare, roll back', sub { 1 },
		q(<same>BEGIN; <call> PREPARE TRANSACTION :'session'; ROLLBACK PREPARED :'session';<as before>), sub { undef } ],
	[ 'parallel plan', sub { !$_[0]->{plain} && $_[0]->{parallel} ne 'u' }, "SET $forced = on; <call> RESET $forced;", sub { undef } ],
	# A function that wrongly says that it may run in a worker.
	[ 'parallel worker', sub { 1 },
		qq(CREATE FUNCTION lie() RETURNS integer LANGUAGE plpgsql PARALLEL SAFE AS \$lie\$ BEGIN EXECUTE <literal>; RETURN 1; END \$lie\$;
		<same>SET $forced = on; SELECT lie(); <note> RESET $forced;<as before> DROP FUNCTION lie();),
		sub { $_[0]->{parallel} eq 's' ? undef : 'any' } ],
	# Statements that were planned before what they use changes.
	[ 'prepared statement', sub { !$_[0]->{plain} },
		q(PREPARE p AS <sql>; EXECUTE p; <note>
		ALTER TABLE account ADD COLUMN more integer DEFAULT 1;<again> EXECUTE p; <note>
		ALTER TABLE account ADD COLUMN most text; ALTER TABLE account DROP COLUMN more;<again> EXECUTE p; <note>
		CREATE OR REPLACE FUNCTION total_apply(state total, event es.events) RETURNS total LANGUAGE sql IMMUTABLE
		RETURN ROW(event.event_type, coalesce(state.events, 0) + 1)::total;<again> EXECUTE p; <note>
		ALTER TABLE account DROP COLUMN most;<again> EXECUTE p; <note>
		DEALLOCATE p;),
		sub { undef } ],
	[ 'extension dropped and created', sub { !$_[0]->{utility} },
		q(PREPARE p AS <sql>; EXECUTE p; <note>
		DROP EXTENSION pg_eventsourcing CASCADE;
		EXECUTE p; <gone>
		DROP TABLE account, total, line, tally, later, idle, parts CASCADE;
		DROP TABLE IF EXISTS fresh1, empty1 CASCADE;
		CREATE EXTENSION pg_eventsourcing;
		<projections>
<again>
		EXECUTE p; <note anew>), sub { undef } ],
);

# Each call in a session and a database of its own, where it goes through all cases; two at
# a time.  Without ES_LONG only the first call of each function.
my @all = grep { $ENV{ES_LONG} || $_->{variant} == 1 } EsCalls::all(1);
my @running;

# For psql, also the one that a script runs with \!.
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;

foreach my $number (0 .. $#all)
{
	finish(shift @running) if @running >= 2;
	push @running, start($all[$number], $number);
}
finish($_) foreach @running;

$node->stop;
EsServerLog::check($node, 'the server has nothing to say');
done_testing();

# Starts the session of a call.
sub start
{
	my ($call, $number) = @_;
	my $run = { call => $call, expected => {}, database => "case$number", stdout => '', stderr => '' };
	my $script = $node->basedir . "/case$number.sql";
	local $ENV{PGDATABASE} = $run->{database};

	append_to_file($script, script($call, $run->{expected}));
	$node->safe_psql('postgres', "CREATE DATABASE $run->{database} TEMPLATE domain");
	$run->{psql} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', "session=$number", '-f', $script ],
		'<', \undef, '>', \$run->{stdout}, '2>', \$run->{stderr});
	return $run;
}

# Waits for the end of a session and judges it.
sub finish
{
	my ($run) = @_;

	$run->{psql}->finish;
	my @found = judge($run->{expected}, $run->{stdout});
	is(join("\n", @found), '', $run->{call}{title}) or diag "stderr: $run->{stderr}";
	$node->safe_psql('postgres', "DROP DATABASE $run->{database}");
}

# The script of a call: all cases that apply to it.
sub script
{
	my ($call, $expected) = @_;
	my $text = "\\o /dev/null\nSET client_min_messages = error;\n";

	foreach my $case (@cases)
	{
		my ($name, $applies, $body, $code) = @$case;

		next unless $applies->($call);
		$expected->{$name} = $code->($call) // $call->{code} // '00000';
		$text .= "\n\\echo CASE $name\n" . expand($body, $call) . "\n$call->{after}\n";
		$text .= "ROLLBACK;\n" . q(\o
SELECT 'PROBLEM ' || problems();
\o /dev/null
SELECT es.append('session', 'goes on', 'x');
\echo SESSION :SQLSTATE
);
	}
	return "$text\\echo END\n";
}

# Puts a call into the script of a case.
sub expand
{
	my ($body, $call) = @_;
	my $note = "\n\\echo CODE :SQLSTATE\n\\if :ERROR\n\\echo ERROR :LAST_ERROR_MESSAGE\n\\endif\n";
	my $literal = "'" . ($call->{call} =~ s/'/''/gr) . "'";
	my $same = "SELECT fingerprint() AS before \\gset\n";
	my $after = "\nROLLBACK;\n\\o\nSELECT 'PROBLEM ' || differences(:'before', fingerprint());\n\\o /dev/null\n";

	$body =~ s/<call>/\n$call->{call};<note>/g;
	$body =~ s/<again>/\n$call->{after}\n$call->{before}\n/g;
	$body =~ s/<same>/\n$same/g;
	$body =~ s/<as before>/$after/g;
	$body =~ s/<note>/$note/g;
	$body =~ s/<note anew>/$call->{anew} ? "\n\\echo ANEW :SQLSTATE\n" : $note/ge;
	$body =~ s/<gone>/\n\\echo GONE :SQLSTATE\n/g;
	$body =~ s/<projections>/EsCalls::projections() . EsCalls::events()/ge;
	$body =~ s/<literal>/$literal/g;
	$body =~ s/<sql>/$call->{call}/g;
	return "$call->{before}\n$body";
}

# Compares what the script of a call has printed with what was expected.
sub judge
{
	my ($expected, $stdout) = @_;
	my $case = 'start';
	my (@found, %seen, $wrong, $ended);

	foreach (split /\n/, $stdout)
	{
		my ($word, $value) = /^(\S+) ?(.*)/ or next;

		if ($word eq 'CASE') { $case = $value; }
		elsif ($word eq 'CODE')
		{
			my $want = $expected->{$case};

			$seen{$case}++;
			$wrong = $want eq 'any' ? $value =~ /^XX/ : $value ne $want;
			push @found, "$case: $value instead of $want" if $wrong;
		}
		elsif ($word eq 'ERROR') { push @found, "    $value" if $wrong; }
		elsif ($word eq 'ANEW') { push @found, "$case: $value of a type that is gone" if $value ne '0A000'; }
		elsif ($word eq 'GONE') { push @found, "$case: $value without the extension" unless grep { $value eq $_ } qw(42883 42P01 3F000); }
		elsif ($word eq 'SESSION') { push @found, "$case: the session's next append ends with $value" if $value ne '00000'; }
		elsif ($word eq 'PROBLEM') { push @found, "$case: $value"; }
		elsif ($word eq 'END') { $ended = 1; }
	}
	push @found, 'the session has not come to its end' unless $ended;
	push @found, map { "$_: not seen" } grep { !$seen{$_} } sort keys %$expected;
	return @found;
}
