-- The template of the benchmark's databases: the extension, and what one would
-- write without it.

CREATE EXTENSION pg_eventsourcing;

-- The log by hand.  Its rows come with a version, which the client is supposed to know.
CREATE SEQUENCE plain_position_seq AS bigint CACHE 1;
CREATE TABLE plain (LIKE es.events INCLUDING ALL);
ALTER TABLE plain
	ALTER position SET DEFAULT nextval('plain_position_seq'),
	ALTER recorded_at SET DEFAULT clock_timestamp(),
	ALTER occurred_at SET DEFAULT clock_timestamp(),
	ALTER event_id SET DEFAULT es.uuid_v7();

-- Returns the constraint of the table plain that is like an index of es.events.
CREATE FUNCTION twin_of(index regclass) RETURNS name
LANGUAGE sql STABLE
RETURN (SELECT c.conname
		FROM pg_index AS i
		JOIN pg_index AS p ON p.indrelid = 'plain'::regclass AND p.indkey = i.indkey
		JOIN pg_constraint AS c ON c.conindid = p.indexrelid
		WHERE i.indexrelid = twin_of.index);

-- A state table kept by a projection, and one by hand.
CREATE TABLE account (id text PRIMARY KEY, balance numeric NOT NULL, deposits bigint NOT NULL);
CREATE TABLE account_by_hand (LIKE account INCLUDING ALL);

CREATE FUNCTION apply(state account, event es.events) RETURNS account
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id,
           coalesce(state.balance, 0) + (event.data->>'amount')::numeric,
           coalesce(state.deposits, 0) + 1)::account;

SELECT es.create_projection('account', 'account', 'apply(account, es.events)',
                            aggregate_types => '{folded}');

-- The same for the replay.
CREATE TABLE replayed (id text PRIMARY KEY, balance numeric NOT NULL, deposits bigint NOT NULL);
CREATE TABLE replayed_by_hand (LIKE replayed INCLUDING ALL);

CREATE FUNCTION apply(state replayed, event es.events) RETURNS replayed
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id,
           coalesce(state.balance, 0) + (event.data->>'amount')::numeric,
           coalesce(state.deposits, 0) + 1)::replayed;
