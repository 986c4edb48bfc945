\set a random(1, 10000)
\set version random(1, 4000000000000000000)
WITH event AS (
	INSERT INTO plain (version, aggregate_type, aggregate_id, event_type, data)
	VALUES (:version, 'folded', 'a' || :a::text, 'Deposited', '{"amount": 10, "currency": "EUR"}')
	RETURNING aggregate_id, data)
INSERT INTO account_by_hand AS s (id, balance, deposits)
SELECT aggregate_id, (data->>'amount')::numeric, 1 FROM event
ON CONFLICT (id) DO UPDATE SET balance = s.balance + EXCLUDED.balance, deposits = s.deposits + 1;
