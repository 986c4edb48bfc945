-- Programs that follow the log: a shop's turnover, and its mails.
--
-- Run it in an empty database: psql -X -q < subscriber.sql
-- It explains itself; subscriber.out holds what it prints.  Afterwards the
-- consumers turnover.psql and subscriber.py can be left running in that database.

\pset footer off
\pset null '(null)'
\set ON_ERROR_STOP on

\echo '== 1. The idea'
\echo
\echo 'A shop writes down its orders as events. Other programs are to react: one sums up the turnover,'
\echo 'one sends mails. They run when they like, crash, are restarted, and there may be several of'
\echo 'them. None must miss an order.'
\echo
\echo 'A subscription remembers in the database how far its readers have got.'
\echo

CREATE EXTENSION pg_eventsourcing;

\set ECHO queries
SELECT es.create_subscription('turnover', aggregate_types => '{order}', event_types => '{Placed}', partitions => 2) \g /dev/null
SELECT es.create_subscription('mails', aggregate_types => '{order}', max_attempts => 3) \g /dev/null
\set ECHO none

\echo
\echo 'Partitions are how many consumers can work at the same time. The events of one order are'
\echo 'always in the same partition, and come in order.'
\echo
\echo 'Three orders:'
\echo

\set ECHO queries
SELECT es.append('order', '1', 'Placed', '{"product": "tea", "price": 5, "mail": "ada@example.org"}') \g /dev/null
SELECT es.append('order', '2', 'Placed', '{"product": "cup", "price": 8, "mail": "no idea"}') \g /dev/null
SELECT es.append('order', '3', 'Placed', '{"product": "tea", "price": 5, "mail": "eve@example.org"}') \g /dev/null
SELECT es.append('order', '1', 'Sent', '{"mail": "ada@example.org"}') \g /dev/null
\set ECHO none

\echo
\echo '== 2. Fetching'
\echo
\echo 'es.fetch() returns the next events of one partition, all columns of es.events after four of its own.'
\echo 'Nobody else gets them while the lease lasts (30 seconds if nothing is said):'
\echo

\set ECHO queries
SELECT lease_id, partition, attempt, position, aggregate_id, event_type, data->>'mail' AS mail
FROM es.fetch('mails', max_count => 3);
SELECT count(*) FROM es.fetch('mails');
\set ECHO none

\echo 'The consumer does its work and says so. The lease that it names is the one it was given.'
\echo

SELECT lease_id FROM es.subscriptions WHERE name = 'mails' \gset
\set ECHO queries
SELECT es.ack(:lease_id, up_to_position => 1) \g /dev/null
\set ECHO none

\echo
\echo '== 3. What can not be handled'
\echo
\echo 'The second order has no proper address. The consumer says that too, and why; what was not'
\echo 'acknowledged is delivered again, to this consumer or another one:'
\echo

\set ECHO queries
SELECT es.nack(:lease_id, at_position => 2, reason => 'no idea is not an address') \g /dev/null
SELECT attempt, position, aggregate_id, data->>'mail' AS mail FROM es.fetch('mails');
\set ECHO none

SELECT lease_id FROM es.subscriptions WHERE name = 'mails' \gset
\echo 'After three attempts (max_attempts) the event is put aside, and the others go on. This consumer'
\echo 'does not wait for that, and parks it at once:'
\echo

\set ECHO queries
SELECT es.nack(:lease_id, at_position => 2, reason => 'no idea is not an address', park => true) \g /dev/null
SELECT lease_id, position, aggregate_id, event_type FROM es.fetch('mails');
\set ECHO none
SELECT lease_id FROM es.subscriptions WHERE name = 'mails' \gset
\set ECHO queries
SELECT es.ack(:lease_id) \g /dev/null
SELECT position, aggregate_id, event_type, reason, attempts FROM es.parked_events WHERE subscription = 'mails';
\set ECHO none

\echo 'When somebody has found out the address, es.retry_parked() has it delivered once more. This'
\echo 'customer never gave one:'
\echo

\set ECHO queries
SELECT es.discard_parked('mails', at_position => 2);
\set ECHO none

\echo '== 4. Exactly once'
\echo
\echo 'A mail can be sent twice: a program that dies between the mail and es.ack() leaves the event to the'
\echo 'next one. Where the work is a change of this database that can not happen, for the work and es.ack()'
\echo 'are one transaction. It can even be one statement:'
\echo

\set ECHO queries
CREATE TABLE turnover (product text PRIMARY KEY, orders integer NOT NULL, amount numeric NOT NULL);

WITH batch AS MATERIALIZED (SELECT * FROM es.fetch('turnover')),
work AS (
	INSERT INTO turnover AS t (product, orders, amount)
	SELECT data->>'product', count(*), sum((data->>'price')::numeric) FROM batch GROUP BY 1 ORDER BY 1
	ON CONFLICT (product) DO UPDATE SET orders = t.orders + excluded.orders, amount = t.amount + excluded.amount
)
SELECT count(*) AS events, es.ack(lease_id) FROM batch GROUP BY lease_id;
\set ECHO none

\echo 'A fetch reads one partition. The same once more for the other one:'
\echo

\g

\set ECHO queries
SELECT * FROM turnover ORDER BY product;
SELECT name, partition, checkpoint, lag, consumer, attempts FROM es.subscriptions ORDER BY name, partition;
\set ECHO none

\echo '== 5. History again'
\echo
\echo 'The mails about tea were wrong and are to be sent again. A playback delivers events of the past'
\echo 'beside the new ones, and marks them, so that a consumer can tell them apart:'
\echo

\set ECHO queries
SELECT es.append('order', '4', 'Placed', '{"product": "pot", "price": 30, "mail": "bob@example.org"}') \g /dev/null
SELECT es.playback('mails', up_to_position => 4, aggregate_ids => '{1,3}', event_types => '{Placed}');
SELECT replayed, position, aggregate_id, event_type, data->>'product' AS product FROM es.fetch('mails');
\set ECHO none
\g

SELECT es.ack(lease_id) FROM es.subscription_streams WHERE name = 'mails' AND lease_id IS NOT NULL \g /dev/null

\echo '== 6. Left running'
\echo
\echo 'Real consumers wait for events: es.fetch(..., wait => ''10s'') returns when there are some, or'
\echo 'after ten seconds without any. Two are beside this file; try them in this database:'
\echo
\echo '    psql -X -q -f turnover.psql       the statement above, again and again'
\echo '    python3 subscriber.py turnover    the same with an answer to failures'
\echo '    python3 subscriber.py mails       work outside of the database'
\echo
