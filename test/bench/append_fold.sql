\set a random(1, 10000)
SELECT es.append('folded', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}');
