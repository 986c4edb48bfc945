# A generator of hostile SQL for schema es: calls of every function with random, huge, null,
# malformed arguments and such of a wrong type, INSERT and COPY into es.events, changes of
# the extension's own tables, DDL on what projections use, apply functions and statements
# that no honest user would register.
#
#   my $fuzz = EsFuzz->new($seed, \@functions);	 # functions as EsFuzz::query() returns them
#   print $fuzz->script(100, role => 'plain');
#
# One seed always gives the same script.  The objects that it names are those of
# EsCalls::domain().
package EsFuzz;

use strict;
use warnings FATAL => 'all';

# SQL whose result, one line per function with | in between, goes into new().
sub query
{
	return q(SELECT p.proname, p.proretset, p.prorettype::regtype, p.pronargs, p.pronargdefaults,
	(SELECT string_agg(coalesce(nullif(p.proargnames[n], ''), 'arg') || ' ' || replace(t.t::regtype::text, ' ', '_'), ',' ORDER BY n)
	   FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS t (t, n))
FROM pg_proc AS p WHERE p.pronamespace = 'es'::regnamespace ORDER BY p.oid::regprocedure::text);
}

sub new
{
	my ($class, $seed, $functions) = @_;
	my @functions;

	foreach my $line (@$functions)
	{
		my ($name, $set, $type, $n, $defaults, $arguments) = split /\|/, $line;
		my @arguments = map { [ split / / ] } split /,/, $arguments // '';

		push @functions, { name => $name, set => $set eq 't', type => $type, defaults => $defaults, arguments => \@arguments };
	}
	return bless { state => $seed & 0x7fffffff, functions => \@functions, number => 0 }, $class;
}

# --- chance ---------------------------------------------------------------------

# A number from 0 to $n - 1, the same on every machine.
sub below
{
	my ($self, $n) = @_;

	$self->{state} = ($self->{state} * 1103515245 + 12345) & 0x7fffffff;
	return int(($self->{state} >> 8) % $n);
}

sub pick
{
	my ($self, @list) = @_;

	return $list[ $self->below(scalar @list) ];
}

# True in one of $n cases.
sub rarely
{
	my ($self, $n) = @_;

	return $self->below($n) == 0;
}

sub literal
{
	my ($text) = @_;

	return 'NULL' unless defined $text;
	return "'" . ($text =~ s/'/''/gr) . "'" unless $text =~ /\\/;
	return " E'" . ($text =~ s/(['\\])/$1$1/gr) . "'";
}

# --- values ---------------------------------------------------------------------

my @projections = qw(account total line tally later idle parts liar);
my @tables = (@projections, qw(parts_default es.events es.projection es.projection_handler es.projection_checkpoint
  pg_catalog.pg_class information_schema.tables es.projections plain_view plain_mat spare spare2 temporary account_pkey
  es.events_position_seq pg_catalog.pg_proc pg_toast.pg_toast_2619 unlogged inherits_account no_key));
my @applies = (
	(map { "${_}_apply" } qw(account total later idle parts liar)),
	'public.account_apply', 'account_apply(account, es.events)', 'account_apply(account,es.events', 'account_apply(text)',
	'now', 'pg_catalog.now()', 'nowhere', '', '.', 'a.b.c.d', '"', '""', 'account_apply()', "account_apply\0" =~ s/\0//r, 'es.append', 'es.load',
	map({ "bad_$_" } 1 .. 23));
my @keys = (
	'aggregate_id', 'event_type', 'event_type, aggregate_id', 'version', 'position', q(data->>'k'), q((data->>'amount')::int),
	'now()', 'random()', '(SELECT 1)', 'generate_series(1, 3)', 'sum(version)', 'row_number() OVER ()', '1/0', '*', 'event', 'event.*',
	'nowhere', '$1', ':x', 'aggregate_id;', 'aggregate_id) FROM es.events; DROP TABLE account; --', '', ' ', '(((', 'NULL', 'NULL::text',
	q('x'::text COLLATE "C"), 'tableoid', 'ctid', 'xmin::text', 'aggregate_id || 1/version', '(data).x', 'ROW(1, 2)', 'DEFAULT', 'ARRAY[1]',
	'aggregate_id AS x', "aggregate_id --\n", 'CURRENT_USER', 'position::numeric ^ 1000', q(repeat(aggregate_id, 100000)), 'es.append(aggregate_type, aggregate_id, event_type)::text',
	map({ "lying_key(aggregate_id)" } 1 .. 4), 'lying_key(event_type), version', 'raising_key(aggregate_id)', 'appending_key(aggregate_id)', '(data->>$$k$$)::float8', 'nullif(aggregate_id, $$1$$)', 'pg_sleep(0.01)::text', 'events', 'left(aggregate_id, 1)', 'recorded_at', '(occurred_at AT TIME ZONE \'UTC\')::date');
my @statements = (
	'INSERT INTO line VALUES (event.position, event.event_type)', 'INSERT INTO line VALUES (event.position, event.event_type) ON CONFLICT DO NOTHING',
	'INSERT INTO line SELECT position, event_type FROM events', 'INSERT INTO line SELECT position, event_type FROM events ON CONFLICT DO NOTHING',
	'INSERT INTO spare SELECT event.aggregate_id, NULL, 1 ON CONFLICT (id) DO UPDATE SET balance = spare.balance + 1',
	'UPDATE spare SET balance = balance + 1 WHERE id = event.aggregate_id', 'DELETE FROM spare', 'DELETE FROM line', 'SELECT 1', 'SELECT event', 'SELECT event.*',
	'SELECT event.nowhere', 'SELECT * FROM events', 'TABLE events', 'DELETE FROM events', 'UPDATE events SET position = 1', 'SELECT events FROM events',
	'WITH events AS (SELECT 1 AS position) SELECT * FROM events', 'INSERT INTO es.events (aggregate_type, aggregate_id, event_type) VALUES (\'a\', \'b\', \'c\')',
	q(SELECT es.append('nested', event.aggregate_id, 'x')), q(SELECT es.append('nested', '1', 'x') FROM events),
	q(SELECT es.replay('account')), q(SELECT es.drop_projection('line')), q(SELECT es.set_handler('line', NULL, NULL)), 'SELECT es.run_projections()',
	'DROP TABLE line', 'TRUNCATE line', 'ALTER TABLE line ADD COLUMN z int', 'COMMIT', 'ROLLBACK', 'BEGIN', 'SAVEPOINT s', 'SET ROLE postgres', 'RESET ROLE',
	'VACUUM', 'CREATE TABLE made AS SELECT 1', 'COPY line TO STDOUT', 'COPY line FROM STDIN', 'DO $x$ BEGIN PERFORM 1; END $x$', 'CALL nowhere()', 'EXPLAIN ANALYZE SELECT 1', 'DECLARE c CURSOR FOR SELECT 1',
	'PREPARE p AS SELECT 1', 'LISTEN x', 'NOTIFY x', 'LOCK TABLE line', 'SELECT 1; SELECT 2', ';', '', ' ', '--', '/*', 'SELECT $1', 'SELECT $9999999999', 'SELECT :x', 'SELECT 1/0', 'SELECT 1/(event.version - 1)',
	'SELECT pg_sleep(0.01)', 'SELECT repeat(event.aggregate_id, 1000000)', 'SELECT generate_series(1, 1000)', 'MERGE INTO spare USING (SELECT event.aggregate_id AS id) AS e ON spare.id = e.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (e.id, NULL, 0)',
	'INSERT INTO spare SELECT event.* ', 'INSERT INTO spare VALUES (event)', 'INSERT INTO spare VALUES (event.data)', 'INSERT INTO nowhere VALUES (1)', 'INSERT INTO account VALUES (event.aggregate_id)', 'UPDATE account SET balance = 0',
	'WITH x AS (DELETE FROM line RETURNING *) INSERT INTO spare SELECT position::text FROM x', 'SELECT (event).data->\'a\'', 'SELECT event.data->>\'amount\' FOR UPDATE', 'SELECT * FROM line FOR UPDATE',
	'INSERT INTO tally SELECT recorded_at::date, count(*) FROM events GROUP BY 1 ON CONFLICT (day) DO UPDATE SET events = tally.events + excluded.events',
	'SELECT count(*) FROM events AS e JOIN events AS f USING (position)', 'SELECT event.position FROM events', 'SELECT event.version FROM spare AS event', 'SELECT set_config(\'search_path\', \'\', false)', 'SELECT set_config(\'role\', \'postgres\', true)');
my @event_types = ('Opened', 'Deposited', 'Closed', 'Seen', 'x', '', undef);
my @modes = ('inline', 'async', 'INLINE', 'both', '', undef, 'stop', 'park');

# A text as a literal; what the argument is called says what would make sense.
sub text
{
	my ($self, $name) = @_;

	if (!$self->rarely(8))
	{
		return literal($self->pick(@projections, 'made', 'other', 'reader')) if $name =~ /^(projection|name)$/;
		return literal($self->pick('reader', 'reader', 'reader', 'waiter', 'later', 'made')) if $name eq 'subscription';
		return literal($self->pick('continue', 'wait', 'stop', '')) if $name eq 'after_park';
		return literal($self->pick(@applies)) if $name eq 'apply';
		return literal($self->pick(@keys)) if $name eq 'key';
		return literal($self->pick(@statements)) if $name eq 'statement';
		return literal($self->pick(@modes)) if $name =~ /^(mode|on_error)$/;
		return literal($self->pick(@event_types)) if $name eq 'event_type';
		return literal($self->pick('account', 'account', 'late', 'nested', 'other', 'liar')) if $name eq 'aggregate_type';
		return literal($self->pick(1 .. 9)) if $name =~ /_id$/;
	}
	return $self->pick(
		'NULL', "''", "' '", "'\t'", "E'\\n'", q('%s%s%n%d'), q('"'), q(''''), q(E'\\\\'), q('$1'), q('x'';DROP TABLE account;--'), q(U&'\00e9\0301'), q(U&'\+01F600'),
		q(repeat('x', 63)), q(repeat('x', 64)), q(repeat('é', 40)), q(repeat('x', 1000)), q(repeat('x', 3000)), q(repeat('y', 9000)), q(repeat('z', 1000000)), q(repeat(chr(40), 20000)), q(repeat('-', 100000)),
		q(repeat('a.', 5000)), q(chr(1)), q(chr(127)), q('NULL'), q('null'), q('0'), q('-1'), q('1e308'), q('account'), q('es.events'), q('{}'), q('[]'), q('pg_temp.x'), q('true'));
}

sub integer
{
	my ($self, $type) = @_;
	my $value = $self->pick(0, 0, 1, 1, 2, 5, 20, 100, -1, -1, 1000000, 2147483647, -2147483648, 'NULL', 'NULL',
		$type eq 'bigint' ? (9223372036854775807, '(-9223372036854775808)', 4294967296, 9223372036854775806, 1 << 40) : (65536, -65536));

	return $value =~ /^-/ ? "($value)" : $value;
}

# A JSON value as text.
sub json
{
	my ($self, $depth) = @_;
	my $kind = $self->below($depth > 3 ? 7 : 10);

	return $self->pick('null', 'true', 'false', 0, -1, '1e500', '1e-500', '"x"', '""', '"\u00e9\ud83d\ude00"', '9223372036854775808', '0.1', '"2020-01-01"', '"infinity"',
		'"00000000-0000-0000-0000-000000000000"', '{}', '[]') if $kind < 7;
	return '[' . join(', ', map { $self->json($depth + 1) } 1 .. $self->below(4)) . ']' if $kind == 7;
	return $self->event($depth) if $kind == 8;
	return '{' . join(', ', map { '"' . $self->pick(qw(a b amount k k)) . '": ' . $self->json($depth + 1) } 1 .. $self->below(4)) . '}';
}

# An object that resembles an event.
sub event
{
	my ($self, $depth) = @_;
	my %member = (
		event_type => '"Deposited"', aggregate_type => '"account"', aggregate_id => '"1"', data => '{"amount": 1}', metadata => '{}', event_id => '"' . $self->uuid . '"',
		occurred_at => '"2020-01-01"', schema_version => 1, correlation_id => '"c"', causation_id => '"c"', source => '"s"', expected_version => '3',
		position => '1', version => '1', unknown => '1', '' => '1');
	my @names = ('event_type', 'event_type', 'aggregate_type', 'aggregate_id', 'data', grep { $self->rarely(5) } sort keys %member);

	@names = grep { !$self->rarely(12) } @names;
	return '{' . join(', ', map { "\"$_\": " . ($self->rarely(8) ? $self->json($depth + 1) : $member{$_}) } @names) . '}';
}

sub jsonb
{
	my ($self) = @_;

	return $self->pick('NULL', q('[]'), q('{}'), q('null'), q('1'), q('"x"'), q((repeat('[', 5000) || repeat(']', 5000))::jsonb), q((repeat('[', 200) || repeat(']', 200))::jsonb),
		q(to_jsonb(repeat('x', 2000000))), q((SELECT jsonb_agg(jsonb_build_object('event_type', 'x')) FROM generate_series(1, 2000))), q((SELECT jsonb_object_agg('k' || n, n) FROM generate_series(1, 3000) AS n)),
		q((SELECT jsonb_agg(jsonb_build_object('event_type', 'Deposited', 'aggregate_type', 'account', 'aggregate_id', n::text, 'data', '{"amount": 1}'::jsonb)) FROM generate_series(1, 300) AS n)))
	  if $self->rarely(5);
	return literal($self->json(0)) if $self->rarely(4);
	return literal('[' . join(', ', map { $self->event(0) } 0 .. $self->below(4)) . ']') if $self->rarely(2);
	return literal($self->event(0));
}

sub uuid
{
	my ($self) = @_;

	return sprintf '00000000-0000-7000-8000-%012d', $self->below(40);
}

sub timestamp
{
	my ($self) = @_;

	return $self->pick('NULL', "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", 'now()', 'clock_timestamp()', "'2020-01-01'", "'epoch'", "'2100-01-01'", "'nonsense'");
}

sub interval
{
	my ($self) = @_;

	return $self->pick('NULL', "'0'", "'1 ms'", "'-1 day'", "'100 ms'", "'178000000 years'", "'-178000000 years'", "'2147483647 months'", "'infinity'", "'x'", "'1 hour'");
}

# An argument of a type as SQL.
sub value
{
	my ($self, $name, $type) = @_;

	return 'NULL' if $self->rarely(20);
	return $self->value($name, $self->pick(qw(text bigint boolean jsonb uuid timestamp_with_time_zone text[] interval regclass))) if $self->rarely(60);
	return $self->text($name) if $type eq 'text';
	return $self->pick("(SELECT max(lease_id) FROM es.subscription_streams)", "(SELECT max(lease_id) FROM es.subscription_streams)", '4294967297', $self->integer($type)) if $name eq 'lease_id';
	return $self->integer($type) if $type =~ /^(bigint|integer)$/;
	return $self->pick('true', 'false', 'NULL') if $type eq 'boolean';
	return $self->jsonb if $type eq 'jsonb';
	return "'" . $self->uuid . "'" . ($self->rarely(10) ? '' : '::uuid') if $type eq 'uuid';
	return $self->timestamp . '::timestamptz' if $type =~ /^timestamp/;
	return $self->interval . '::interval' if $type eq 'interval';
	return $self->pick(map({ "'$_'::regclass" } @tables), '0::regclass', '4294967295::oid::regclass', 'NULL::regclass', "'nowhere'::regclass") if $type eq 'regclass';
	return $self->pick(qw('plain' 'other' 'postgres' 'public' 'pg_read_all_data' 0::regrole NULL::regrole 'nobody')) if $type eq 'regrole';
	if ($type =~ /^(text|uuid|bigint)\[\]$/)
	{
		return $self->pick("'{}'", "'{NULL}'", 'NULL', "'{{a,b},{c,d}}'", "'[5:6]={account,late}'", "ARRAY(SELECT n::text FROM generate_series(1, 5000) AS n)",
			"'{account}'", "'{account,late}'", "'{account,account,NULL}'", "'{\"\"}'", "'{Deposited}'", "'{1,2,3}'", "'{,}'") if $type eq 'text[]';
		return $self->pick("'{}'", "'{NULL}'", 'NULL', "'{" . $self->uuid . ',' . $self->uuid . "}'", "'[3:3]={" . $self->uuid . "}'", "ARRAY(SELECT es.uuid_v7() FROM generate_series(1, 1000))") . "::$type";
	}
	return $self->pick((map { "NULL::$_" } @projections[ 0 .. 2 ], 'text', 'es.events', 'record', 'account[]', 'parts', 'positive', 'account_domain'),
		"ROW('1', 'x', 5)::account", "ROW(NULL, NULL, NULL)::account", "ROW('x', 1)::total", "ROW(1, 2)", "1", "'x'::text", "'(1,2)'") if $type =~ /^any/;
	return $self->text($name);
}

# --- statements -----------------------------------------------------------------

# A call of a function: arguments by position, by name, too few or too many.
sub call
{
	my ($self, $function) = @_;
	my @arguments = @{ $function->{arguments} };
	my $required = @arguments - $function->{defaults};
	my @given;

	foreach my $n (0 .. $#arguments)
	{
		my ($name, $type) = @{ $arguments[$n] };

		next if $n >= $required && $self->rarely(2);
		next if $self->rarely(80);
		push @given, ($n >= $required || $self->rarely(3) ? "$name => " : '') . $self->value($name, $type);
	}
	# What is given by name comes last.
	@given = ((grep { !/^\w+ => / } @given), (grep { /^\w+ => / } @given));
	push @given, $self->value('extra', 'text') if $self->rarely(100);
	return "es.$function->{name}(" . join(', ', @given) . ')';
}

sub select_call
{
	my ($self) = @_;
	my $function = $self->pick(@{ $self->{functions} });

	$function = $self->pick(@{ $self->{functions} }) if $function->{type} =~ /trigger/ && !$self->rarely(20);
	my $call = $self->call($function);

	return $self->pick("SELECT $call", "SELECT * FROM $call", "SELECT * FROM $call", "SELECT $call FROM generate_series(1, 2)", "SELECT * FROM $call LIMIT 1",
		"SELECT count(*) FROM (SELECT $call) AS s", "DO " . literal("BEGIN PERFORM $call; EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', SQLERRM; END"), "EXPLAIN (ANALYZE, COSTS OFF) SELECT $call",
		"SELECT x.* FROM (VALUES (1), (2)) AS v, LATERAL (SELECT $call) AS x");
}

my @columns = ([ 'aggregate_type', 'text' ], [ 'aggregate_id', 'text' ], [ 'event_type', 'text' ], [ 'data', 'jsonb' ], [ 'metadata', 'jsonb' ], [ 'event_id', 'uuid' ],
	[ 'occurred_at', 'timestamptz' ], [ 'schema_version', 'integer' ], [ 'source', 'text' ], [ 'correlation_id', 'text' ], [ 'causation_id', 'text' ], [ 'version', 'bigint' ],
	[ 'position', 'bigint' ], [ 'recorded_at', 'timestamptz' ]);

sub insert
{
	my ($self) = @_;
	my @given = grep { my $n = $_; $n < 3 ? !$self->rarely(15) : $self->rarely($n < 11 ? 3 : 8) } 0 .. $#columns;

	@given = (0) unless @given;
	my $names = join ', ', map { $columns[$_][0] } @given;
	my $row = sub { '(' . join(', ', map { $self->rarely(30) ? 'DEFAULT' : $self->value(@{ $columns[$_] }) } @given) . ')' };
	my $rows = join ', ', map { $row->() } 0 .. $self->below(3);

	return "INSERT INTO es.events ($names) VALUES $rows" . $self->pick('', '', '', ' RETURNING *', ' ON CONFLICT DO NOTHING', ' ON CONFLICT (event_id) DO UPDATE SET data = NULL', ' RETURNING events, ctid, xmin, tableoid');
}

sub copy
{
	my ($self) = @_;
	my @fields = ('account', 'late', 'Deposited', '1', '', '\\N', '{"amount": 1}', '{', '\\', "\\x", 'NULL', '-1', $self->uuid, 'infinity', "\xc3", 'é', 'x' x 3000);
	my $names = $self->pick('aggregate_type, aggregate_id, event_type', 'aggregate_type, aggregate_id, event_type, data', 'aggregate_type, aggregate_id, event_type, event_id',
		'position, version, recorded_at, occurred_at, event_id, schema_version, aggregate_type, aggregate_id, event_type, data', 'event_type', 'position, position', 'nowhere');
	my $n = () = $names =~ /,/g;
	my $rows = join "\n", map { join "\t", map { $self->pick(@fields) } 0 .. $n + ($self->rarely(10) ? 1 : 0) } 0 .. $self->below(4);
	my $good = "account\t" . $self->below(5) . "\tDeposited\t{\"amount\": 1}";

	return "COPY es.events (aggregate_type, aggregate_id, event_type, data) FROM STDIN;\n$good\n$good\n\\.\n" if $self->rarely(3);
	return "COPY es.events ($names) FROM STDIN" . $self->pick('', ' (FORMAT csv)', ' (FREEZE)') . ";\n$rows\n\\.\n";
}

# Changes of the extension's tables and guards: only superusers come far.
sub tamper
{
	my ($self) = @_;

	return $self->pick(
		"UPDATE es.events SET data = '{}'", 'DELETE FROM es.events', 'TRUNCATE es.events', 'TRUNCATE es.projection CASCADE', 'SELECT * FROM es.events FOR UPDATE', 'ALTER TABLE es.events ADD COLUMN x int', 'DROP TABLE es.events',
		'MERGE INTO es.events USING (SELECT 1 AS n) AS n ON n = position WHEN MATCHED THEN DELETE', 'DROP TRIGGER sequence_event ON es.events', 'DROP INDEX es.events_event_type_idx', 'ALTER TABLE es.events DROP COLUMN metadata',
		'UPDATE es.projection SET apply = ' . $self->text('apply'), 'UPDATE es.projection SET key = ' . $self->text('key'), 'UPDATE es.projection SET target = ' . $self->value('target', 'regclass'),
		"UPDATE es.projection SET settings = '{x,y=z,\"\",search_path=nowhere}'", "UPDATE es.projection SET settings = '{}'", 'UPDATE es.projection SET mode = ' . $self->text('mode'), 'UPDATE es.projection SET name = name || $$x$$', 'DELETE FROM es.projection WHERE name = ' . $self->text('name'),
		'UPDATE es.projection SET enabled = NOT enabled', 'UPDATE es.projection_handler SET statement = ' . $self->text('statement'), 'UPDATE es.projection_handler SET batch = NOT batch', 'DELETE FROM es.projection_handler',
		"INSERT INTO es.projection VALUES ('bogus', 'spare', 'nowhere', NULL, NULL, NULL, 'inline', 'stop', true, '{}', true)", "INSERT INTO es.projection VALUES ('bogus', 'pg_class', NULL, NULL, '{a}', '{}', 'x', 'y', true, '{x}', true)",
		'INSERT INTO es.projection_handler VALUES (' . $self->text('name') . ', ' . $self->text('event_type') . ', ' . $self->pick('true', 'false') . ', ' . $self->text('statement') . ')',
		'UPDATE es.subscription SET partitions = ' . $self->integer('integer'), 'DELETE FROM es.subscription', 'UPDATE es.subscription SET name = ' . $self->text('name'), 'UPDATE es.subscription_stream SET checkpoint = ' . $self->integer('bigint'), 'UPDATE es.subscription_stream SET partition = partition + 1, lease_id = 1', 'DELETE FROM es.subscription_stream WHERE stream = 1',
		"UPDATE es.subscription_stream SET aggregate_types = '{NULL,{}}', leased_count = " . $self->integer('integer'), 'INSERT INTO es.subscription_parked SELECT $$reader$$, 0, false, position, aggregate_type, aggregate_id, n % 2 = 0, 0, NULL, NULL, now() FROM es.events, generate_series(1, 1) AS n', 'UPDATE es.subscription_parked SET position = -position, held = NOT held', 'ALTER SEQUENCE es.subscription_stream_seq RESTART 1', "INSERT INTO es.writer VALUES ('nobody', '{NULL}'), ('plain', '{}')", "UPDATE es.writer SET aggregate_types = '{{a,b},{c,d}}'", "SELECT setval('es.published_mark_seq', " . $self->integer('bigint') . ')',
		'UPDATE es.projection_checkpoint SET checkpoint = ' . $self->integer('bigint'), 'DELETE FROM es.projection_checkpoint', 'UPDATE es.projection_parked SET position = position + ' . $self->integer('bigint'), 'INSERT INTO es.projection_parked VALUES (' . $self->text('name') . ', 1, $$r$$, now())',
		"SELECT setval('es.events_position_seq', " . $self->integer('bigint') . ')', "ALTER SEQUENCE es.events_position_seq MAXVALUE 60", 'ALTER TABLE account DISABLE TRIGGER ALL', 'DROP EVENT TRIGGER es_follow_ddl', 'ALTER EXTENSION pg_eventsourcing DROP FUNCTION es.apply_inline()', 'ALTER FUNCTION es.append(text,text,text,jsonb,jsonb,bigint,uuid,text,text,text,timestamptz,integer) PARALLEL SAFE',
		'CREATE TRIGGER t BEFORE INSERT ON spare FOR EACH ROW EXECUTE FUNCTION es.sequence_event()', 'CREATE TRIGGER t AFTER INSERT ON spare FOR EACH ROW EXECUTE FUNCTION es.apply_inline()', 'CREATE TRIGGER t AFTER INSERT ON spare REFERENCING NEW TABLE AS events FOR EACH STATEMENT EXECUTE FUNCTION es.apply_inline()', 'CREATE TRIGGER t BEFORE UPDATE ON spare EXECUTE FUNCTION es.refuse_change()',
		'CREATE TRIGGER t AFTER INSERT ON spare EXECUTE FUNCTION es.registry_changed()', 'CREATE TRIGGER t BEFORE TRUNCATE ON spare EXECUTE FUNCTION es.refuse_direct_write()', 'CREATE TRIGGER t BEFORE INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION skip_row()', 'CREATE TRIGGER t AFTER INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION append_more()', 'CREATE TRIGGER a BEFORE INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION spoil_row()', 'CREATE TRIGGER z BEFORE INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION spoil_row()',
		'CREATE RULE r AS ON INSERT TO es.events DO INSTEAD NOTHING', 'ALTER TABLE es.events ENABLE ROW LEVEL SECURITY', 'ALTER TABLE es.events ADD CHECK (schema_version < 3)', 'ALTER TABLE es.events SET UNLOGGED', 'CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION es.follow_ddl()', 'CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION es.forget_dropped()', 'CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION es.follow_partitions()',
		'CREATE TABLE es.mine (x int)', 'CLUSTER es.events USING events_pkey', 'REINDEX TABLE es.events', 'ALTER EXTENSION pg_eventsourcing SET SCHEMA public', 'ALTER EXTENSION pg_eventsourcing UPDATE', 'CREATE TABLE child () INHERITS (es.events)', 'ALTER TABLE es.events RENAME TO log', 'ALTER TABLE es.events RENAME COLUMN data TO body', 'ALTER TABLE es.events ALTER COLUMN data TYPE text', 'COPY es.projection FROM PROGRAM $$printf "bogus\t0\t\\N\t\\N\t\\N\t\\N\tinline\tstop\tt\t{}\tt\n"$$');
}

# DDL on what projections use.
sub ddl
{
	my ($self) = @_;
	my $table = $self->pick(@projections, 'spare', 'no_key');
	my $column = $self->pick(qw(id owner balance event_type events position day));
	my $apply = $self->pick(qw(account_apply total_apply later_apply idle_apply parts_apply bad_1));

	return $self->pick(
		"ALTER TABLE $table ADD COLUMN more integer DEFAULT 1", "ALTER TABLE $table DROP COLUMN $column", "ALTER TABLE $table DROP COLUMN $column CASCADE", "ALTER TABLE $table RENAME $column TO renamed", "ALTER TABLE $table ALTER $column TYPE varchar(3)", "ALTER TABLE $table ALTER $column TYPE bigint USING 0",
		"ALTER TABLE $table ALTER $column SET NOT NULL", "ALTER TABLE $table DROP CONSTRAINT ${table}_pkey", "ALTER TABLE $table DROP CONSTRAINT ${table}_pkey CASCADE", "ALTER TABLE $table ADD CHECK ($column IS NULL)", "ALTER TABLE $table RENAME TO other_$table", "ALTER TABLE $table SET SCHEMA elsewhere", "DROP TABLE $table", "DROP TABLE $table CASCADE",
		"ALTER TABLE $table OWNER TO plain", "ALTER TABLE $table SET UNLOGGED", "ALTER TABLE $table DISABLE TRIGGER ALL", "ALTER TABLE $table ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "ALTER TABLE $table ADD COLUMN gen text GENERATED ALWAYS AS ($column || 'x') STORED", "ALTER TABLE $table ADD COLUMN num bigint GENERATED ALWAYS AS IDENTITY", "CREATE INDEX ON $table (($column IS NULL))", "CREATE UNIQUE INDEX ON $table ((1))",
		"CREATE INDEX ON $table ((1 / length(${column}::text)))", "CREATE RULE r AS ON UPDATE TO $table DO INSTEAD NOTHING", "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION skip_row()", "CREATE TRIGGER t AFTER INSERT OR UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION append_more()", "CREATE TRIGGER t AFTER INSERT ON $table REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION append_more()", "CREATE TRIGGER t BEFORE UPDATE OF $column ON $table FOR EACH ROW EXECUTE FUNCTION skip_row()",
		"TRUNCATE $table", "VACUUM FULL $table", "VACUUM $table", "CLUSTER $table USING ${table}_pkey", "REINDEX TABLE $table", "ANALYZE $table", "CREATE VIEW v_$table AS SELECT * FROM $table", "CREATE TABLE child_$table () INHERITS ($table)", "ALTER TABLE $table INHERIT no_key", "CREATE STATISTICS ON $column, ctid FROM $table", "CREATE PUBLICATION p FOR TABLE $table",
		"DROP FUNCTION $apply", "DROP FUNCTION $apply CASCADE", "ALTER FUNCTION $apply STABLE", "ALTER FUNCTION $apply STRICT", "ALTER FUNCTION $apply SECURITY DEFINER", "ALTER FUNCTION $apply SET search_path = nowhere", "ALTER FUNCTION $apply RENAME TO renamed_apply", "ALTER FUNCTION $apply SET SCHEMA elsewhere", "ALTER FUNCTION $apply OWNER TO plain", "REVOKE ALL ON FUNCTION $apply FROM PUBLIC", "ALTER FUNCTION $apply PARALLEL SAFE", "ALTER FUNCTION $apply COST 1e9",
		"CREATE OR REPLACE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN " . $self->pick(
			'RETURN state;', 'RETURN NULL;', "RAISE 'no';", 'state.balance := 1/0; RETURN state;', "RETURN ROW(event.aggregate_id, 'x', 5);", "RETURN ROW('wrong', 'x', 5);", "RETURN ROW(NULL, NULL, NULL);", 'RETURN event;', 'state.id := event.aggregate_id; state.owner := repeat(coalesce(state.owner, $x$x$x$), 10); RETURN state;',
			"PERFORM es.append('a', 'b', 'c'); RETURN state;", "PERFORM es.replay('account'); RETURN state;", "PERFORM es.drop_projection('account'); RETURN state;", "RETURN account_apply(state, event);", "PERFORM es.load(NULL::account, 'account', event.aggregate_id); RETURN state;", "UPDATE account SET balance = 0; RETURN state;", "EXECUTE 'ALTER TABLE account ADD COLUMN y int'; RETURN state;", "COMMIT; RETURN state;", "EXECUTE 'DROP FUNCTION account_apply'; RETURN state;", "BEGIN state.balance := 1/0; EXCEPTION WHEN OTHERS THEN NULL; END; RETURN state;", "SET LOCAL search_path = nowhere; RETURN state;") . ' END $$',
		"CREATE TABLE parts_new PARTITION OF parts FOR VALUES IN ('x')", "ALTER TABLE parts DETACH PARTITION parts_default", "ALTER TABLE parts ATTACH PARTITION parts_default DEFAULT", "DROP TABLE parts_default", "ALTER TYPE positive DROP ATTRIBUTE n", "GRANT ALL ON $table TO plain, other", "REVOKE ALL ON $table FROM PUBLIC", "COMMENT ON TABLE $table IS 'x'", "ALTER TABLE $table REPLICA IDENTITY FULL", "DROP SCHEMA public CASCADE", "DROP EXTENSION pg_eventsourcing CASCADE", "DROP EXTENSION pg_eventsourcing", "CREATE EXTENSION pg_eventsourcing", "DROP OWNED BY plain", "REASSIGN OWNED BY postgres TO other");
}

sub session
{
	my ($self) = @_;

	return $self->pick(
		'BEGIN', 'BEGIN', 'BEGIN', 'COMMIT', 'COMMIT', 'ROLLBACK', 'ROLLBACK', 'SAVEPOINT s', 'SAVEPOINT s', 'ROLLBACK TO s', 'RELEASE s', 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'BEGIN ISOLATION LEVEL SERIALIZABLE', 'BEGIN READ ONLY',
		'SET es.max_aggregate_locks = ' . $self->pick(0, 1, 2, 1000, -1, 2147483647, "''"), 'SET es.replay_memory = ' . $self->pick("'64kB'", 0, 1, "'1GB'", "'x'", -1), 'SET es.replay_workers = ' . $self->pick(0, 1, 2, 1024, -1), 'RESET ALL', 'SET search_path = ' . $self->pick('nowhere', 'pg_catalog', 'es, public', 'public, pg_catalog, es', 'pg_temp, public'),
		'SET session_replication_role = ' . $self->pick('replica', 'origin', 'local'), 'SET ROLE ' . $self->pick('plain', 'other', 'NONE', 'postgres'), 'RESET ROLE', 'DISCARD ' . $self->pick('ALL', 'PLANS', 'TEMP'), 'SET work_mem = 64', 'SET temp_buffers = 100', 'SET enable_seqscan = off', 'SET enable_indexscan = off', 'SET plan_cache_mode = force_generic_plan', 'SET row_security = off', 
		'SET TimeZone = ' . $self->pick("'Asia/Kathmandu'", 'UTC'), 'SET extra_float_digits = 0', 'SET lock_timeout = 5', 'SET jit = on', 'SET ' . $self->pick('force_parallel_mode', 'debug_parallel_query') . ' = on', 'SET check_function_bodies = off', 'SET event_triggers = off', 'SET statement_timeout = ' . $self->pick(5, 50, 300, 1000), 'DECLARE c CURSOR FOR ' . $self->cursor_query, 'DECLARE h CURSOR WITH HOLD FOR ' . $self->cursor_query, 'FETCH 1 FROM c', 'FETCH ALL FROM h', 'MOVE 1 IN c', 'CLOSE ALL',
		"PREPARE TRANSACTION 'fuzz'", "COMMIT PREPARED 'fuzz'", "ROLLBACK PREPARED 'fuzz'", "PREPARE q AS SELECT es.append('account', '1', 'Deposited', '{\"amount\": 1}')", 'EXECUTE q', 'DEALLOCATE q', 'LOCK TABLE es.events', 'CHECKPOINT', 'LISTEN es_events', 'CREATE TEMP TABLE temporary (id text PRIMARY KEY, owner text, balance numeric)', 'CREATE TEMP TABLE account (LIKE public.account INCLUDING ALL)', 'CREATE TEMP TABLE events (x int)', 'DROP TABLE pg_temp.account');
}

sub cursor_query
{
	my ($self) = @_;

	return $self->pick('SELECT * FROM es.read_all()', "SELECT * FROM es.verify_projection('total')", 'SELECT * FROM es.events', "SELECT * FROM es.replay('total')", "SELECT es.append('account', n::text, 'Deposited', '{\"amount\": 1}') FROM generate_series(1, 5) AS n", 'TABLE es.projections', 'SELECT * FROM es.aggregates()');
}

# A view, or a reading query over state tables and log.
sub read
{
	my ($self) = @_;

	return $self->pick('TABLE es.projections', 'TABLE es.parked_events', 'TABLE es.projection_handlers', 'TABLE es.replay_progress', 'TABLE es.subscriptions', 'TABLE es.subscription_streams', 'SELECT * FROM es.events ORDER BY position DESC LIMIT 3', 'SELECT * FROM account', 'SELECT count(*) FROM parts', 'SELECT problems()',
		"SELECT es.load(NULL::account, 'account', a.aggregate_id) FROM es.aggregates('account') AS a", "SELECT (es.read_aggregate('account', '1')).*", "SELECT es.append('account', a.aggregate_id, 'Deposited', '{\"amount\": 1}') FROM es.aggregates() AS a");
}

# A script of so many statements.
sub script
{
	my ($self, $count, %options) = @_;
	my $text = "\\o /dev/null\n\\set ON_ERROR_ROLLBACK " . ($self->rarely(4) ? 'off' : 'on') . "\nSET client_min_messages = error;\n";

	$text .= "SET SESSION AUTHORIZATION $options{role};\n" if $options{role};
	foreach (1 .. $count)
	{
		my $what = $self->below(100);
		my $statement =
		    $what < 46 ? $self->select_call
		  : $what < 60 ? $self->insert
		  : $what < 65 ? $self->copy
		  : $what < 71 ? $self->read
		  : $what < 80 ? $self->ddl
		  : $what < 86 ? $self->tamper
		  :              $self->session;

		# What would stop most others from doing anything is taken back.
		if ($what >= 71 && $what < 86 && $statement !~ /^VACUUM/)
		{
			my $more = join ";\n", $self->select_call, $self->insert, $self->select_call, $self->read, $self->insert, $self->select_call;
			my $end = $self->rarely(3) ? 'COMMIT' : 'ROLLBACK';

			$end = 'ROLLBACK' if $statement =~ /^(DROP (SCHEMA|EXTENSION|TABLE es|EVENT)|ALTER (EXTENSION|SEQUENCE)|ALTER TABLE es|TRUNCATE es|SELECT setval|CREATE (RULE|TRIGGER))/;
			# What changes rows of the extension's tables keeps out those who lock in its way.
			$text .= "BEGIN;\n" . ($statement =~ /(?:UPDATE|DELETE FROM) (es\.\w+)/ ? "LOCK TABLE $1;\n" : '') . "$statement;\n$more;\n$end;\n";
			next;
		}
		$text .= $statement =~ /\\\.\n$/ ? $statement : "$statement;\n";
	}
	return $text . "ROLLBACK;\n\\echo END\n";
}

# SQL after EsCalls::domain(): what scripts also use.
sub domain
{
	my $text = q(
CREATE TABLE spare (id text PRIMARY KEY, owner text, balance numeric);
CREATE TABLE spare2 (LIKE spare INCLUDING ALL);
CREATE TABLE no_key (id text, balance numeric);
CREATE TABLE inherits_account () INHERITS (spare2);
CREATE UNLOGGED TABLE unlogged (id text PRIMARY KEY, owner text, balance numeric);
CREATE VIEW plain_view AS SELECT * FROM spare;
CREATE MATERIALIZED VIEW plain_mat AS SELECT * FROM spare;
CREATE TYPE positive AS (n integer);
CREATE DOMAIN account_domain AS account CHECK ((VALUE).balance > 0);
CREATE SCHEMA elsewhere;
-- Keys that promise to be immutable.
CREATE FUNCTION lying_key(key text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RETURN CASE WHEN random() < 0.1 THEN NULL WHEN random() < 0.9 THEN key ELSE key || 'x' END;
END $$;
CREATE FUNCTION raising_key(key text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF random() < 0.2 THEN
		RAISE 'no key';
	END IF;
	RETURN key;
END $$;
CREATE FUNCTION appending_key(key text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN es.append('nested', key, 'x')::text;
END $$;
CREATE TABLE liar (id text PRIMARY KEY, owner text, balance numeric);
CREATE FUNCTION liar_apply(state liar, event es.events) RETURNS liar LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RETURN CASE WHEN random() < 0.2 THEN NULL WHEN random() < 0.9 THEN ROW(coalesce(state.id, event.aggregate_id), 'x', random())::liar
		ELSE ROW(lying_key(event.aggregate_id), 'x', random())::liar END;
END $$;
CREATE FUNCTION skip_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION append_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() < 4 THEN
		PERFORM es.append('nested', '1', 'More');
	END IF;
	RETURN NULL;
END $$;
CREATE FUNCTION spoil_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	new.position := -1; new.version := 77; new.aggregate_type := NULL; new.recorded_at := 'infinity';
	RETURN new;
END $$;
DO $$
BEGIN
	IF to_regrole('plain') IS NULL THEN
		CREATE ROLE plain;
		CREATE ROLE other;
	END IF;
END $$;
GRANT ALL ON SCHEMA public, elsewhere TO plain, other;
GRANT ALL ON ALL TABLES IN SCHEMA public TO plain;
SELECT es.grant_reader('plain'), es.grant_writer('plain', '{account,late,nested}');
GRANT ALL ON ALL FUNCTIONS IN SCHEMA es TO plain;
SELECT es.create_projection('liar', 'liar', 'liar_apply', 'lying_key(aggregate_id)', aggregate_types => '{liar}', populate => false, protect => false);
SELECT es.create_subscription('reader', partitions => 3, max_attempts => 1);
SELECT es.create_subscription('waiter', '{account}', max_attempts => 1, after_park => 'wait');
SELECT count(*) FROM es.fetch('waiter', 3);
SELECT es.nack((SELECT max(lease_id) FROM es.subscription_streams), 1, 'no');
SELECT count(*) FROM es.fetch('reader', 3);
SELECT es.playback('waiter', 0, 15);
ALTER TABLE spare OWNER TO plain;
ALTER TABLE spare2 OWNER TO plain;
ALTER TABLE line OWNER TO plain;
ALTER TABLE later OWNER TO plain;
);
	# Apply functions for spare that promise what they don't keep.
	my @bodies = (
		q(LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 'x', 1)::spare),
		q(LANGUAGE sql IMMUTABLE RETURN NULL::spare),
		q(LANGUAGE sql IMMUTABLE RETURN state),
		q(LANGUAGE sql IMMUTABLE RETURN ROW('always the same', NULL, NULL)::spare),
		q(LANGUAGE sql IMMUTABLE RETURN ROW(NULL, NULL, NULL)::spare),
		q(LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, repeat('x', 1000000), 1)::spare),
		q(LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, coalesce(state.owner, 'x') || state.owner, 1)::spare),
		q(LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 'x', 1 / (event.version % 2))::spare),
		q(LANGUAGE sql IMMUTABLE AS 'SELECT * FROM spare'),
		q(LANGUAGE sql IMMUTABLE AS $$ SELECT event.aggregate_id, 'x', n::numeric FROM generate_series(1, 3) AS n $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM es.append('nested', '1', 'x'); RETURN state; END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM es.replay('made'); RETURN state; END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM es.drop_projection('made'); RETURN state; END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN bad_14(state, event); END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN EXECUTE 'ALTER TABLE spare ADD COLUMN IF NOT EXISTS y int'; RETURN state; END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN EXECUTE 'DROP TABLE spare CASCADE'; RETURN state; END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN UPDATE spare SET balance = 0; state.id := event.aggregate_id; RETURN state; END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN BEGIN PERFORM 1/0; EXCEPTION WHEN OTHERS THEN NULL; END; RETURN ROW(event.aggregate_id, 'x', 1); END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN es.load(state, event.aggregate_type, event.aggregate_id, 'bad_1'); END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN event; END $$),
		q(LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN INSERT INTO no_key VALUES ('x', 1); RETURN ROW(event.aggregate_id, 'x', 1); END $$),
		q(LANGUAGE plpgsql IMMUTABLE STRICT SECURITY DEFINER SET search_path = pg_catalog AS $$ BEGIN RETURN ROW(event.aggregate_id, current_user, 1); END $$),
		q(LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM es.create_projection('inner', 'spare2', 'bad_1'); PERFORM es.run_projections(); RETURN ROW(event.aggregate_id, 'x', 1); END $$));

	$text .= "SET check_function_bodies = off;\n";
	foreach my $n (1 .. @bodies)
	{
		$text .= "CREATE FUNCTION bad_$n(state spare, event es.events) RETURNS " . ($n == 10 ? 'SETOF spare' : 'spare') . ' ' . $bodies[ $n - 1 ] . ";\n";
	}
	return $text . "RESET check_function_bodies;\n";
}

1;
