# What a server's log must not hold after a test, whatever the test has done:
# internal errors, failed assertions, processes that ended on a signal, warnings of leaked
# resources (buffers, snapshots, plans, locks, relations, tuple descriptors, files).
package EsServerLog;

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

# Settings that make the log tell.
sub settings
{
	return q(
log_line_prefix = '%m [%p] %e '
log_error_verbosity = verbose
log_min_messages = warning
log_statement = none
log_min_error_statement = error
);
}

# Lines of the log that a test must not cause, but for those that a pattern allows.
sub complaints
{
	my ($node, $allowed) = @_;
	my $log = slurp_file($node->logfile);
	my @bad;
	my $context = 0;

	my @lines = split /\n/, $log;
	foreach my $n (0 .. $#lines)
	{
		my $line = $lines[$n];
		my $bad = $line =~ /\] XX\w\w\w (ERROR|FATAL|PANIC|WARNING)/
		  || $line =~ /cause: XX\w\w\w|TRAP:|PANIC:|\(PID \d+\) was terminated by signal|runtime error:|AddressSanitizer/
		  || $line =~ /WARNING:.*(\bleak\b|resource was not closed|still (referenced|active)|you don't own a lock|problem in alloc set)/
		  || $line =~ /WARNING:.*(detected write past chunk|transaction left non-empty SPI stack|AbortTransaction while)/;

		$bad = 0 if defined $allowed && $line =~ $allowed;
		$bad = 0 if $bad && $line =~ /tuple concurrently/ && !calls_us(statement($n, \@lines));
		$context = $bad ? 6 : $context - 1;
		push @bad, $line if $bad || $context > 0;
	}
	return @bad;
}

# Whether a statement calls functions of ours.  PostgreSQL's own commands end with an internal
# error when two of them change the same object, be it a function of ours that they name;
# those that call us must not.
sub calls_us
{
	my ($statement) = @_;

	return $statement =~ /\bes\.\S+ *\(/ && $statement !~ /^\s*(ALTER|COMMENT|DROP|GRANT|REVOKE)\b/i;
}

# The statement that an error belongs to.
sub statement
{
	my ($n, $lines) = @_;
	my ($pid) = $lines->[$n] =~ /\[(\d+)\]/;

	foreach my $line (@$lines[ $n .. $n + 30 ])
	{
		return $1 if defined $line && $line =~ /\[$pid\] \w+ STATEMENT:\s+(.*)/;
	}
	return 'es.?()';
}

# A test that there are none.
sub check
{
	my ($node, $name, $allowed) = @_;
	my @bad = complaints($node, $allowed);

	splice @bad, 60 if @bad > 60;
	return is(join("\n", @bad), '', $name);
}

1;
