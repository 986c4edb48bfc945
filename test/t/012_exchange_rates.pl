# Real input: 50 years of monthly exchange rates as events.
#
# One aggregate per country; one projection keeps each country's latest rate,
# another one the year's average over all countries.  Both must say what plain SQL over the
# file says, and again when the tables have been damaged and replayed.
#
# The file exchange-rates-monthly.csv is no part of the project: it is looked for in
# $ES_SHARED_DATA, or in shared/data beside the checkout, and without it
# there is nothing to test.
use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($file) = grep { -r $_ }
  map { "$_/exchange-rates-monthly.csv" }
  grep { $_ } $ENV{ES_SHARED_DATA}, "$FindBin::RealBin/../../../shared/data";
plan skip_all => 'exchange-rates-monthly.csv is not here' if !$file;

my $node = PostgreSQL::Test::Cluster->new('exchange_rates');
$node->init;
$node->start;
$node->safe_psql(
	'postgres', qq(
CREATE EXTENSION pg_eventsourcing;
CREATE TABLE csv (day date, country text, rate numeric);
\\copy csv FROM '$file' (FORMAT csv, HEADER)
));
$node->safe_psql(
	'postgres', q(
CREATE TABLE latest_rate (country text PRIMARY KEY, day date, rate numeric, changes bigint);
CREATE TABLE year_average (year integer PRIMARY KEY, sum numeric, count bigint,
                           average numeric GENERATED ALWAYS AS (sum / count) STORED);

CREATE FUNCTION apply(state latest_rate, event es.events) RETURNS latest_rate
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id, (event.data->>'day')::date, (event.data->>'rate')::numeric,
           coalesce(state.changes, 0) + 1)::latest_rate;

CREATE FUNCTION apply(state year_average, event es.events) RETURNS year_average
LANGUAGE sql IMMUTABLE
RETURN ROW(left(event.data->>'day', 4)::integer,
           coalesce(state.sum, 0) + (event.data->>'rate')::numeric,
           coalesce(state.count, 0) + 1, NULL)::year_average;

CREATE VIEW wrong_latest_rate AS
WITH expected AS (
	SELECT DISTINCT ON (country) country, day, rate, count(*) OVER (PARTITION BY country) AS changes
	FROM csv WHERE rate IS NOT NULL ORDER BY country, day DESC)
(TABLE expected EXCEPT ALL TABLE latest_rate)
UNION ALL
(TABLE latest_rate EXCEPT ALL TABLE expected);

CREATE VIEW wrong_year_average AS
WITH expected AS (
	SELECT extract(year FROM day)::integer, sum(rate), count(*), sum(rate) / count(*)
	FROM csv WHERE rate IS NOT NULL GROUP BY 1)
(TABLE expected EXCEPT ALL TABLE year_average)
UNION ALL
(TABLE year_average EXCEPT ALL TABLE expected);
));

# One of the two exists from the beginning, the other is built in the middle.
$node->safe_psql(
	'postgres', q(
SELECT es.create_projection('latest_rate', 'latest_rate', 'apply(latest_rate, es.events)',
                            aggregate_types => '{country}', event_types => '{RateChanged}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, occurred_at, source, data)
SELECT 'country', country, 'RateChanged', day, 'FRED', jsonb_build_object('day', day, 'rate', rate)
FROM csv WHERE rate IS NOT NULL AND day < '1995-01-01' ORDER BY day, country;
SELECT es.create_projection('year_average', 'year_average', 'apply(year_average, es.events)',
                            key => $$left(data->>'day', 4)::integer$$,
                            aggregate_types => '{country}');
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, occurred_at, source, data)
SELECT 'country', country, 'RateChanged', day, 'FRED', jsonb_build_object('day', day, 'rate', rate)
FROM csv WHERE rate IS NOT NULL AND day >= '1995-01-01' ORDER BY day, country;
));

is( $node->safe_psql('postgres', 'SELECT count(*) FROM es.events'),
	$node->safe_psql('postgres', 'SELECT count(*) FROM csv WHERE rate IS NOT NULL'),
	'each line of the file is an event');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM latest_rate'), '>', 10, 'there are countries');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM year_average'), '>', 10, 'and years');
compare('appended');

is($node->psql('postgres', 'UPDATE latest_rate SET rate = 0'), 3, 'the table can not be damaged by accident');
damage($_) foreach qw(latest_rate year_average);
isnt(wrong('latest_rate'), '', 'damaged on purpose, the latest rates are wrong');
isnt(wrong('year_average'), '', 'and so are the averages');

$node->safe_psql('postgres', "SELECT * FROM es.replay('$_')") foreach qw(latest_rate year_average);
compare('replayed');

damage($_) foreach qw(latest_rate year_average);
$node->safe_psql('postgres', "SET es.replay_memory = '64kB'; SELECT * FROM es.replay('$_')")
  foreach qw(latest_rate year_average);
compare('replayed with little memory');

# The folds go on from what the replay has built.
$node->safe_psql(
	'postgres', q(
INSERT INTO csv SELECT '2100-01-01', country, 1.5 FROM latest_rate;
SELECT es.append('country', country, 'RateChanged', jsonb_build_object('day', day, 'rate', rate))
FROM csv WHERE day = '2100-01-01' ORDER BY country;
));
compare('appended after a replay');

$node->stop;
done_testing();

# Changes, deletes and invents rows.
sub damage
{
	my ($table) = @_;
	my %statements = (
		latest_rate => q(
UPDATE latest_rate SET rate = rate + 1 WHERE country < 'D';
DELETE FROM latest_rate WHERE country > 'S';
INSERT INTO latest_rate VALUES ('Atlantis', '2000-01-01', 1, 1);),
		year_average => q(
UPDATE year_average SET count = count + 1 WHERE year < 1980;
DELETE FROM year_average WHERE year > 2010;
INSERT INTO year_average VALUES (1066, 1, 1);));

	$node->safe_psql('postgres', "BEGIN;
ALTER TABLE $table DISABLE TRIGGER USER;
$statements{$table}
ALTER TABLE $table ENABLE TRIGGER USER;
COMMIT;");
}

sub wrong
{
	my ($table) = @_;

	return $node->safe_psql('postgres', "SELECT * FROM wrong_$table LIMIT 5");
}

sub compare
{
	my ($when) = @_;

	is(wrong('latest_rate'), '', "$when: the latest rates are those of the file");
	is(wrong('year_average'), '', "$when: the averages are those of the file");
}
