\set a random(1, :aggregates)
SELECT es.append('scaled', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}');
