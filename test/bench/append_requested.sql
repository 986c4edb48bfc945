\set a random(1, 100000)
\set source random(1, 50)
\set request random(1, 1000000000)
SELECT es.append('account', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}',
                 source => 'source' || :source::text, correlation_id => 'request' || :request::text);
