-- A state table with three indexes that is read and written while it is replayed.

CREATE TABLE waited (id text PRIMARY KEY, balance numeric NOT NULL, deposits bigint NOT NULL);
CREATE INDEX ON waited (balance);
CREATE INDEX ON waited (deposits);

CREATE FUNCTION apply(state waited, event es.events) RETURNS waited
LANGUAGE sql IMMUTABLE
RETURN ROW(event.aggregate_id,
           coalesce(state.balance, 0) + (event.data->>'amount')::numeric,
           coalesce(state.deposits, 0) + 1)::waited;

SELECT es.create_projection('waited', 'waited', 'apply(waited, es.events)', aggregate_types => '{replayed}');
