DO $$
DECLARE
	event es.events;
BEGIN
	FOR event IN SELECT * FROM es.events WHERE aggregate_type = 'replayed' ORDER BY position LOOP
		INSERT INTO replayed_by_hand AS s
		VALUES (event.aggregate_id, (event.data->>'amount')::numeric, 1)
		ON CONFLICT (id) DO UPDATE SET balance = s.balance + EXCLUDED.balance, deposits = s.deposits + 1;
	END LOOP;
END $$
