# The consumers of examples/subscriber at work: in psql, and in Python if psycopg2
# is there.  pgbench places orders meanwhile, consumers are killed and told to stop.
#
# The oracle: the table that they keep must equal a sum over the log, and each
# order must have got its mail, once unless somebody died over it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $directory = "$FindBin::RealBin/../../examples/subscriber";
my $orders = $ENV{ES_LONG} ? 2000 : 200; # of each of four clients
my $mails = PostgreSQL::Test::Utils::tempdir();
my $python = find_python();

my $node = PostgreSQL::Test::Cluster->new('subscriber');
$node->init;
$node->start;
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';
system("psql -X -q -v ON_ERROR_STOP=1 <'$directory/subscriber.sql' >/dev/null") == 0
  or die 'subscriber.sql fails';

# Orders of 20 products; with the mail addresses some are wrong.
my $order = q(
\set product random(1, 20)
\set price random(1, 99)
SELECT es.append('order', gen_random_uuid()::text, 'Placed',
	jsonb_build_object('product', 'p' || :product, 'price', :price,
	                   'mail', CASE WHEN :price = 13 THEN 'wrong' ELSE 'a@example.org' END));
);

# In psql: one is killed, one is told to stop, one gets through to the end.
my @psql = map { consumer('psql', '-X', '-q', '-f', "$directory/turnover.psql") } 1 .. 3;
my $load = start_load();
wait_for('SELECT sum(orders) > 20 FROM turnover');
$psql[0]->signal('KILL');
$psql[1]->signal('INT');
finish_load($load);
wait_for_turnover('psql: the table equals a sum over the log');
stop($psql[0], undef);
like(stop($psql[1], undef) . stop($psql[2], 'INT'),
	qr/events, up to position/,
	'psql: says what it does');
is(leases(), '0', 'psql: no lease is left behind');

SKIP:
{
	skip 'the Python module psycopg2 is not installed (Debian: python3-psycopg2)', 8 if !$python;

	# Somebody dies with mails in hand; others take over when the lease has run out.
	$node->safe_psql('postgres',
		q(SELECT count(*) FROM es.fetch('mails', max_count => 5, consumer => 'dead', lease => '100ms')));
	my @turnover = map { python('turnover') } 1 .. 3;
	my @mails = map { python('mails') } 1 .. 2;

	$load = start_load();
	$node->safe_psql('postgres',
		q(SELECT es.append('order', 'bad price', 'Placed', '{"product": "p1", "price": "free", "mail": "a@example.org"}')));
	wait_for("SELECT sum(orders) > 4 * $orders + 20 FROM turnover");
	$turnover[0]->signal('KILL');
	$mails[0]->signal('TERM');
	finish_load($load);
	wait_for_turnover('Python: the table equals a sum over the log');
	wait_for(q(SELECT min(checkpoint) >= (SELECT max(position) FROM es.events)
FROM es.subscriptions WHERE name = 'mails'));
	stop($turnover[0], undef);
	is(stop($_, 'TERM'), '', 'Python: says nothing') foreach @turnover[ 1, 2 ], $mails[1];
	is(stop($mails[0], undef), '', 'Python: stops when it is told to');
	is($_->result(0), 0, 'Python: stopping is no failure') foreach $mails[1];
	is(leases(), '0', 'Python: no lease is left behind');

	check_parked();
	check_mails();
}

$node->stop;
done_testing();

# Returns the Python that has psycopg2; undef if none has.
sub find_python
{
	foreach my $program ('python3', '/usr/bin/python3')
	{
		return $program if system("$program -c 'import psycopg2' >/dev/null 2>&1") == 0;
	}
	return undef;
}

# Starts a consumer.
sub consumer
{
	my @command = @_;
	my ($output, $errors) = ('', '');

	# The handle keeps what it points to.
	my $run = IPC::Run::start(\@command, '<', \undef, '>', \$output, '2>', \$errors,
		init => sub { chdir $mails or die });
	$run->{es_output} = \$output;
	$run->{es_errors} = \$errors;
	return $run;
}

sub python
{
	return consumer($python, "$directory/subscriber.py", @_);
}

# Waits for a consumer's end, with a signal if one is given; returns what it has printed.
sub stop
{
	my ($run, $signal) = @_;

	$run->signal($signal) if $signal;
	eval { $run->finish };
	note ${ $run->{es_errors} } if ${ $run->{es_errors} };
	return ${ $run->{es_output} };
}

sub start_load
{
	return EsLoad->start($node, 'orders', { order => $order }, '-c', 4, '-t', $orders);
}

sub finish_load
{
	my $result = $_[0]->finish;

	is($result->{processed}, 4 * $orders, 'all orders are placed') or diag($result->{stderr});
	return;
}

# Waits until a query returns true.
sub wait_for
{
	my ($query) = @_;

	$node->poll_query_until('postgres', $query) or die "never: $query";
	return;
}

# Waits until as many orders are counted as there are, and compares.
sub wait_for_turnover
{
	my ($name) = @_;
	my $valid = q(event_type = 'Placed' AND data->>'price' <> 'free');

	wait_for("SELECT sum(orders) >= (SELECT count(*) FROM es.events WHERE $valid) FROM turnover");
	is( $node->safe_psql(
			'postgres', qq(
SELECT data->>'product', count(*), sum((data->>'price')::numeric) FROM es.events WHERE $valid GROUP BY 1
EXCEPT ALL SELECT * FROM turnover)),
		'',
		$name);
	return;
}

sub leases
{
	return $node->safe_psql('postgres',
		'SELECT count(*) FROM es.subscription_streams WHERE lease_id IS NOT NULL');
}

# What can't be handled is put aside, and nothing else.
sub check_parked
{
	is($node->safe_psql('postgres', 'SELECT subscription, position FROM es.parked_events ORDER BY position'),
		$node->safe_psql(
			'postgres', q(
SELECT CASE WHEN data->>'mail' = 'wrong' THEN 'mails' ELSE 'turnover' END, position FROM es.events
WHERE data->>'mail' = 'wrong' OR data->>'price' = 'free' ORDER BY position)),
		'what is wrong was put aside, and nothing else');
	is($node->safe_psql('postgres', q(SELECT reason, attempts FROM es.parked_events WHERE subscription = 'mails' LIMIT 1)),
		'wrong is not an address|3',
		'with the reason, after so many attempts');
	return;
}

# Each order has its mail, unless its address was wrong.
sub check_mails
{
	my %sent;

	$sent{ (split / /)[0] }++ foreach split /\n/, slurp_file("$mails/mails.txt");
	my @expected = split /\n/, $node->safe_psql('postgres',
		q(SELECT event_id FROM es.events WHERE data->>'mail' <> 'wrong' AND position > 5));
	my @missing = grep { !$sent{$_} } @expected;
	my @twice = grep { $sent{$_} > 1 } keys %sent;

	is(scalar(@missing), 0, 'each order has got its mail');
	is(scalar(@twice), 0, 'once, as nobody was killed over it');
	return;
}
