-- State tables of different widths, and apply functions in different languages.
-- Needs the variable library, where test/c/account_apply.c has been compiled to.

-- columns_2, columns_8 and columns_20: an event changes one of their columns.
DO $$
DECLARE
	n integer;
	columns text;
	states text;
BEGIN
	FOREACH n IN ARRAY '{2,8,20}'::integer[] LOOP
		SELECT coalesce(string_agg(format(', c%s %s NOT NULL', c, CASE c % 2 WHEN 0 THEN 'text' ELSE 'bigint' END),
		                           '' ORDER BY c), ''),
		       coalesce(string_agg(format(', coalesce(state.c%s, %s)', c, CASE c % 2 WHEN 0 THEN '''a text''' ELSE '7' END),
		                           '' ORDER BY c), '')
		INTO columns, states
		FROM generate_series(3, n) AS c;
		EXECUTE format('CREATE TABLE columns_%s (id text PRIMARY KEY, balance bigint NOT NULL%s)', n, columns);
		EXECUTE format(
			'CREATE FUNCTION apply(state columns_%1$s, event es.events) RETURNS columns_%1$s
			 LANGUAGE sql IMMUTABLE
			 RETURN ROW(event.aggregate_id,
			            coalesce(state.balance, 0) + (event.data->>''amount'')::bigint%2$s)::columns_%1$s',
			n, states);
		PERFORM es.create_projection('columns_' || n, format('columns_%s', n)::regclass,
		                             format('apply(columns_%s, es.events)', n), aggregate_types => '{replayed}');
	END LOOP;
END $$;

CREATE TABLE in_sql (id text PRIMARY KEY, balance bigint NOT NULL, note text);
CREATE TABLE in_plpgsql (LIKE in_sql INCLUDING ALL);
CREATE TABLE in_c (LIKE in_sql INCLUDING ALL);

CREATE FUNCTION apply(state in_sql, event es.events) RETURNS in_sql
LANGUAGE sql IMMUTABLE
RETURN CASE event.event_type
         WHEN 'Opened'    THEN ROW(event.aggregate_id, 0, NULL)::in_sql
         WHEN 'Deposited' THEN ROW(state.id, state.balance + (event.data->>'amount')::bigint, state.note)::in_sql
         WHEN 'Noted'     THEN ROW(state.id, state.balance, event.data->>'note')::in_sql
         WHEN 'Closed'    THEN NULL
         ELSE state
       END;

CREATE FUNCTION apply(state in_plpgsql, event es.events) RETURNS in_plpgsql
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	CASE event.event_type
		WHEN 'Opened' THEN
			state.id := event.aggregate_id;
			state.balance := 0;
		WHEN 'Deposited' THEN
			state.balance := state.balance + (event.data->>'amount')::bigint;
		WHEN 'Noted' THEN
			state.note := event.data->>'note';
		WHEN 'Closed' THEN
			RETURN NULL;
		ELSE
			NULL;
	END CASE;
	RETURN state;
END $$;

CREATE FUNCTION apply(state in_c, event es.events) RETURNS in_c
LANGUAGE c IMMUTABLE AS :'library', 'account_apply';

SELECT es.create_projection('in_sql', 'in_sql', 'apply(in_sql, es.events)', aggregate_types => '{replayed}');
SELECT es.create_projection('in_plpgsql', 'in_plpgsql', 'apply(in_plpgsql, es.events)', aggregate_types => '{replayed}');
SELECT es.create_projection('in_c', 'in_c', 'apply(in_c, es.events)', aggregate_types => '{replayed}');
