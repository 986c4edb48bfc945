-- What a state table must hold, worked out without the engine: the apply
-- function is called in a loop over es.events in position order.  For the tests
-- of projections; needs only es.events and es.projections.

-- Runs a statement and tells how it fails.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN code || ': ' || message || coalesce(' | ' || nullif(detail, ''), '')
		|| coalesce(' | ' || nullif(hint, ''), '');
END $$;

-- The rows of a table as text, without its generated columns.
CREATE FUNCTION pg_temp.table_rows(target regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE (
		SELECT format('SELECT ROW(%s)::text FROM %s %s', string_agg(quote_ident(attname), ', ' ORDER BY attnum),
			CASE WHEN EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = target) THEN '' ELSE 'ONLY' END, target)
		FROM pg_attribute
		WHERE attrelid = target AND attnum > 0 AND NOT attisdropped AND attgenerated = '');
END $$;

-- The rows that the log gives a projection, as text in the same form.  Keys are
-- told apart by a unique index on columns like those of the primary key.
CREATE FUNCTION pg_temp.fold_rows(name text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	p record; event es.events; key text; take text; step text; columns text; setting text; place tid;
BEGIN
	SELECT * INTO STRICT p FROM es.projections WHERE projections.name = fold_rows.name;
	FOREACH setting IN ARRAY p.settings LOOP
		IF split_part(setting, '=', 1) IN ('TimeZone', 'DateStyle') THEN
			PERFORM set_config(split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1), true);
		END IF;
	END LOOP;
	SELECT coalesce(p.key, 'aggregate_id::' || min(format_type(a.atttypid, a.atttypmod))),
		string_agg(format('t.%I AS key%s', a.attname, n), ', ' ORDER BY n), string_agg('key' || n, ', ' ORDER BY n)
	INTO STRICT key, columns, take
	FROM pg_index i CROSS JOIN LATERAL generate_series(1, i.indnkeyatts) AS n
	JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n - 1]
	WHERE i.indrelid = p.target AND i.indisprimary;

	EXECUTE format('CREATE TEMP TABLE fold_state AS SELECT %s, t AS state FROM %s AS t WITH NO DATA', columns, p.target);
	EXECUTE format('CREATE UNIQUE INDEX ON fold_state (%s)', take);
	take := format('INSERT INTO fold_state (%s) SELECT k.* FROM (SELECT %s FROM (SELECT ($1).*) AS event) AS k'
		' WHERE k IS NOT NULL ON CONFLICT (%1$s) DO UPDATE SET state = fold_state.state RETURNING ctid', take, key);
	step := format('UPDATE fold_state SET state = %s(CASE WHEN NOT state IS NULL THEN state END, $1) WHERE ctid = $2',
		split_part(p.apply::text, '(', 1));
	FOR event IN
		SELECT * FROM es.events e
		WHERE (p.aggregate_types IS NULL OR e.aggregate_type = ANY (p.aggregate_types))
			AND (p.event_types IS NULL OR e.event_type = ANY (p.event_types))
		ORDER BY e.position
	LOOP
		EXECUTE take INTO place USING event;
		EXECUTE step USING event, place;
	END LOOP;

	SELECT string_agg('(state).' || quote_ident(attname), ', ' ORDER BY attnum) INTO columns
	FROM pg_attribute
	WHERE attrelid = p.target AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
	RETURN QUERY EXECUTE format('SELECT ROW(%s)::text FROM fold_state WHERE NOT (state IS NULL)', columns);
	DROP TABLE fold_state;
END $$;

-- Compares each projection's table with the log, replays it, and compares again.
CREATE FUNCTION pg_temp.check_projections(pattern text DEFAULT '%')
RETURNS TABLE (projection text, rows bigint, state text, replayed text) LANGUAGE plpgsql AS $$
DECLARE
	target regclass;
	differ bigint;
BEGIN
	FOR projection, target IN SELECT p.name, p.target FROM es.projections p WHERE p.name LIKE pattern ORDER BY 1 LOOP
		CREATE TEMP TABLE expected AS SELECT pg_temp.fold_rows(projection) AS row;
		SELECT count(*) INTO rows FROM expected;
		SELECT count(*) INTO differ FROM (
			(SELECT pg_temp.table_rows(target) EXCEPT ALL TABLE expected) UNION ALL
			(TABLE expected EXCEPT ALL SELECT pg_temp.table_rows(target))) AS d;
		state := CASE differ WHEN 0 THEN 'right' ELSE differ || ' rows differ' END;
		PERFORM es.replay(projection);
		SELECT count(*) INTO differ FROM (
			(SELECT pg_temp.table_rows(target) EXCEPT ALL TABLE expected) UNION ALL
			(TABLE expected EXCEPT ALL SELECT pg_temp.table_rows(target))) AS d;
		replayed := CASE differ WHEN 0 THEN 'right' ELSE differ || ' rows differ' END;
		DROP TABLE expected;
		RETURN NEXT;
	END LOOP;
END $$;
