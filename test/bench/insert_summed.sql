\set a random(1, 10000)
\set version random(1, 4000000000000000000)
INSERT INTO plain (version, aggregate_type, aggregate_id, event_type, data)
VALUES (:version, 'summed', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}')
RETURNING version;
