\set a random(1, 100000)
SELECT es.append('delivered', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}');
