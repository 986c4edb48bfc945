-- A bank with a wrong fee: the bug is found, its effect is measured, and it is
-- repaired while customers go on paying.
--
-- Run it in this directory and in an empty database, as superuser:
--
--     psql -X -q < bugfix.sql
--
-- It needs pgbench, which comes with PostgreSQL.  It explains itself; bugfix.out
-- holds what it prints.

\pset footer off
\set ON_ERROR_STOP on
SET timezone = 'UTC';

-- Section 6 needs them.
\set ready `test -r payment.pgbench && command -v pgbench >/dev/null && echo true || echo false`
\if :ready
\else
	\echo 'Run this in its directory, where payment.pgbench is, and with pgbench in the PATH.'
	\quit
\endif

\echo '== 1. A bank with a history'
\echo
\echo 'This bank has moved here from another server, with its log: 100,000 events of 500 accounts,'
\echo 'from January 2025 to February 2026. Normally a dump brings them, with the times at which'
\echo 'they were recorded. Here a query makes them up, and es.restore lets it set those times, as'
\echo 'it does for a dump. The last 100 accounts are for saving: nobody pays from them.'
\echo

CREATE EXTENSION pg_eventsourcing;
-- No messages about the progress of a replay, should this machine be slow.
SET es.progress_interval = 0;

\set ECHO queries
SET es.restore = on;

INSERT INTO es.events (position, recorded_at, occurred_at, event_id,
	aggregate_type, aggregate_id, version, event_type, data)
SELECT n, day, day, es.uuid_v7(), 'account', 1001 + account, version,
	CASE
		WHEN version = 1 THEN 'Opened'
		WHEN account >= 400 OR version % 5 = 2 THEN 'Deposited'
		ELSE 'Withdrawn'
	END,
	CASE
		WHEN version = 1 THEN jsonb_build_object('owner', 'Customer ' || 1001 + account)
		ELSE jsonb_build_object('branch', 1 + (account + version) % 9, 'amount',
			CASE WHEN version % 5 = 2 THEN 5000
				ELSE ('{20, 50, 100, 200, 400, 1000, 2400}'::integer[])[1 + (account + version) % 7] END)
	END
FROM (SELECT n, '2025-01-02 08:00Z'::timestamptz + n * interval '6 minutes' AS day,
		(n - 1) % 500 AS account, 1 + (n - 1) / 500 AS version
	FROM generate_series(1, 100000) AS n) AS e
ORDER BY n;

SELECT setval('es.events_position_seq', max(position)) AS last_position FROM es.events;
RESET es.restore;
\set ECHO none

\echo 'Two tables are kept from the log. The accounts; each withdrawal costs a fee, of half a per'
\echo 'cent, but not more than 5 euros:'
\echo

\set ECHO queries
CREATE TABLE account (
	id      text PRIMARY KEY,
	owner   text NOT NULL,
	balance numeric NOT NULL,
	fees    numeric NOT NULL
);

CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
	WHEN 'Opened' THEN
		ROW(event.aggregate_id, event.data->>'owner', 0, 0)::account
	WHEN 'Deposited' THEN
		ROW(state.id, state.owner, state.balance + (event.data->>'amount')::numeric, state.fees)::account
	WHEN 'Withdrawn' THEN
		ROW(state.id, state.owner,
			state.balance - (event.data->>'amount')::numeric
				- greatest(round((event.data->>'amount')::numeric * 0.005, 2), 5.00),
			state.fees + greatest(round((event.data->>'amount')::numeric * 0.005, 2), 5.00))::account
	ELSE state
END;

SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}') \g /dev/null
\set ECHO none

\echo
\echo 'And what is in the till of each branch. The events of many accounts feed one row of it:'
\echo

\set ECHO queries
CREATE TABLE till (
	branch integer PRIMARY KEY,
	cash   numeric NOT NULL
);

CREATE FUNCTION till_apply(state till, event es.events) RETURNS till
LANGUAGE sql IMMUTABLE
RETURN ROW((event.data->>'branch')::integer,
	coalesce(state.cash, 0) + (event.data->>'amount')::numeric
		* CASE event.event_type WHEN 'Deposited' THEN 1 ELSE -1 END)::till;

SELECT es.create_projection('till', 'till', 'till_apply', key => $$(data->>'branch')::integer$$,
	event_types => '{Deposited, Withdrawn}') \g /dev/null
\set ECHO none

\echo
\echo '== 2. The books of last year'
\echo
\echo 'In January the bank printed its balance sheet for the end of 2025. The tables have moved on'
\echo 'since, but the log knows what they were. An environment is a schema with all of them as of'
\echo 'a moment. (as_of asks what had been recorded by then. A history that is imported by COPY is'
\echo 'recorded today, whenever it happened; there, as_of_position names the last event of the year.)'
\echo

\set ECHO queries
SELECT es.create_environment('books_2025', as_of => '2026-01-01 00:00Z') \g /dev/null

SET search_path = books_2025;
SELECT (SELECT sum(cash) FROM till) AS cash,
	sum(balance) AS owed_to_customers, sum(fees) AS fees_earned,
	(SELECT sum(cash) FROM till) = sum(balance) + sum(fees) AS balanced
FROM account;
RESET search_path;
\set ECHO none

\echo 'That is what was printed: what is in the tills belongs to the customers, except for the fees.'
\echo
\echo '== 3. A complaint'
\echo
\echo 'The customer of account 1001 says that the fees are too high. The log tells what happened,'
\echo 'and es.load() what the account was after each event:'
\echo

\set ECHO queries
SELECT e.version, e.event_type, e.data->>'amount' AS amount, a.balance, a.fees
FROM es.read_aggregate('account', '1001', max_count => 8) AS e,
	es.load(NULL::account, 'account', '1001', as_of_version => e.version) AS a
ORDER BY e.version;
\set ECHO none

\echo 'He is right. Withdrawing 200 should have cost 1.00, not 5.00; and 2400 costs 12.00, more than'
\echo 'the 5.00 that is the most. Where the function says greatest(), it should say least().'
\echo
\echo 'The sheet in section 2 was balanced all the same. The events are right; what the function'
\echo 'makes of them is wrong. So nothing has to be found and corrected row by row.'
\echo
\echo '== 4. How not to repair it'
\echo
\echo 'Somebody means well, lifts the protection of the table, and gives the customer 100 euros:'
\echo

\set ECHO queries
SELECT es.alter_projection('account', protect => false) \g /dev/null
UPDATE account SET balance = balance + 100, fees = fees - 100 WHERE id = '1001';
SELECT es.alter_projection('account', protect => true) \g /dev/null
\set ECHO none

\echo
\echo 'Now the table holds something that no event tells of: nobody will know why, and the next'
\echo 'replay takes it away. es.verify_projection() compares each row with what the log gives, and'
\echo 'shows the damage:'
\echo

\set ECHO queries
SELECT key, actual->'balance' AS actual_balance, expected->'balance' AS expected_balance,
	actual->'fees' AS actual_fees, expected->'fees' AS expected_fees
FROM es.verify_projection('account');
\set ECHO none

\echo 'This row is made anew from its events, and no other is touched:'
\echo

\set ECHO queries
SELECT es.replay_keys('account', '{1001}') AS corrected_rows;
SELECT count(*) AS damaged_rows FROM es.verify_projection('account');
\set ECHO none

\echo '== 5. The fix, and what it will do'
\echo
\echo 'The corrected function is written beside the old one, which stays in use:'
\echo

\set ECHO queries
CREATE FUNCTION account_apply_v2(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
	WHEN 'Opened' THEN
		ROW(event.aggregate_id, event.data->>'owner', 0, 0)::account
	WHEN 'Deposited' THEN
		ROW(state.id, state.owner, state.balance + (event.data->>'amount')::numeric, state.fees)::account
	WHEN 'Withdrawn' THEN
		ROW(state.id, state.owner,
			state.balance - (event.data->>'amount')::numeric
				- least(round((event.data->>'amount')::numeric * 0.005, 2), 5.00),
			state.fees + least(round((event.data->>'amount')::numeric * 0.005, 2), 5.00))::account
	ELSE state
END;
\set ECHO none

\echo
\echo 'Before anything changes, es.verify_projection() tells which rows the new function would'
\echo 'change. So many accounts, and so much money that goes back to their owners:'
\echo

\set ECHO queries
CREATE TEMPORARY TABLE preview AS
	SELECT key AS id, (actual->>'fees')::numeric AS fees, (expected->>'fees')::numeric AS correct_fees
	FROM es.verify_projection('account', apply => 'account_apply_v2');

SELECT count(*) AS accounts, sum(fees) AS fees, sum(correct_fees) AS correct_fees,
	sum(fees - correct_fees) AS given_back
FROM preview;
SELECT * FROM preview ORDER BY id LIMIT 3;
\set ECHO none

\echo 'All 400 current accounts, and none of the others. Should the preview show a row that is a'
\echo 'surprise, the fix has a bug itself, and nobody has been hurt.'
\echo
\echo '== 6. The repair, while customers go on paying'
\echo
\echo 'The bank does not close for this. In the background pgbench makes 2000 payments of 20 euros,'
\echo 'by four clients at once, about 300 in a second:'
\echo
\echo '  pgbench -n -c 4 -t 500 -R 300 -f payment.pgbench'
\echo
\echo 'The table follows them, by the wrong rule as yet: each payment costs 5 euros.'
\echo

-- The database that this session is in, by its user.
\setenv PGHOST :HOST
\setenv PGPORT :PORT
\setenv PGUSER :USER
\setenv PGDATABASE :DBNAME
\! pgbench -n -c 4 -t 500 -R 300 -f payment.pgbench >/dev/null &

-- Waits until there are so many payments; raises an error after a while.
CREATE PROCEDURE pg_temp.wait_for_payments(n bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1200 LOOP
		IF (SELECT count(*) >= n FROM es.events WHERE position > 100000) THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RAISE 'the payments do not arrive';
END $$;

CALL pg_temp.wait_for_payments(200);

\echo 'When 200 have been made: is the table what the log says, by the old rule? (State and log are'
\echo 'read with one snapshot, so a payment that is under way never shows up as damage.)'
\echo

\set ECHO queries
SELECT count(*) AS damaged_rows FROM es.verify_projection('account');
\set ECHO none

\echo 'And now the repair. It folds the log into new storage while payments go on, then holds them'
\echo 'for a moment, adds those made meanwhile, and puts the new rows and the new function in'
\echo 'place of the old ones in the same instant:'
\echo

\set ECHO queries
CREATE TEMPORARY TABLE start AS
	SELECT max(position) AS position FROM es.events;
CREATE TEMPORARY TABLE replay AS
	SELECT * FROM es.replay('account', apply => 'account_apply_v2');
SELECT projection, rows, events > 100000 AS with_payments FROM replay;
\set ECHO none

CALL pg_temp.wait_for_payments(2000);

\echo 'Some payments were made before the replay, some while it ran, some after it:'
\echo

\set ECHO queries
SELECT count(*) FILTER (WHERE e.position <= start.position) > 0 AS before,
	count(*) FILTER (WHERE e.position > start.position AND e.position <= up_to_position) > 0 AS meanwhile,
	count(*) FILTER (WHERE e.position > up_to_position) > 0 AS after,
	count(*) AS payments
FROM es.events AS e, start, replay WHERE e.position > 100000;
\set ECHO none

\echo 'Whichever it was, each has cost its customer 0.10 now. The table is what the log says, by'
\echo 'es.verify_projection(), and by a sum over the log that knows nothing of the projection:'
\echo

\set ECHO queries
SELECT count(*) AS damaged_rows FROM es.verify_projection('account');

WITH log AS (
	SELECT aggregate_id AS id,
		coalesce(sum(least(amount * 0.005, 5)) FILTER (WHERE event_type = 'Withdrawn'), 0) AS fees,
		coalesce(sum(amount) FILTER (WHERE event_type = 'Deposited'), 0) AS paid_in,
		coalesce(sum(amount) FILTER (WHERE event_type = 'Withdrawn'), 0) AS paid_out
	FROM (SELECT *, (data->>'amount')::numeric AS amount FROM es.events) AS e
	GROUP BY aggregate_id
)
SELECT count(*) AS accounts,
	count(*) FILTER (WHERE account.fees = log.fees AND balance = paid_in - paid_out - log.fees) AS equal
FROM account FULL JOIN log USING (id);

SELECT (SELECT sum(cash) FROM till) AS cash,
	sum(balance) AS owed_to_customers, sum(fees) AS fees_earned,
	(SELECT sum(cash) FROM till) = sum(balance) + sum(fees) AS balanced
FROM account;
\set ECHO none

\echo 'The fees are those of the preview and 200.00 for the 2000 payments:'
\echo

\set ECHO queries
SELECT sum(correct_fees) AS preview, sum(correct_fees) + 2000 * 0.10 AS with_payments FROM preview;
\set ECHO none

\echo '== 7. What should have been printed'
\echo
\echo 'The balance sheet of 2025 was wrong too. Here it is again as of its date, with the function'
\echo 'that is in use now:'
\echo

\set ECHO queries
SELECT es.create_environment('books_2025_corrected', as_of => '2026-01-01 00:00Z') \g /dev/null

SELECT 'printed' AS books, sum(balance) AS owed_to_customers, sum(fees) AS fees_earned
FROM books_2025.account
UNION ALL
SELECT 'corrected', sum(balance), sum(fees)
FROM books_2025_corrected.account;
\set ECHO none

\echo 'The difference is what the bank owes its customers for 2025. The tills are the same, as nobody'
\echo 'took any other money than the events say:'
\echo

\set ECHO queries
SELECT count(*) AS tills, count(*) FILTER (WHERE printed.cash = corrected.cash) AS equal
FROM books_2025.till AS printed FULL JOIN books_2025_corrected.till AS corrected USING (branch);
\set ECHO none

\echo 'And the auditor who wants to see how the printed figures came about? An environment uses the'
\echo 'functions of today. But the old function still exists, and es.replay_into() takes any'
\echo 'function. This is the account table as it was on paper:'
\echo

\set ECHO queries
CREATE TABLE audit (LIKE account);
SELECT es.replay_into('account', 'audit', as_of => '2026-01-01 00:00Z', apply => 'account_apply') AS rows;
SELECT count(*) AS different_rows FROM (
	(TABLE audit EXCEPT ALL TABLE books_2025.account) UNION ALL
	(TABLE books_2025.account EXCEPT ALL TABLE audit)) AS d;
\set ECHO none
