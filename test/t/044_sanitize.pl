# The regression, isolation, transaction and hostile tests once more, with the extension
# built with AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

my $runtime = `gcc -print-file-name=libasan.so 2>/dev/null`;

chomp $runtime;
plan skip_all => 'takes long (make check-world)' unless $ENV{ES_LONG};
plan skip_all => 'no runtime of AddressSanitizer' unless $runtime =~ m{/} && -e $runtime;

local $ENV{ES_SANITIZE} = 1;
local $ENV{ES_TAP} = '040 041 042';
local $ENV{ES_LONG} = '';
local $ENV{PG_CONFIG} = $ENV{ES_PG_CONFIG};

my $output = `exec bash "$ENV{TESTDIR}/test/check" 2>&1`;

plan skip_all => 'PostgreSQL does not start with AddressSanitizer' if $output =~ /does not start with AddressSanitizer/;
is($?, 0, 'nothing found') or diag $output;
like($output, qr/^ok +sanitize$/m, 'the logs were looked at');
done_testing();
