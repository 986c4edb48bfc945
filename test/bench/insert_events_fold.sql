\set a random(1, :keys)
\set version random(1, 4000000000000000000)
WITH event AS (
	INSERT INTO plain (version, aggregate_type, aggregate_id, event_type, data)
	SELECT :version + n, 'folded', 'a' || :a::text, event_type, data
	FROM ROWS FROM (jsonb_to_recordset(:events::jsonb) AS (event_type text, data jsonb))
		WITH ORDINALITY AS e (event_type, data, n)
	RETURNING aggregate_id, data)
INSERT INTO account_by_hand AS s (id, balance, deposits)
SELECT aggregate_id, sum((data->>'amount')::numeric), count(*) FROM event GROUP BY aggregate_id
ON CONFLICT (id) DO UPDATE
	SET balance = s.balance + EXCLUDED.balance, deposits = s.deposits + EXCLUDED.deposits;
