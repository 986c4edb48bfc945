# pgbench as a load that runs beside a test.
#
#   my $load = EsLoad->start($node, 'writers', { single => $sql, 'batch@3' => $sql }, '-c', 8, '-T', 10);
#   ... while ($load->running) { ... }
#   my $result = $load->finish;	   # exit, stdout, stderr, processed, failed, retried
#
# The name is its sessions' application_name.  A script's name may end in
# @weight.  pgbench retries what ends in a deadlock or a serialization failure
# as often as --max-tries says, and ends a client on any other error; then exit
# is not 0.
package EsLoad;

use strict;
use warnings FATAL => 'all';

use File::Temp;
use IPC::Run;
use PostgreSQL::Test::Utils;

# Starts pgbench with the scripts and further arguments.
sub start
{
	my ($class, $node, $name, $scripts, @arguments) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless { stdout => '', stderr => '', started => time }, $class;
	my @files;

	foreach my $script (sort keys %$scripts)
	{
		my ($file, $weight) = $script =~ /^(\w+)(@\d+)?$/;

		append_to_file("$dir/$file.sql", $scripts->{$script});
		push @files, '-f', "$dir/$file.sql" . ($weight // '');
	}
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGAPPNAME} = $name;
	$self->{run} = IPC::Run::start([ 'pgbench', '-n', @arguments, @files, 'postgres' ],
		'<', \undef, '>', \$self->{stdout}, '2>', \$self->{stderr});
	return $self;
}

# Says whether pgbench is still at work; dies if it has been for far too long.
sub running
{
	my ($self) = @_;

	die "the load hangs\n" if time > $self->{started} + 4 * $PostgreSQL::Test::Utils::timeout_default;
	$self->{run}->pump_nb;
	return $self->{run}->pumpable;
}

# Waits for pgbench to end and returns what came of it.
sub finish
{
	my ($self) = @_;

	$self->{run}->finish;
	my ($processed) = $self->{stdout} =~ /actually processed: (\d+)/;
	my ($failed) = $self->{stdout} =~ /failed transactions: (\d+)/;
	my ($retried) = $self->{stdout} =~ /transactions retried: (\d+)/;
	return {
		exit => $self->{run}->result(0),
		stdout => $self->{stdout},
		stderr => $self->{stderr},
		processed => $processed // 0,
		failed => $failed // 0,
		retried => $retried // 0,
	};
}

1;
