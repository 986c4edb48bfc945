\set a random(1, :keys)
SELECT es.append('replayed', 'r' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}');
