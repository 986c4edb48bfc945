-- A state table kept by a statement projection.

CREATE TABLE summed (LIKE account INCLUDING ALL);

SELECT es.create_projection('summed', 'summed', aggregate_types => '{summed}');
SELECT es.set_handler('summed', 'Deposited', $$
	INSERT INTO summed AS s (id, balance, deposits)
	VALUES (event.aggregate_id, (event.data->>'amount')::numeric, 1)
	ON CONFLICT (id) DO UPDATE SET balance = s.balance + EXCLUDED.balance, deposits = s.deposits + 1 $$);
