\set a random(1, :keys)
WITH appended AS MATERIALIZED (
	SELECT count(*) FROM es.append_events('account', 'a' || :a::text, :events::jsonb))
INSERT INTO stock_by_hand AS s (id, product, quantity)
SELECT 'a' || :a::text, data->>'product', sum((data->>'quantity')::bigint)
FROM appended, jsonb_to_recordset(:events::jsonb) AS e (data jsonb)
GROUP BY 2 ORDER BY 2
ON CONFLICT (id, product) DO UPDATE SET quantity = s.quantity + EXCLUDED.quantity;
