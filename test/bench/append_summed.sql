\set a random(1, 10000)
SELECT es.append('summed', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}');
