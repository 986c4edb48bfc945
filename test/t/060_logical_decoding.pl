# The log through logical decoding, as Debezium and logical replication read it:
# a publication of the INSERTs of es.events and a slot of pgoutput.
#
# Events come when their transactions commit: none of a transaction that was rolled
# back, those of a prepared one with COMMIT PREPARED, and a position after
# a higher one if its transaction was the longer one.  Within an aggregate the
# order is that of the versions.
#
# The oracle: under a load of transactions that overlap, what the slot has returned,
# put together over several reads, must equal the table, each event once.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use EsLoad;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('decoding');
$node->init;
$node->append_conf(
	'postgresql.conf', q(
wal_level = logical
max_prepared_transactions = 10
));
$node->start;
$node->safe_psql(
	'postgres', q(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE account (id text PRIMARY KEY, balance numeric NOT NULL);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, coalesce(state.balance, 0) + (event.data->>'amount')::numeric)::account;
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
CREATE PUBLICATION log FOR TABLE es.events WITH (publish = 'insert');
));
$node->safe_psql('postgres', q(SELECT pg_create_logical_replication_slot('log', 'pgoutput')));

commit_order();
rolled_back();
prepared();
whole_event();
under_load();
after_restart();

$node->stop;
done_testing();

# What is committed later comes later, whatever its position.
sub commit_order
{
	my $slow = $node->background_psql('postgres');

	$slow->query_safe(q(BEGIN; SELECT es.append('a', 'slow', 'First'), es.append('a', 'slow', 'Second')));
	append(q(SELECT es.append('a', 'quick', 'Third')));
	is(decoded(), 'quick 1 Third', 'a transaction in flight shows nothing');
	append(q(SELECT es.append_batch('[{"aggregate_type": "a", "aggregate_id": "b1", "event_type": "X"},
		{"aggregate_type": "a", "aggregate_id": "b2", "event_type": "Y"}]')));
	$slow->query_safe('COMMIT');
	$slow->quit;
	is(decoded(), 'b1 1 X; b2 1 Y | slow 1 First; slow 2 Second',
		'transactions come whole, in the order of their commits, with lower positions after higher ones');
	is($node->safe_psql('postgres', q(SELECT string_agg(aggregate_id, ' ' ORDER BY position) FROM es.events)),
		'slow slow quick b1 b2', 'positions say otherwise');
	return;
}

# What was rolled back does not come, nor does what a projection writes: it isn't published.
sub rolled_back
{
	append(q(BEGIN; SELECT es.append('a', 'undone', 'X'); ROLLBACK));
	append(
		q(BEGIN; SELECT es.append('a', 'kept', 'One'); SAVEPOINT s; SELECT es.append('a', 'kept', 'Undone');
		ROLLBACK TO s; SELECT es.append('a', 'kept', 'Two'); COMMIT));
	append(q(SELECT es.append('account', '1', 'Deposited', '{"amount": 5}')));
	is(decoded(), 'kept 1 One; kept 2 Two | 1 1 Deposited',
		'neither what was rolled back nor the rows of a projection');
	return;
}

# A prepared transaction comes when it is committed.
sub prepared
{
	append(q(BEGIN; SELECT es.append('a', 'p', 'Prepared'); PREPARE TRANSACTION 'one'));
	append(q(BEGIN; SELECT es.append('a', 'q', 'Prepared'); PREPARE TRANSACTION 'two'));
	append(q(SELECT es.append('a', 'r', 'Committed')));
	is(decoded(), 'r 1 Committed', 'prepared transactions show nothing');
	append(q(COMMIT PREPARED 'two'));
	append(q(ROLLBACK PREPARED 'one'));
	append(q(SELECT es.append('a', 'q', 'Later')));
	is(decoded(), 'q 1 Prepared | q 2 Later', 'COMMIT PREPARED does');
	return;
}

# All columns come as they are, however long.
sub whole_event
{
	append(
		q(SELECT es.append('a', 'long', 'X', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 1000) AS i),
		'{"m": 1}', correlation_id => 'c', causation_id => 'k', source => 's', occurred_at => '2026-01-01Z')));
	my ($transaction) = transactions();
	my @columns = @{ $transaction->[0] };
	my @expected = split /\|/, $node->safe_psql('postgres', q(SELECT * FROM es.events WHERE aggregate_id = 'long'));

	is_deeply(\@columns, \@expected, 'all columns come as the table has them');
	return;
}

# Overlapping transactions of all kinds, read while they run.
sub under_load
{
	my %load = (
		'one@4' => q(
\set a random(1, 20)
SELECT es.append('load', :a::text, 'e');
),
		'slow@2' => q(
\set a random(1, 20)
\set ms random(0, 20)
BEGIN;
SELECT es.append('load', :a::text, 'e');
\sleep :ms ms
SELECT es.append('load', :a::text, 'e');
COMMIT;
),
		'undone' => q(
\set a random(1, 20)
BEGIN;
SELECT es.append('load', :a::text, 'e');
SAVEPOINT s;
SELECT es.append('load', :a::text, 'e');
ROLLBACK TO s;
ROLLBACK;
),
		'prepared' => q(
\set a random(1, 20)
BEGIN;
SELECT es.append('load', :a::text, 'e');
PREPARE TRANSACTION 'p:client_id';
COMMIT PREPARED 'p:client_id';
));
	my $load = EsLoad->start($node, 'writers', \%load, '-c', 8, '-t', $ENV{ES_LONG} ? 2000 : 200, '--max-tries', 100);
	my (@events, %version, $again, $disorder, $inversions, $highest);

	($again, $disorder, $inversions, $highest) = (0, 0, 0, 0);
	while (1)
	{
		my $running = $load->running;

		foreach my $event (map { @$_ } transactions())
		{
			my ($position, $version, $id) = ($event->[0], $event->[1], $event->[7]);

			push @events, $position;
			$again++ if ($version{$id} // 0) >= $version;
			$disorder++ if $version != ($version{$id} // 0) + 1;
			$version{$id} = $version;
			$inversions++ if $position < $highest;
			$highest = $position if $position > $highest;
		}
		last if !$running;
	}
	my $result = $load->finish;

	is($result->{exit}, 0, 'the load has run') or diag($result->{stderr});
	is($again, 0, 'no event comes twice');
	is($disorder, 0, 'the versions of each aggregate come in order and without gaps');
	is( join("\n", sort { $a <=> $b } @events),
		$node->safe_psql('postgres', q(SELECT position FROM es.events WHERE aggregate_type = 'load' ORDER BY 1)),
		'every event comes');
	cmp_ok($inversions, '>', 0, 'positions do not always come in order');
	return;
}

# The slot goes on where it was; it is saved by checkpoints, so what was read since may come again.
sub after_restart
{
	append('CHECKPOINT');
	append(q(SELECT es.append('a', 'read', 'X')));
	is(decoded(), 'read 1 X', 'an event before the crash');
	append(q(SELECT es.append('a', 'unread', 'X')));
	$node->stop('immediate');
	$node->start;
	append(q(SELECT es.append('a', 'after', 'X')));
	like(decoded(), qr/^(?:read 1 X \| )?unread 1 X \| after 1 X$/, 'nothing is missing after a crash');
	return;
}

sub append
{
	$node->safe_psql('postgres', $_[0]);
	return;
}

# Returns what has come since the last call, in short.
sub decoded
{
	return join ' | ', map {
		join '; ', map { "$_->[7] $_->[1] $_->[8]" } @$_
	} transactions();
}

# Reads the slot's messages: a list of transactions with the rows of their INSERTs.
sub transactions
{
	my @transactions;
	my $messages = $node->safe_psql(
		'postgres', q(
SELECT encode(data, 'hex')
FROM pg_logical_slot_get_binary_changes('log', NULL, NULL, 'proto_version', '1', 'publication_names', 'log')));

	foreach my $message (map { pack 'H*', $_ } split /\n/, $messages)
	{
		my $type = substr $message, 0, 1;

		push @transactions, [] if $type eq 'B';
		push @{ $transactions[-1] }, row($message) if $type eq 'I';
		die "unexpected message $type\n" if $type !~ /[BIRCYO]/;
	}
	return grep { @$_ } @transactions;
}

# Returns the columns of an INSERT message: each is text with its length, or null.
sub row
{
	my ($message) = @_;
	my ($count, $offset, @columns) = (unpack('n', substr $message, 6, 2), 8);

	foreach (1 .. $count)
	{
		my $kind = substr $message, $offset++, 1;
		my $value = '';

		if ($kind eq 't')
		{
			my $length = unpack 'N', substr $message, $offset, 4;

			$value = substr $message, $offset + 4, $length;
			$offset += 4 + $length;
		}
		push @columns, $value;
	}
	return \@columns;
}
