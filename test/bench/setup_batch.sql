-- A state table kept by a batch projection, and one by hand.

CREATE TABLE stock (id text, product text, quantity bigint NOT NULL, PRIMARY KEY (id, product));
CREATE TABLE stock_by_hand (LIKE stock INCLUDING ALL);

SELECT es.create_projection('stock', 'stock', aggregate_types => '{stocked}');
SELECT es.set_batch_handler('stock', $$
	INSERT INTO stock AS s (id, product, quantity)
	SELECT aggregate_id, data->>'product', sum((data->>'quantity')::bigint) FROM events
	GROUP BY 1, 2 ORDER BY 1, 2
	ON CONFLICT (id, product) DO UPDATE SET quantity = s.quantity + EXCLUDED.quantity $$);
