-- The schema es must be the extension's own: whoever owns it could replace what is
-- in it, and what is there already could stand in for objects of the extension.

CREATE FUNCTION es.check_schema() RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'es_check_schema';

SELECT es.check_schema();

DROP FUNCTION es.check_schema();
