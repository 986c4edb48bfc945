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

	foreach my $line (split /\n/, $log)
	{
		my $bad = $line =~ /\] XX\w\w\w (ERROR|FATAL|PANIC|WARNING)/
		  || $line =~ /TRAP:|PANIC:|\(PID \d+\) was terminated by signal|runtime error:|AddressSanitizer/
		  || $line =~ /WARNING:.*(leak|still referenced|not closed|remaining|you don't own a lock|problem in alloc set|refcount)/i
		  || $line =~ /WARNING:.*(resource was not|snapshot .* still active|transaction left non-empty|AbortTransaction while)/i;

		$bad = 0 if defined $allowed && $line =~ $allowed;
		$context = $bad ? 6 : $context - 1;
		push @bad, $line if $bad || $context > 0;
	}
	return @bad;
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
