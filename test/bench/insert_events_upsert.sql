\set a random(1, :keys)
\set version random(1, 4000000000000000000)
WITH event AS (
	INSERT INTO plain (version, aggregate_type, aggregate_id, event_type, data)
	SELECT :version + n, 'stocked', 'a' || :a::text, event_type, data
	FROM ROWS FROM (jsonb_to_recordset(:events::jsonb) AS (event_type text, data jsonb))
		WITH ORDINALITY AS e (event_type, data, n)
	RETURNING aggregate_id, data)
INSERT INTO stock_by_hand AS s (id, product, quantity)
SELECT aggregate_id, data->>'product', sum((data->>'quantity')::bigint) FROM event
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (id, product) DO UPDATE SET quantity = s.quantity + EXCLUDED.quantity;
