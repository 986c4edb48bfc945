-- Events to consume, and the same in a queue as one would write it by hand: a job is a
-- row, which its consumer deletes.
INSERT INTO es.events (aggregate_type, aggregate_id, event_type, data)
SELECT 'consumed', 'c' || i % 10007, 'Deposited', '{"amount": 10, "currency": "EUR"}'
FROM generate_series(1, :events) AS i;

CREATE TABLE queue (
	position       bigint PRIMARY KEY,
	aggregate_type text NOT NULL,
	aggregate_id   text NOT NULL,
	event_type     text NOT NULL,
	data           jsonb NOT NULL
);
INSERT INTO queue SELECT position, aggregate_type, aggregate_id, event_type, data FROM es.events ORDER BY position;

SELECT es.create_subscription('consumed' || n, partitions => n) FROM unnest(ARRAY[1, 4]) AS n;

VACUUM ANALYZE;
