# The memory of one backend stays flat, whatever it does however often: appends, appends
# that fail, definitions of projections, changes of statements, reads, replays, fetches.
#
# PostgreSQL itself keeps about 1 kB in its caches for each table that is created and
# dropped, and so for each replay, which builds a table.  How much that is, is measured.
#
# Each loop runs for a while first, so that caches are warm; then its memory contexts
# and its private resident memory are looked at before and after many more rounds.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsCalls;
use EsServerLog;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# How many rounds of each loop, in make check and make check-world.
my @loops = (
	[ 'tables', 50, 1_000, q(EXECUTE 'CREATE TABLE passing (id text PRIMARY KEY, n bigint)'; EXECUTE 'DROP TABLE passing') ],
	# name, rounds, rounds in make check-world, what is done in a round (n is its number)
	[ 'caught failures', 400, 10_000, q(BEGIN PERFORM es.append('account', '1', 'Deposited', '{"amount": "many"}'); EXCEPTION WHEN OTHERS THEN NULL; END) ],
	[ 'caught mismatches', 400, 10_000, q(BEGIN PERFORM es.append('account', '1', 'Deposited', '{}', expected_version => 0); EXCEPTION WHEN OTHERS THEN NULL; END) ],
	[ 'definitions', 33, 1_000, q(PERFORM es.create_projection('made', 'made', 'made_apply', aggregate_types => '{late}'); PERFORM es.append('late', '1', 'x'); PERFORM es.drop_projection('made')) ],
	[ 'async definitions', 16, 1_000, q(PERFORM es.create_projection('made', 'made', 'made_apply', aggregate_types => '{late}', mode => 'async'); PERFORM es.drop_projection('made')) ],
	[ 'statements', 33, 1_000, q(PERFORM es.set_handler('line', 'x', 'INSERT INTO line VALUES (event.position, left(event.event_type, 10000 + ' || n || '))'); PERFORM es.append('account', '1', 'x')) ],
	[ 'batch statements', 16, 1_000, q(PERFORM es.set_batch_handler('tally', 'INSERT INTO tally AS t SELECT ''2000-01-01''::date, count(*) FROM events WHERE ' || n || ' > 0 ON CONFLICT (day) DO UPDATE SET events = t.events + excluded.events'); PERFORM es.append('late', '1', 'x')) ],
	[ 'alterations', 16, 1_000, q(PERFORM es.alter_projection('idle', enabled => n % 2 = 0); PERFORM es.append('account', '1', 'x')) ],
	[ 'apply functions', 16, 500, q(EXECUTE 'CREATE OR REPLACE FUNCTION total_apply(state total, event es.events) RETURNS total LANGUAGE sql IMMUTABLE RETURN ROW(event.event_type, coalesce(state.events, 0) + 1 + 0 * ' || n || ')::total'; PERFORM es.append('account', '1', 'x')) ],
	[ 'reads', 200, 10_000, q(PERFORM count(*) FROM es.read_all(n, 100); PERFORM count(*) FROM es.read_aggregate('account', '1', max_count => 10); PERFORM es.high_water_mark(), es.current_version('account', '1')) ],
	[ 'loads', 200, 10_000, q(PERFORM es.load(NULL::account, 'account', (n % 100)::text, as_of_version => 10)) ],
	[ 'replays', 4, 100, q(PERFORM count(*) FROM es.replay('small')) ],
	[ 'replays of statements', 4, 100, q(PERFORM count(*) FROM es.replay('small_line')) ],
	[ 'rows', 4, 200, q(PERFORM es.replay_keys('small', '{1,2}'); PERFORM count(*) FROM es.verify_projection('small')) ],
	[ 'copies', 4, 100, q(PERFORM es.create_environment('past', 50, projections => '{small}'); EXECUTE 'DROP SCHEMA past CASCADE') ],
	[ 'async runs', 16, 1_000, q(PERFORM es.append('late', '1', 'x'); COMMIT; PERFORM es.run_projections()) ],
	[ 'fetches', 33, 2_000, q(PERFORM es.append('account', (n % 50)::text, 'Deposited', '{"amount": 1}'); COMMIT; PERFORM count(*) FROM es.fetch('reader', 10); PERFORM es.ack(max(lease_id)) FROM es.subscriptions WHERE name = 'reader' HAVING max(lease_id) IS NOT NULL) ],
	[ 'nacks', 16, 1_000, q(PERFORM es.nack((SELECT max(f.lease_id) FROM es.fetch('nacker', 1) AS f), (SELECT min(position) FROM es.events WHERE position > (SELECT checkpoint FROM es.subscriptions WHERE name = 'nacker')), 'no', false)) ],
	[ 'subscriptions', 16, 1_000, q(PERFORM es.create_subscription('s'); PERFORM es.playback('s', 0, 5); PERFORM es.seek('s', 3); PERFORM es.drop_subscription('s')) ],
	[ 'rights', 16, 1_000, q(PERFORM es.grant_writer('pg_monitor', ARRAY['t' || n % 10]); PERFORM es.revoke_writer('pg_monitor')) ],
	# Last, and with few projections left, as they are many.
	[ 'appends', 40, 10_000, q(PERFORM es.append('account', (n % 1000 + i)::text, 'Deposited', '{"amount": 1}') FROM generate_series(1, 100) AS i) ],
	[ 'batches', 6, 1_000, q(PERFORM count(*) FROM es.append_batch((SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'account', 'aggregate_id', (i % 50)::text, 'event_type', 'Deposited', 'data', '{"amount": 1}'::jsonb)) FROM generate_series(1, 200) AS i))) ],
	[ 'inserts', 6, 1_000, q(INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) SELECT 'account', (i % 100)::text, 'Deposited', '{"amount": 1}' FROM generate_series(1, 200) AS i) ],
);

my $node = PostgreSQL::Test::Cluster->new('memory');
$node->init;
$node->append_conf('postgresql.conf', EsServerLog::settings() . q(
log_min_messages = warning
log_min_error_statement = panic
max_wal_size = 2GB
autovacuum_naptime = 5s
));
$node->start;
$node->safe_psql('postgres', EsCalls::domain() . q(
CREATE TABLE made (id text PRIMARY KEY, n bigint);
CREATE FUNCTION made_apply(state made, event es.events) RETURNS made LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::made;
CREATE TABLE small (id text PRIMARY KEY, n bigint);
CREATE FUNCTION small_apply(state small, event es.events) RETURNS small LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.n, 0) + 1)::small;
SELECT es.create_projection('small', 'small', 'small_apply', aggregate_types => '{late}');
CREATE TABLE small_line (position bigint PRIMARY KEY);
SELECT es.create_projection('small_line', 'small_line', aggregate_types => '{late}');
SELECT es.set_handler('small_line', NULL, 'INSERT INTO small_line VALUES (event.position)');
SELECT es.create_subscription('reader', aggregate_types => '{account}', partitions => 2);
SELECT es.create_subscription('nacker', aggregate_types => '{account}', max_attempts => NULL);
));

# What a session uses of its memory contexts, and what of it is resident and not shared, in kB.
my $look = q(SELECT coalesce((SELECT sum(used_bytes) / 1024 FROM pg_backend_memory_contexts), 0)::bigint || ' ' ||
	(SELECT (f[2]::bigint - f[3]::bigint) * 4 FROM (SELECT string_to_array(pg_read_file('/proc/' || pg_backend_pid() || '/statm'), ' ') AS f) AS s););
plan skip_all => 'no /proc' unless -e '/proc/self/statm';

my $text = "\\set ON_ERROR_STOP on\nSET client_min_messages = error;\n";
# Statements that fail, each in a transaction of its own.
my $failures = $ENV{ES_LONG} ? 10_000 : 500;
$text .= "\\set ON_ERROR_STOP off\n";
foreach my $part ([ 100, 'BEFORE' ], [ $failures, 'AFTER' ])
{
	foreach my $n (1 .. $part->[0])
	{
		$text .= (q(SELECT es.append('account', '1', 'Deposited', '{"amount": "many"}');),
			q(SELECT * FROM es.append_batch('[{"aggregate_type": "account"}]');), q(SELECT es.create_projection('other', 'account', 'account_apply');),
			q(SELECT es.set_handler('line', 'x', 'INSERT INTO nowhere VALUES (1)');), q(SELECT * FROM es.replay('later');), q(UPDATE account SET balance = 0;),
			q(SELECT es.load(NULL::account, 'account', '1', 'nowhere');), q(SELECT es.ack(-1);))[ $n % 8 ] . "\n";
	}
	$text .= "\\echo $part->[1] failures\n$look\n";
}
$text .= "\\set ON_ERROR_STOP on\n";
foreach my $loop (@loops)
{
	my ($name, $few, $many, $body) = @$loop;
	my $rounds = $ENV{ES_LONG} ? $many : $few;
	my $block = sub {
		my ($from, $to) = @_;
		return "DO \$do\$ BEGIN FOR n IN $from .. $to LOOP $body; COMMIT; END LOOP; END \$do\$;\n";
	};

	$text .= "SELECT es.drop_projection(p) FROM unnest('{total,line,tally,parts,later}'::text[]) AS p;\n" if $name eq 'appends';
	$text .= "\\echo LOOP $name\n";
	$text .= $block->(1, int($rounds / 4) + 2) . "\\echo BEFORE $name\n$look\n" . $block->(int($rounds / 4) + 3, int($rounds / 4) + 2 + $rounds) . "\\echo AFTER $name\n$look\n";
}

my $script = $node->basedir . '/loops.sql';

append_to_file($script, $text);
my ($stdout, $stderr) = run_command([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres'), '-f', $script ]);
my %seen;

while ($stdout =~ /^(BEFORE|AFTER) (.*)\n(\d+) (\d+)$/mg)
{
	$seen{$2}{$1} = [ $3, $4 ];
}
my %rounds = ((map { $_->[0] => $_->[ $ENV{ES_LONG} ? 2 : 1 ] } @loops), failures => $failures / 8);
my $per_table = defined $seen{tables}{AFTER} ? ($seen{tables}{AFTER}[0] - $seen{tables}{BEFORE}[0]) / $rounds{tables} : 0;

foreach my $name ((map { $_->[0] } @loops), 'failures')
{
	my $tables = $name =~ /^(tables|definitions|async definitions|replays|replays of statements|copies|failures)$/ ? $rounds{$name} : 0;
	my ($before, $after) = @{ $seen{$name} }{qw(BEFORE AFTER)};

	ok(defined $after, "$name: came to an end") or next;
	cmp_ok($after->[0] - $before->[0], '<', 256 + 2 * $per_table * $tables, "$name: memory contexts don't grow")
	  or diag "from $before->[0] kB to $after->[0] kB";
	cmp_ok($after->[1] - $before->[1], '<', 8192, "$name: nor does resident memory")
	  or diag "from $before->[1] kB to $after->[1] kB";
	note "$name: contexts $before->[0] to $after->[0] kB, resident $before->[1] to $after->[1] kB";
}
diag join("\n", grep { $_ !~ /many|nowhere|malformed/ } (split /\n/, $stderr)[ 0 .. 5 ]) if !defined $seen{failures}{AFTER};
is($node->safe_psql('postgres', 'SELECT problems()'), '', 'nothing is wrong in the end');
$node->stop;
EsServerLog::check($node, 'the server has nothing to say');
done_testing();
