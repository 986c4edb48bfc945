-- Ninety-nine projections that never want an event, by its aggregate's type or by its own.

DO $$
BEGIN
	FOR i IN 1 .. 99 LOOP
		EXECUTE format('CREATE TABLE %I (LIKE account INCLUDING ALL)', 'idle' || i);
		EXECUTE format('CREATE FUNCTION apply(state %1$I, event es.events) RETURNS %1$I '
		               'LANGUAGE sql IMMUTABLE RETURN ROW(event.aggregate_id, 0, 0)::%1$I', 'idle' || i);
		PERFORM es.create_projection('idle' || i, ('idle' || i)::regclass,
			format('apply(%I, es.events)', 'idle' || i),
			aggregate_types => CASE WHEN i % 2 = 0 THEN ARRAY['type' || i] END,
			event_types => CASE WHEN i % 2 = 1 THEN ARRAY['Event' || i] END);
	END LOOP;
END $$;
