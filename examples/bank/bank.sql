-- A small bank: accounts, transfers, statements of account.
--
-- Run it in an empty database: psql -X -q < bank.sql
-- It explains itself; bank.out holds what it prints.

\pset footer off
\set ON_ERROR_STOP on

\echo '== 1. The idea'
\echo
\echo 'A bank never just overwrites a balance. It writes down every deposit, withdrawal and'
\echo 'transfer, and the balance is what they add up to. Event sourcing is that habit, for any'
\echo 'kind of data: what has happened is kept as events, which nobody can change or delete, and'
\echo 'tables with the present state are computed from them. Here both happen in PostgreSQL.'
\echo

CREATE EXTENSION pg_eventsourcing;

\echo '== 2. Balances'
\echo
\echo 'An ordinary table with one row per account. Its constraints are the rules of the bank:'
\echo 'an account has an owner, and nobody spends more than there is.'
\echo

\set ECHO queries
CREATE TABLE account (
	id      text PRIMARY KEY,
	owner   text NOT NULL,
	balance numeric NOT NULL CONSTRAINT no_overdraft CHECK (balance >= 0)
);
\set ECHO none

\echo
\echo 'A function says what each kind of event does to a row. It gets the row as it was and the'
\echo 'event, and returns the row as it is afterwards:'
\echo

\set ECHO queries
CREATE FUNCTION account_apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN CASE
	WHEN event.event_type = 'AccountOpened' THEN
		ROW(event.aggregate_id, event.data->>'owner', 0)::account
	WHEN event.event_type IN ('Deposited', 'TransferReceived') THEN
		ROW(event.aggregate_id, state.owner, state.balance + (event.data->>'amount')::numeric)::account
	WHEN event.event_type IN ('Withdrawn', 'TransferSent') THEN
		ROW(event.aggregate_id, state.owner, state.balance - (event.data->>'amount')::numeric)::account
	ELSE state
END;
\set ECHO none

\echo
\echo 'A projection ties them together. From now on the table follows the events, in the very'
\echo 'transaction that adds an event: either both are stored, or neither is.'
\echo

\set ECHO queries
SELECT es.create_projection('account', 'account', 'account_apply', aggregate_types => '{account}') \g /dev/null
\set ECHO none

\echo
\echo '== 3. Statements of account'
\echo
\echo 'The same events can feed a second table. This one has a row for each movement of money,'
\echo 'as on a printed statement, so its key is the account and the number of the event in it.'
\echo 'An amount that is missing, zero or negative is refused here.'
\echo

\set ECHO queries
CREATE TABLE movement (
	account  text,
	number   bigint,
	day      date NOT NULL,
	what     text NOT NULL,
	paid_in  numeric CHECK (paid_in > 0),
	paid_out numeric CHECK (paid_out > 0),
	PRIMARY KEY (account, number),
	CHECK (num_nonnulls(paid_in, paid_out) = 1)
);

CREATE FUNCTION movement_apply(state movement, event es.events) RETURNS movement
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id,
	event.version,
	(event.occurred_at AT TIME ZONE 'UTC')::date,
	CASE event.event_type
		WHEN 'Deposited' THEN 'deposit'
		WHEN 'Withdrawn' THEN 'withdrawal'
		WHEN 'TransferReceived' THEN 'from ' || (event.data->>'from')
		WHEN 'TransferSent' THEN 'to ' || (event.data->>'to')
	END,
	CASE WHEN event.event_type IN ('Deposited', 'TransferReceived') THEN (event.data->>'amount')::numeric END,
	CASE WHEN event.event_type IN ('Withdrawn', 'TransferSent') THEN (event.data->>'amount')::numeric END)::movement;

SELECT es.create_projection('movement', 'movement', 'movement_apply',
	key => 'aggregate_id, version', aggregate_types => '{account}',
	event_types => '{Deposited, Withdrawn, TransferReceived, TransferSent}') \g /dev/null
\set ECHO none

\echo
\echo 'The balance after each movement needs no column: a view adds them up.'
\echo

\set ECHO queries
CREATE VIEW statement AS
	SELECT account, number, day, what, paid_in, paid_out,
		sum(coalesce(paid_in, -paid_out)) OVER (PARTITION BY account ORDER BY number) AS balance
	FROM movement;
\set ECHO none

\echo
\echo '== 4. Accounts are opened, money comes and goes'
\echo
\echo 'Each call adds one event and returns its version, its number in the history of that'
\echo 'account. An expected version of 0 means: there must be no such account yet; -1: there'
\echo 'must be one.'
\echo

\set ECHO queries
SELECT es.append('account', 'ada', 'AccountOpened', '{"owner": "Ada"}', expected_version => 0, occurred_at => '2026-01-05 09:00Z');
SELECT es.append('account', 'ada', 'Deposited', '{"amount": 500}', expected_version => -1, occurred_at => '2026-01-05 09:05Z');
SELECT es.append('account', 'bob', 'AccountOpened', '{"owner": "Bob"}', expected_version => 0, occurred_at => '2026-01-05 09:10Z');
SELECT es.append('account', 'bob', 'Deposited', '{"amount": 80}', expected_version => -1, occurred_at => '2026-01-06 10:00Z');
SELECT es.append('account', 'ada', 'Withdrawn', '{"amount": 120}', expected_version => -1, occurred_at => '2026-01-07 11:00Z');
\set ECHO none

\echo 'The balances are there:'
\echo

\set ECHO queries
SELECT * FROM account ORDER BY id;
\set ECHO none

\echo '== 5. A transfer'
\echo
\echo 'A transfer is two events on two accounts, and half a transfer must never exist. One call'
\echo 'stores both or none. Ada''s account was at version 3 when the transfer was decided, Bob''s'
\echo 'at version 2, and the call says so: if anything has happened since, it is refused.'
\echo 'The program has made up an id for each event beforehand; section 7 shows why. A common'
\echo 'correlation id marks what belongs together.'
\echo

\set ECHO queries
PREPARE transfer_1 AS
SELECT aggregate_id, version FROM es.append_batch('[
	{"aggregate_type": "account", "aggregate_id": "ada", "expected_version": 3,
	 "event_type": "TransferSent", "data": {"amount": 200, "to": "bob"},
	 "event_id": "019b9800-0000-7000-8000-000000000001",
	 "correlation_id": "transfer-1", "occurred_at": "2026-01-08 12:00Z"},
	{"aggregate_type": "account", "aggregate_id": "bob", "expected_version": 2,
	 "event_type": "TransferReceived", "data": {"amount": 200, "from": "ada"},
	 "event_id": "019b9800-0000-7000-8000-000000000002",
	 "correlation_id": "transfer-1", "occurred_at": "2026-01-08 12:00Z"}]');

EXECUTE transfer_1;
SELECT * FROM account ORDER BY id;
\set ECHO none

\echo 'Both sides of it can be found by the correlation id:'
\echo

\set ECHO queries
SELECT aggregate_id, version, event_type, data FROM es.read_correlation('transfer-1');
\set ECHO none

\echo 'And the statement of Ada''s account:'
\echo

\set ECHO queries
SELECT day, what, paid_in, paid_out, balance FROM statement WHERE account = 'ada' ORDER BY number;
\set ECHO none

\echo '== 6. More than there is'
\echo
\echo 'Bob has 280. He tries to send 300. The batch names Ada''s side first, so her event is'
\echo 'fine; but with Bob''s his balance would be negative, and the table refuses that:'
\echo

\set ON_ERROR_STOP off
\set ECHO queries
SELECT aggregate_id, version FROM es.append_batch('[
	{"aggregate_type": "account", "aggregate_id": "ada", "expected_version": 4,
	 "event_type": "TransferReceived", "data": {"amount": 300, "from": "bob"},
	 "event_id": "019b9800-0000-7000-8000-000000000003",
	 "correlation_id": "transfer-2", "occurred_at": "2026-01-09 12:00Z"},
	{"aggregate_type": "account", "aggregate_id": "bob", "expected_version": 3,
	 "event_type": "TransferSent", "data": {"amount": 300, "to": "ada"},
	 "event_id": "019b9800-0000-7000-8000-000000000004",
	 "correlation_id": "transfer-2", "occurred_at": "2026-01-09 12:00Z"}]');
\set ECHO none
\set ON_ERROR_STOP on

\echo
\echo 'The error says which event and which constraint. Nothing is stored, for neither account:'
\echo 'no event, no money, no line on a statement.'
\echo

\set ECHO queries
SELECT count(*) AS events_of_the_transfer FROM es.read_correlation('transfer-2');
SELECT a.id, a.balance, es.current_version('account', a.id) AS version,
	(SELECT count(*) FROM movement m WHERE m.account = a.id) AS movements
FROM account a ORDER BY a.id;
\set ECHO none

\echo 'The other rules hold in the same way. Money for an account that nobody has opened, and a'
\echo 'deposit of less than nothing:'
\echo

\set ON_ERROR_STOP off
\set VERBOSITY terse
\set ECHO queries
SELECT es.append('account', 'eve', 'Deposited', '{"amount": 10}', expected_version => -1);
SELECT es.append('account', 'bob', 'Deposited', '{"amount": -10}', expected_version => 3);
\set ECHO none
\set VERBOSITY default
\set ON_ERROR_STOP on

\echo
\echo '== 7. Was it stored or not?'
\echo
\echo 'The network fails just after a transfer is sent, and the program does not know whether it'
\echo 'arrived. It simply sends the same again, with the same event ids:'
\echo

\set ECHO queries
EXECUTE transfer_1;
SELECT * FROM account ORDER BY id;
\set ECHO none

\echo 'The transfer was recognised: the answer is that of the first time, although the accounts'
\echo 'are no longer at the versions that it expects, and no money moved twice. Anything else'
\echo 'under an id that is taken is refused, so that a mistake shows:'
\echo

\set ON_ERROR_STOP off
\set ECHO queries
SELECT es.append('account', 'ada', 'TransferSent', '{"amount": 999, "to": "bob"}',
	event_id => '019b9800-0000-7000-8000-000000000001');
\set ECHO none
\set ON_ERROR_STOP on

\echo
\echo '== 8. Two people, one account'
\echo
\echo 'Two clerks look at Ada''s account, both see version 4 and 180 on it. The first one pays out'
\echo '150 ...'
\echo

\set ECHO queries
SELECT es.append('account', 'ada', 'Withdrawn', '{"amount": 150}', expected_version => 4, occurred_at => '2026-01-12 10:00Z');
\set ECHO none

\echo '... and the second one, who has not seen that, wants to do it as well:'
\echo

\set ON_ERROR_STOP off
\set ECHO queries
SELECT es.append('account', 'ada', 'Withdrawn', '{"amount": 20}', expected_version => 4, occurred_at => '2026-01-12 10:01Z');
\echo 'SQLSTATE:' :LAST_ERROR_SQLSTATE
\set ECHO none
\set ON_ERROR_STOP on

\echo
\echo 'SE001 is the code a program looks for. There would have been enough money for this, but'
\echo 'that is not what the clerk had decided on. He looks again and decides anew:'
\echo

\set ECHO queries
SELECT balance, es.current_version('account', id) AS version FROM account WHERE id = 'ada';
SELECT es.append('account', 'ada', 'Withdrawn', '{"amount": 20}', expected_version => 5, occurred_at => '2026-01-12 10:05Z');
\set ECHO none

\echo 'A stale version stops a transfer as well, as a whole, whichever account it is about. Here'
\echo 'Bob''s is right and Ada''s is not:'
\echo

\set ON_ERROR_STOP off
\set ECHO queries
SELECT aggregate_id, version FROM es.append_batch('[
	{"aggregate_type": "account", "aggregate_id": "bob", "expected_version": 3,
	 "event_type": "TransferSent", "data": {"amount": 50, "to": "ada"}, "correlation_id": "transfer-3"},
	{"aggregate_type": "account", "aggregate_id": "ada", "expected_version": 5,
	 "event_type": "TransferReceived", "data": {"amount": 50, "from": "bob"}, "correlation_id": "transfer-3"}]');
\set ECHO none
\set ON_ERROR_STOP on

\echo
\echo '== 9. The books balance'
\echo
\echo 'What the accounts hold must be what was paid in minus what was paid out; transfers only'
\echo 'move it. The left side comes from the table, the right side from the events themselves:'
\echo

\set ECHO queries
SELECT (SELECT sum(balance) FROM account) AS balances,
	sum((data->>'amount')::numeric) FILTER (WHERE event_type = 'Deposited') AS deposits,
	sum((data->>'amount')::numeric) FILTER (WHERE event_type = 'Withdrawn') AS withdrawals,
	(SELECT sum(balance) FROM account) =
		sum((data->>'amount')::numeric) FILTER (WHERE event_type = 'Deposited') -
		sum((data->>'amount')::numeric) FILTER (WHERE event_type = 'Withdrawn') AS equal
FROM es.events;
\set ECHO none

\echo 'A balance can not be helped along by hand. Even a superuser is refused:'
\echo

\set ON_ERROR_STOP off
\set ECHO queries
UPDATE account SET balance = balance + 1000 WHERE id = 'bob';
\set ECHO none
\set ON_ERROR_STOP on

\echo
\echo 'And since the tables come from the events, they can be built anew at any time, for'
\echo 'instance after a mistake in a function. Here is a copy of what they hold now, then a'
\echo 'replay of all events into both, and a count of the rows that are different afterwards:'
\echo

\set ECHO queries
CREATE TEMPORARY TABLE account_before AS TABLE account;
CREATE TEMPORARY TABLE movement_before AS TABLE movement;
SELECT projection, events, rows FROM es.replay('account');
SELECT projection, events, rows FROM es.replay('movement');
SELECT 'account' AS "table", count(*) AS different_rows FROM (
	(TABLE account EXCEPT ALL TABLE account_before) UNION ALL
	(TABLE account_before EXCEPT ALL TABLE account)) AS d
UNION ALL
SELECT 'movement', count(*) FROM (
	(TABLE movement EXCEPT ALL TABLE movement_before) UNION ALL
	(TABLE movement_before EXCEPT ALL TABLE movement)) AS d
ORDER BY 1;
\set ECHO none

\echo 'None. The statements of both accounts, complete:'
\echo

\set ECHO queries
SELECT account, day, what, paid_in, paid_out, balance FROM statement ORDER BY account, number;
\set ECHO none
