-- Exchange rates as events.
--
-- Run it in an empty database: psql -X -q < currencies.sql
-- It explains itself; currencies.out holds what it prints.

\pset footer off
\set ON_ERROR_STOP on

\echo '== 1. The idea'
\echo
\echo 'Most programs keep only the latest state: when a rate changes, the old one is'
\echo 'overwritten and gone. Event sourcing keeps every change instead, as an event that'
\echo 'is never altered. The latest state is then computed from the events.'
\echo 'pg_eventsourcing does both parts inside PostgreSQL.'
\echo

CREATE EXTENSION pg_eventsourcing;

\echo '== 2. A table for the latest rates'
\echo
\echo 'An ordinary table: how much of a currency one euro buys, and, the other way'
\echo 'round, how many euros one unit of the currency is worth.'
\echo

\set ECHO queries
CREATE TABLE currency (
	code    text PRIMARY KEY,
	name    text NOT NULL,
	rate    numeric NOT NULL,
	in_euro numeric NOT NULL,
	since   date NOT NULL
);
\set ECHO none

\echo
\echo 'One function says what each kind of event does to a row of it. It gets the row as it'
\echo 'was and the event, and returns the row as it is afterwards (NULL: no row any more).'
\echo

\set ECHO queries
CREATE FUNCTION currency_apply(state currency, event es.events) RETURNS currency
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
	WHEN 'CurrencyCreated' THEN
		ROW(event.aggregate_id,
			event.data->>'name',
			(event.data->>'rate')::numeric,
			round(1 / (event.data->>'rate')::numeric, 4),
			(event.data->>'date')::date)::currency
	WHEN 'RateUpdated' THEN
		ROW(state.code,
			state.name,
			(event.data->>'rate')::numeric,
			state.in_euro,
			(event.data->>'date')::date)::currency
	WHEN 'CurrencyDeleted' THEN NULL
	ELSE state
END;
\set ECHO none

\echo
\echo 'A projection ties the two together: from now on, the table follows the events.'
\echo

\set ECHO queries
SELECT es.create_projection('currency', 'currency', 'currency_apply') \g /dev/null
\set ECHO none

\echo
\echo '== 3. Things happen'
\echo
\echo 'Three currencies are created. Each call adds one event and returns its number'
\echo 'in the history of that currency:'
\echo

\set ECHO queries
SELECT es.append('currency', 'USD', 'CurrencyCreated', '{"name": "US dollar", "rate": 1.10, "date": "2026-01-02"}');
SELECT es.append('currency', 'JPY', 'CurrencyCreated', '{"name": "Yen", "rate": 160, "date": "2026-01-02"}');
SELECT es.append('currency', 'HRK', 'CurrencyCreated', '{"name": "Kuna", "rate": 7.5345, "date": "2026-01-02"}');
\set ECHO none

\echo 'The table has filled itself, in the same transactions:'
\echo

\set ECHO queries
SELECT * FROM currency ORDER BY code;
\set ECHO none

\echo 'Rates change, and Croatia has joined the euro, so the kuna is deleted:'
\echo

\set ECHO queries
SELECT es.append('currency', 'USD', 'RateUpdated', '{"rate": 1.25, "date": "2026-02-02"}');
SELECT es.append('currency', 'JPY', 'RateUpdated', '{"rate": 200, "date": "2026-02-02"}');
SELECT es.append('currency', 'USD', 'RateUpdated', '{"rate": 1.20, "date": "2026-03-02"}');
SELECT es.append('currency', 'HRK', 'CurrencyDeleted');
SELECT * FROM currency ORDER BY code;
\set ECHO none

\echo 'Nothing is lost. The whole history is still there, the kuna included:'
\echo

\set ECHO queries
SELECT aggregate_id, version, event_type, data->>'rate' AS rate, data->>'date' AS date
FROM es.events ORDER BY position;
\set ECHO none

\echo '== 4. A bug'
\echo
\echo 'Look at the table again: 1.20 dollars for a euro makes a dollar 0.8333 euros, not 0.9091.'
\echo 'The function forgets to compute in_euro anew when a rate is updated. In a program that'
\echo 'keeps only the latest state the wrong values would now have to be found and repaired'
\echo 'by hand. Here the function is corrected ...'
\echo

\set ECHO queries
CREATE OR REPLACE FUNCTION currency_apply(state currency, event es.events) RETURNS currency
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
	WHEN 'CurrencyCreated' THEN
		ROW(event.aggregate_id,
			event.data->>'name',
			(event.data->>'rate')::numeric,
			round(1 / (event.data->>'rate')::numeric, 4),
			(event.data->>'date')::date)::currency
	WHEN 'RateUpdated' THEN
		ROW(state.code,
			state.name,
			(event.data->>'rate')::numeric,
			round(1 / (event.data->>'rate')::numeric, 4),
			(event.data->>'date')::date)::currency
	WHEN 'CurrencyDeleted' THEN NULL
	ELSE state
END;
\set ECHO none

\echo
\echo '... and the table is built anew from the events:'
\echo

\set ECHO queries
SELECT projection, events, rows FROM es.replay('currency');
SELECT * FROM currency ORDER BY code;
\set ECHO none

\echo 'Every row is right, as if the bug had never been there, and later events go on from here:'
\echo

\set ECHO queries
SELECT es.append('currency', 'JPY', 'RateUpdated', '{"rate": 160, "date": "2026-04-02"}');
SELECT * FROM currency ORDER BY code;
\set ECHO none

\echo '== 5. What protects the history'
\echo
\echo 'Events can not be changed or deleted, not even by a superuser:'
\echo

\set ON_ERROR_STOP off
\set ECHO queries
DELETE FROM es.events;
\set ECHO none

\echo
\echo 'And two people who change the same currency at once do not overwrite each other: who says'
\echo 'which version he has seen is told when it is out of date.'
\echo
\set ECHO queries
SELECT es.append('currency', 'USD', 'RateUpdated', '{"rate": 1.3, "date": "2026-04-02"}', expected_version => 2);
\set ECHO none
