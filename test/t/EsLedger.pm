# Clients that append, and a ledger of what they were told.
#
#   my $ledger = EsLedger->new($seed);
#   $ledger->start($node, 4);        # clients
#   $ledger->wait_for(300);          # until so many more transactions are acknowledged
#   ...                              # the server may crash
#   $ledger->stop;
#   $ledger->check($node, 'crash');  # an oracle, in tests of Test::More
#
# A client is a psql that runs transactions of all kinds as fast as it can and
# writes down what has come back: the commits, and what was prepared.  Each
# event says which transaction it belongs to, of how many events that
# consists, and whether it is meant to be committed.  So afterwards:
#
# - what was acknowledged is there, once and as a whole;
# - of what was not, no more is there than what each client had under way;
# - of what was meant to be rolled back nothing is there;
# - what was acknowledged as prepared is prepared, or its end was under way.
package EsLedger;

use strict;
use warnings FATAL => 'all';

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $aggregates = 12;

sub new
{
	my ($class, $seed) = @_;

	return bless { seed => $seed, runs => 0, clients => [], done => {}, prepared => {}, errors => {}, unsure => 0 }, $class;
}

# Starts clients of a database.
sub start
{
	my ($self, $node, $clients, $database) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir();

	$self->{runs}++;
	$self->{node} = $node;
	foreach my $number (1 .. $clients)
	{
		my $name = "$self->{runs}.$number";
		my %client = (name => $name, told => "$directory/$name");
		my $connection = $node->connstr($database // 'postgres');
		my $pid = fork // die "fork: $!";

		if ($pid == 0)
		{
			# Whatever happens, what the test does at its end is not for us.
			eval { _run($connection, \%client, $self->{seed} + 1000 * $self->{runs} + $number) };
			warn $@ if $@;
			POSIX::_exit(0);
		}
		$client{pid} = $pid;
		push @{ $self->{clients} }, \%client;
	}
	return;
}

# Waits until so many transactions of this run are acknowledged, or all clients have ended.
sub wait_for
{
	my ($self, $count) = @_;

	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $acknowledged = 0;

		foreach my $client (@{ $self->{clients} })
		{
			next unless -e $client->{told};
			$acknowledged += () = slurp_file($client->{told}) =~ /^done /mg;
		}
		return if $acknowledged >= $count;
		usleep(10_000);
	}
	die "the clients hang\n";
}

# Ends the clients, and writes down what they were told.
sub stop
{
	my ($self) = @_;

	kill 'TERM', $_->{pid} foreach @{ $self->{clients} };
	foreach my $client (@{ $self->{clients} })
	{
		waitpid $client->{pid}, 0;
		foreach (split /\n/, slurp_file($client->{told}))
		{
			$self->{done}{$1} = 1 if /^done (\S+)$/;
			$self->{prepared}{$1} = 1 if /^prepared (\S+)$/;
			$self->{errors}{$1}++ if /ERROR:  (\w+):/;
		}
		$self->{unsure}++;
	}
	$self->{clients} = [];
	return;
}

# Compares the log with the ledger; ends what is prepared if $end is true.
sub check
{
	my ($self, $node, $what, $end, $database) = @_;
	my $ask = sub { return $node->safe_psql($database // 'postgres', $_[0]) };
	my %prepared = map { $_ => 1 } split /\n/, $ask->('SELECT gid FROM pg_prepared_xacts');
	my %stored;

	is( $ask->(q(
SELECT data->>'of', count(*), min(data->>'parts') FROM es.events WHERE data ? 'of'
GROUP BY 1 HAVING count(*)::text <> min(data->>'parts') OR bool_or(data->>'keep' = 'false') LIMIT 5)),
		'', "$what: what is stored is whole, and was meant to be");
	$stored{$_} = 1 foreach split /\n/, $ask->(q(SELECT DISTINCT data->>'of' FROM es.events WHERE data ? 'of'));

	# What was to be rolled back is acknowledged, too, but not stored; its name ends in x.
	my @lost = grep { !/x$/ && !$stored{$_} && !$prepared{$_} } sort keys %{ $self->{done} };
	is("@lost[0 .. ($#lost > 4 ? 4 : $#lost)]", '', "$what: nothing that was acknowledged is lost");
	my @more = grep { !$self->{done}{$_} } sort keys %stored;
	cmp_ok(scalar @more, '<=', $self->{unsure}, "$what: nothing is stored that no client had under way");
	my @ended = grep { !$self->{done}{$_} && !$prepared{$_} && !$stored{$_} && !/x$/ } sort keys %{ $self->{prepared} };
	is("@ended", '', "$what: what was prepared is prepared or committed");
	my @again = grep { $self->{done}{$_} } sort keys %prepared;
	is("@again", '', "$what: what has ended is not prepared any more");
	my @errors = grep { !/^(40001|40P01|55P03|57P0[123])$/ } sort keys %{ $self->{errors} };
	is("@errors", '', "$what: no client has had another error than those to be retried");
	note scalar(keys %{ $self->{done} }) . " acknowledged, " . scalar(@more) . " more, " . scalar(keys %prepared) . ' prepared';

	foreach my $name ($end ? grep { /^\d+\.\d+\.\d+x?$/ } sort keys %prepared : ())
	{
		$ask->(($name =~ /x$/ ? 'ROLLBACK' : 'COMMIT') . " PREPARED '$name'");
		$self->{done}{$name} = 1;
	}
	return;
}

# Feeds a psql with transactions until it has gone, or we are told to end.
sub _run
{
	my ($connection, $client, $seed) = @_;
	my $ended = 0;
	my $number = 0;

	srand $seed;
	local $SIG{TERM} = sub { $ended = 1 };
	local $SIG{PIPE} = 'IGNORE';
	local $ENV{PGAPPNAME} = 'ledger';
	open my $psql, '|-', "psql -XAtq -d \"$connection\" >/dev/null 2>$client->{told}" or die "psql: $!";
	$psql->autoflush(1);
	print {$psql} "\\set VERBOSITY verbose\n";
	until ($ended)
	{
		print {$psql} _transaction("$client->{name}." . ++$number) or last;
	}
	close $psql;
	return;
}

# Returns the script of a transaction of that name.  What belongs together is sent
# as one message, the rest of which is not run after an error.
sub _transaction
{
	my ($name) = @_;
	my $kind = int rand 10;
	my $keep = $kind < 7;
	my @ids = map { "'a" . int(rand $aggregates) . "'" } 1 .. 3;
	my $type = (qw(Noted Moved Other))[ rand 3 ];

	$name .= 'x' unless $keep;
	my $append = sub {
		my ($id, $number, $parts) = @_;
		return qq{SELECT es.append('ledger', $id, '$type', } . _data($name, $number, $parts, $keep) . ')';
	};
	my $two = $append->($ids[0], 1, 2) . '\; ' . $append->($ids[1], 2, 2);

	return _told($append->($ids[0], 1, 1), 'done', $name) if $kind < 2;
	return _told(
		"SELECT es.append_events('ledger', $ids[0], jsonb_build_array("
		  . join(', ', map { "jsonb_build_object('event_type', '$type', 'data', " . _data($name, $_, 3, $keep) . ')' } 1 .. 3)
		  . '))', 'done', $name)
	  if $kind == 2;
	return _told(
		'INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data) VALUES '
		  . join(', ', map { "('ledger', $ids[$_ - 1], '$type', " . _data($name, $_, 3, $keep) . ')' } 1 .. 3),
		'done', $name)
	  if $kind == 3;
	return _told("BEGIN\\; $two\\; COMMIT", 'done', $name) if $kind == 4;
	return _told('BEGIN\; ' . $append->($ids[0], 1, 2) . '\; SAVEPOINT s\; ' . $append->($ids[2], 3, 2) . '\; ROLLBACK TO s\; '
		  . $append->($ids[1], 2, 2) . '\; COMMIT', 'done', $name)
	  if $kind == 5;
	return _told("BEGIN\\; $two\\; ROLLBACK", 'done', $name) if $kind == 7;
	return _told("BEGIN\\; $two\\; PREPARE TRANSACTION '$name'", 'prepared', $name,
		'SELECT pg_sleep(random() * 0.03);' . "\n" . _told(($keep ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'", 'done', $name));
}

# Returns an event's data.
sub _data
{
	my ($name, $number, $parts, $keep) = @_;

	return sprintf q('{"of": "%s", "n": %d, "parts": %d, "keep": %s}'::jsonb), $name, $number, $parts, $keep ? 'true' : 'false';
}

# Returns a script that says whether SQL was run, and then goes on with another one.
sub _told
{
	my ($sql, $what, $name, $then) = @_;

	return "$sql;\n\\if :ERROR\nROLLBACK;\n\\else\n\\warn $what $name\n" . ($then // '') . "\\endif\n";
}

1;
