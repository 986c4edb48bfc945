\set a random(1, 100000)
\set version random(1, 4000000000000000000)
\set source random(1, 50)
\set request random(1, 1000000000)
INSERT INTO plain (version, aggregate_type, aggregate_id, event_type, data, source, correlation_id)
VALUES (:version, 'account', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}',
        'source' || :source::text, 'request' || :request::text)
RETURNING version;
