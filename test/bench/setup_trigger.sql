-- The same by a trigger, on the log and on the log by hand.

CREATE TABLE summed (LIKE account INCLUDING ALL);

CREATE FUNCTION add_deposit() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
	INSERT INTO summed AS s (id, balance, deposits)
	VALUES (new.aggregate_id, (new.data->>'amount')::numeric, 1)
	ON CONFLICT (id) DO UPDATE SET balance = s.balance + EXCLUDED.balance, deposits = s.deposits + 1;
	RETURN NULL;
END $$;

CREATE TRIGGER add_deposit AFTER INSERT ON es.events FOR EACH ROW
WHEN (new.aggregate_type = 'summed' AND new.event_type = 'Deposited')
EXECUTE FUNCTION add_deposit();

CREATE TRIGGER add_deposit AFTER INSERT ON plain FOR EACH ROW
WHEN (new.aggregate_type = 'summed' AND new.event_type = 'Deposited')
EXECUTE FUNCTION add_deposit();
