# The worker of a database: async projections are kept up without anybody
# calling es.run_projections(), one that fails doesn't keep the others, the
# worker's own errors and DROP EXTENSION don't end it, NOTIFY es_events comes from
# it and not from writers, and it does nothing while there is nothing to do.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = PostgreSQL::Test::Cluster->new('worker');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
shared_preload_libraries = 'pg_eventsourcing'
es.worker_databases = 'postgres'
max_prepared_transactions = 10
restart_after_crash = on
));
$node->start;

my $worker = q(backend_type = 'pg_eventsourcing worker' AND datname = 'postgres');
my $setup = q(
CREATE EXTENSION pg_eventsourcing;

CREATE TABLE counts (id text PRIMARY KEY, n bigint);
CREATE FUNCTION counts_apply(state counts, event es.events) RETURNS counts
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::counts;
SELECT es.create_projection('counts', 'counts', 'counts_apply', mode => 'async');

CREATE TABLE lines (position bigint PRIMARY KEY);
SELECT es.create_projection('lines', 'lines', mode => 'async');
SELECT es.set_handler('lines', NULL, 'INSERT INTO lines VALUES (event.position)');

CREATE TABLE totals (event_type text PRIMARY KEY, n bigint);
SELECT es.create_projection('totals', 'totals', mode => 'async');
SELECT es.set_batch_handler('totals', $$
	INSERT INTO totals AS t SELECT event_type, count(*) FROM events GROUP BY 1
	ON CONFLICT (event_type) DO UPDATE SET n = t.n + excluded.n$$);
);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Appends an event and waits until a projection has it.
sub kept_up
{
	my ($projection) = @_;

	my $at = sql(q(SELECT position FROM es.append_events('a', 'kept', '[{"event_type": "kept"}]')));
	return sql("SELECT es.wait_for('$projection', $at, '60s')");
}

sub worker_pid { return sql("SELECT pid FROM pg_stat_activity WHERE $worker") }

# --- projections --------------------------------------------------------------

ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE $worker"),
	'the database has a worker before it has the extension');
sql($setup);
is(kept_up($_), 't', "$_ is kept up") foreach qw(counts lines totals);
is( sql('SELECT (SELECT sum(n) FROM counts), (SELECT count(*) FROM lines), (SELECT sum(n) FROM totals), (SELECT count(*) FROM es.events)'),
	'3|3|3|3',
	'with every event');
is( sql("SELECT count(*), min(application_name), bool_and(xact_start IS NULL) FROM pg_stat_activity WHERE $worker AND state = 'idle'"),
	'1|pg_eventsourcing worker|t',
	'it is seen in pg_stat_activity, and has no transaction open');

# A function that fails: the projection stops; the others go on.
sql(q(
CREATE TABLE bad (id text PRIMARY KEY, n bigint);
CREATE FUNCTION bad_apply(state bad, event es.events) RETURNS bad
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 1 / (event.data->>'n')::integer)::bad;
SELECT es.create_projection('bad', 'bad', 'bad_apply', event_types => '{bad}', mode => 'async', populate => false);
SELECT es.append('a', 'bad', 'bad', '{"n": 0}');
));
ok( $node->poll_query_until('postgres', q(SELECT status = 'stopped' FROM es.projections WHERE name = 'bad')),
	'a projection that fails is stopped');
is(kept_up($_), 't', "$_ goes on") foreach qw(counts lines totals);
sql(q(CREATE OR REPLACE FUNCTION bad_apply(state bad, event es.events) RETURNS bad
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 1)::bad));
is(sql(q(SELECT status FROM es.projections WHERE name = 'bad')), 'stopped', 'one that is stopped is left alone');
is(sql(q(SELECT es.run_projections('bad') > 0)), 't', 'until somebody runs it');
is(kept_up('bad'), 't', 'then it is kept up again');
sql(q(SELECT es.drop_projection('bad')));

# One that fails on every event is run bit by bit as well.
sql(q(
CREATE OR REPLACE FUNCTION bad_apply(state bad, event es.events) RETURNS bad
LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 1 / (event.data->>'n')::integer)::bad;
SELECT es.create_projection('bad', 'bad', 'bad_apply', event_types => '{bad}', mode => 'async', on_error => 'park', populate => false);
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) SELECT 'a', 'bad', 'bad', '{"n": 0}' FROM generate_series(1, 1000);
));
is(kept_up($_), 't', "$_ is kept up") foreach qw(bad counts);
is(sql(q(SELECT count(*), count(DISTINCT xmin::text) >= 10 FROM es.projection_parked)), '1000|t', 'events are parked in many transactions');
sql(q(SELECT es.drop_projection('bad')));

# Somebody holds a lock on a state table: the others go on.
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE counts');
is(kept_up($_), 't', "$_ goes on beside a table that is locked") foreach qw(lines totals);
is(sql("SELECT checkpoint < (SELECT max(position) FROM es.events) FROM es.projections WHERE name = 'counts'"),
	't', 'which is behind');
$locker->query_safe('COMMIT');
is(kept_up('counts'), 't', 'and follows when it can');

# An error that no event is to blame for is tried again: a statement waits for a row.
sql(q(
CREATE TABLE slow (id integer PRIMARY KEY, n bigint NOT NULL);
INSERT INTO slow VALUES (1, 0);
SELECT es.create_projection('slow', 'slow', mode => 'async', populate => false, protect => false);
SELECT es.set_handler('slow', NULL, 'UPDATE slow SET n = n + 1 WHERE id = 1');
));
$locker->query_safe('BEGIN; SELECT * FROM slow FOR UPDATE');
my $position = sql(q(SELECT position FROM es.append_events('a', 'slow', '[{"event_type": "slow"}]')));
ok( $node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE $worker"),
	'the worker waits for a row');
my $log = -s $node->logfile;
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE $worker");
ok($node->wait_for_log(qr/ERROR: .*canceling statement.*\n.*CONTEXT: .*worker: projection "slow"/s, $log),
	'what it was doing can be cancelled, and the log says what it was');
my $pid = worker_pid();
is(kept_up($_), 't', "$_ goes on") foreach qw(counts lines);
$locker->query_safe('COMMIT');
is(sql("SELECT es.wait_for('slow', $position, '60s')"), 't', 'it is tried again');
is(worker_pid(), $pid, 'by the same worker');
is(sql(q(SELECT status FROM es.projections WHERE name = 'slow')), 'running', 'and was not stopped');

# A deadlock.
$locker->query_safe(q(BEGIN; SET LOCAL deadlock_timeout = '1h'; SELECT * FROM slow FOR UPDATE));
$position = sql(q(SELECT position FROM es.append_events('a', 'slow', '[{"event_type": "slow"}]')));
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE $worker");
$locker->query_safe('LOCK TABLE slow IN SHARE ROW EXCLUSIVE MODE; COMMIT');
is(sql("SELECT es.wait_for('slow', $position, '60s')"), 't', 'a deadlock costs the worker nothing but time');
sql(q(SELECT es.drop_projection('slow')));

# A transaction that stays prepared holds the mark; its end is noticed.
sql(q(BEGIN; SELECT es.append('a', 'prepared', 'e'); PREPARE TRANSACTION 'p'));
$position = sql(q(SELECT position FROM es.append_events('a', '2', '[{"event_type": "e"}]')));
is(sql("SELECT es.wait_for('lines', $position, '200ms')"), 'f', 'a prepared transaction holds the mark');
sql(q(COMMIT PREPARED 'p'));
is(sql("SELECT es.wait_for('lines', $position, '60s')"), 't', 'until its end');

# --- settings -----------------------------------------------------------------

$node->append_conf('postgresql.conf', q(es.worker_databases = 'postgres, "postgres'));
$log = -s $node->logfile;
$node->reload;
ok($node->wait_for_log(qr/invalid value for parameter "es.worker_databases"/, $log), 'a list that can not be read is refused');
is(kept_up('lines'), 't', 'and changes nothing');
$node->append_conf('postgresql.conf', q(es.worker_databases = 'nowhere, "No Where"'));
$log = -s $node->logfile;
$node->reload;
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE $worker"),
	'a database that is no longer listed loses its worker');
ok($node->wait_for_log(qr/database "No Where" of es.worker_databases does not exist/, $log), 'the log tells of names that do not exist');
is(sql(q(SELECT count(*) FROM es.append_events('a', '1', '[{"event_type": "e"}]'))), '1', 'appending goes on without');
is(sql('SELECT es.run_projections() > 0'), 't', 'so do projections, when somebody runs them');
$node->append_conf('postgresql.conf', q(
es.worker_databases = '"postgres"'
es.worker_naptime = 300ms));
$node->reload;
is(kept_up('lines'), 't', 'a database that is listed again gets one');

# --- terminated -----------------------------------------------------------------

$pid = worker_pid();
sql("SELECT pg_terminate_backend($pid, 10000)");
is(kept_up('lines'), 't', 'a worker that is terminated is started again');
isnt(worker_pid(), $pid, 'as another process');
$pid = worker_pid();
sql(q(SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing launcher'));
is(kept_up('lines'), 't', 'the worker does not need the launcher');
ok( $node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_eventsourcing launcher')),
	'the launcher is started again');
is(worker_pid(), $pid, 'and finds the worker');

# --- the extension ---------------------------------------------------------------

$position = sql('SELECT max(position) FROM es.events');
sql(q(SELECT es.append('a', '1', 'e') FROM generate_series(1, 20000)));
ok($node->poll_query_until('postgres', "SELECT max(position) > $position FROM lines"), 'the worker is at it');
sql("SET lock_timeout = '60s'; DROP EXTENSION pg_eventsourcing CASCADE");
ok(worker_pid() == $pid, 'DROP EXTENSION goes through, and the worker stays');
sql("DROP TABLE counts, lines, totals; $setup");
is(kept_up($_), 't', "$_ is kept up in the new log") foreach qw(counts lines totals);
is(sql('SELECT (SELECT sum(n) FROM counts), (SELECT count(*) FROM lines), (SELECT max(position) FROM es.events)'),
	'3|3|3', 'from its first event on');
ok(worker_pid() == $pid, 'by the same worker');
sql('BEGIN; DROP EXTENSION pg_eventsourcing CASCADE; ROLLBACK');
is(kept_up('lines'), 't', 'also if that is undone');

# --- NOTIFY ------------------------------------------------------------------------

$pid = worker_pid();
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN es_events');
$node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid");
sleep 0.5;
$listener->query_safe('SELECT 1');
my $began = time;
my $writers = EsLoad->start($node, 'writers', { one => q(SELECT es.append('a', :client_id::text, 'e');) }, '-c', 4, '-T', 2);
my $result = $writers->finish;
my $mark = sql('SELECT es.high_water_mark()');
my @heard;
my $heard = '';
until ($heard =~ /payload "$mark"/ || time > $began + 60)
{
	$heard .= $listener->query('SELECT pg_sleep(0.1)');
}
my $seconds = time - $began;
@heard = $heard =~ /notification "es_events" with payload "(\d+)" received from server process with PID $pid\./g;
my $all = () = $heard =~ /Asynchronous notification/g;
is($heard[-1], $mark, 'the last NOTIFY tells the mark');
is(scalar @heard, $all, 'none comes from a writer');
cmp_ok($all, '>=', 2, 'there are several');
cmp_ok($all, '<=', 6 * $seconds + 2, 'but not one per event') or diag "$result->{processed} events in $seconds s";
is_deeply([ sort { $a <=> $b } @heard ], \@heard, 'with a mark that grows');

# --- at rest -----------------------------------------------------------------------

SKIP:
{
	skip 'needs /proc', 2 unless -r "/proc/$pid/stat" && -r "/proc/$pid/status";
	$node->poll_query_until('postgres', "SELECT lag = 0 FROM es.projections WHERE name = 'lines'");
	my @before = usage($pid);
	sleep 3;
	my @after = usage($pid);
	cmp_ok($after[0] - $before[0], '<=', 3, 'at rest it needs less than one percent of a processor');
	cmp_ok($after[1] - $before[1], '<=', 40, 'and hardly ever wakes up');
}
is( sql("SELECT bool_and(backend_xmin IS NULL AND backend_xid IS NULL AND xact_start IS NULL) FROM pg_stat_activity WHERE $worker"),
	't',
	'it holds back no vacuum');

# Ticks and context switches of a process.
sub usage
{
	my ($process) = @_;
	my @fields = split ' ', slurp_file("/proc/$process/stat") =~ s/^.*\) //sr;
	my ($switches) = slurp_file("/proc/$process/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;

	return ($fields[11] + $fields[12], $switches);
}

# --- crashes and shutdown ------------------------------------------------------------

$listener->quit;
$locker->quit;
sql(q(SELECT es.append('a', 'crash', 'e') FROM generate_series(1, 5000)));
$pid = worker_pid();
kill 'KILL', $pid;
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $next;
until (($next = eval { worker_pid() }) && $next != $pid)
{
	die "the server does not come back\n" if time > $deadline;
	sleep 0.1;
}
is(kept_up('lines'), 't', 'killed, it comes back with the server');
is(sql('SELECT count(*) FROM es.events FULL JOIN lines USING (position) WHERE lines.position IS NULL OR event_id IS NULL'),
	'0', 'and every event was applied once');

sql(q(SELECT es.append('a', 'crash', 'e') FROM generate_series(1, 5000)));
$node->stop('immediate');
$node->start;
is(kept_up($_), 't', "after a crash $_ is kept up") foreach qw(counts lines totals);
is( sql('SELECT (SELECT sum(n) FROM counts) = e.n, (SELECT count(*) FROM lines) = e.n, (SELECT sum(n) FROM totals) = e.n FROM (SELECT count(*) AS n FROM es.events) AS e'),
	't|t|t', 'and every event was applied once');

# In the middle of a run that would take long.
sql(q(
CREATE TABLE sleepy (id text PRIMARY KEY, n bigint);
SELECT es.create_projection('sleepy', 'sleepy', mode => 'async', populate => false);
SELECT es.set_handler('sleepy', NULL, 'SELECT pg_sleep(100)');
SELECT es.append('a', 'sleepy', 'e');
));
ok( $node->poll_query_until('postgres', "SELECT query = 'projection \"sleepy\"' AND wait_event = 'PgSleep' FROM pg_stat_activity WHERE $worker"),
	'the activity tells what it does');
$began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 20, 'it does not hold up a shutdown');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|segmentation/i, 'the log is clean');
done_testing();
