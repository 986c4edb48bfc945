-- Returns the microseconds that calls of es.high_water_mark() take.
CREATE FUNCTION mark_times(calls integer) RETURNS SETOF double precision
LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz;
BEGIN
	FOR i IN 1 .. calls LOOP
		began := clock_timestamp();
		PERFORM es.high_water_mark();
		RETURN NEXT 1e6 * extract(epoch FROM clock_timestamp() - began);
	END LOOP;
END $$;
