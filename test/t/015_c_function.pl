# An apply function in C.
#
# The oracle is the same fold in SQL: both keep a table from the same events.
use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $source = "$FindBin::RealBin/../c/account_apply.c";

# The server is a copy of an installation, which is what to build with.
my $pg_config = $ENV{ES_PG_CONFIG} // 'pg_config';
chomp(my $pgxs = `$pg_config --pgxs`);
plan skip_all => 'no PGXS to build with' if !-e $pgxs;
append_to_file("$dir/Makefile",
	"MODULES = account_apply\nPG_CONFIG = $pg_config\nPGXS := $pgxs\ninclude \$(PGXS)\n");
append_to_file("$dir/account_apply.c", slurp_file($source));
delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
system_or_bail('make', '-s', '-C', $dir, 'with_llvm=no', 'account_apply.so');

my $node = PostgreSQL::Test::Cluster->new('c_function');
$node->init;
$node->start;
$node->safe_psql(
	'postgres', qq(
CREATE EXTENSION pg_eventsourcing;

CREATE TABLE account (id text PRIMARY KEY, balance bigint NOT NULL, note text);
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE c IMMUTABLE AS '$dir/account_apply.so', 'account_apply';

CREATE TABLE account_sql (LIKE account INCLUDING ALL);
CREATE FUNCTION account_sql_apply(state account_sql, event es.events) RETURNS account_sql
LANGUAGE sql IMMUTABLE
RETURN CASE
	WHEN event.event_type = 'Opened' THEN ROW(event.aggregate_id, 0, NULL)::account_sql
	WHEN event.event_type = 'Closed' THEN NULL
	WHEN state.id IS NULL THEN NULL
	WHEN event.event_type = 'Deposited' THEN ROW(state.id, state.balance + (event.data->>'amount')::bigint, state.note)::account_sql
	WHEN event.event_type = 'Noted' THEN ROW(state.id, state.balance, event.data->>'note')::account_sql
	ELSE state END;

CREATE VIEW wrong AS
(TABLE account EXCEPT ALL TABLE account_sql) UNION ALL (TABLE account_sql EXCEPT ALL TABLE account);

-- Half of the events are there before the projections.
CREATE PROCEDURE fill(seed integer) LANGUAGE sql AS \$\$
	INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
	SELECT 'account', i * seed % 211,
	       (ARRAY['Opened', 'Deposited', 'Deposited', 'Noted', 'Deposited', 'Other', 'Noted', 'Deposited', 'Closed'])[1 + i * 31 % 9],
	       CASE i % 5 WHEN 0 THEN jsonb_build_object('amount', i, 'note', repeat(md5(i::text), i % 500))
	                  ELSE jsonb_build_object('amount', i) END
	FROM generate_series(1, 3000) AS i;
\$\$;
CALL fill(7);
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}');
SELECT es.create_projection('account_sql', 'account_sql', 'account_sql_apply', aggregate_types => '{account}');
));

is($node->safe_psql('postgres', 'SELECT count(*) > 50 FROM account'), 't', 'there are rows');
is($node->safe_psql('postgres', 'TABLE wrong'), '', 'filled from the log');

$node->safe_psql('postgres', q(
CALL fill(11);
SELECT es.append('account', (i % 20)::text, 'Opened') FROM generate_series(1, 30) AS i;
SELECT es.append('account', (i % 20)::text, 'Deposited', '{"amount": 5}') FROM generate_series(1, 50) AS i;
SELECT es.append('account', (i % 20)::text, 'Noted', '{"note": "n"}') FROM generate_series(1, 10) AS i;
SELECT es.append('account', (i % 20)::text, 'Closed') FROM generate_series(1, 4) AS i;
));
is($node->safe_psql('postgres', 'TABLE wrong'), '', 'maintained by events');

$node->safe_psql('postgres', q(SELECT es.replay('account')));
is($node->safe_psql('postgres', 'TABLE wrong'), '', 'replayed');
$node->safe_psql('postgres', q(SET es.replay_memory = '64kB'; SELECT es.replay('account')));
is($node->safe_psql('postgres', 'TABLE wrong'), '', 'replayed in little memory');
is( $node->safe_psql('postgres',
		q(SELECT count(*) FROM account AS a WHERE a IS DISTINCT FROM es.load(NULL::account, 'account', id))),
	'0',
	'loaded one by one');

my ($ret, $stdout, $stderr) = $node->psql(
	'postgres', q(
BEGIN;
SELECT es.append('account', '7', 'Opened');
SAVEPOINT s;
SELECT es.append('account', '7', 'Deposited');
ROLLBACK TO s;
SELECT es.append('account', '7', 'Deposited', '{"amount": 7}');
COMMIT;
SELECT balance FROM account WHERE id = '7';
), on_error_stop => 0);
like($stderr, qr/projection "account" failed: no amount to deposit/, 'its errors are those of the projection');
like($stdout, qr/^7$/m, 'and a savepoint undoes what it did');

$node->stop;
done_testing();
