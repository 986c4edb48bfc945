-- The log is append-only, for everybody and always.

CREATE FUNCTION es.refuse_change() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'es_refuse_change';

COMMENT ON FUNCTION es.refuse_change() IS 'refuses UPDATE, DELETE and TRUNCATE of es.events';

CREATE TRIGGER refuse_change
	BEFORE UPDATE OR DELETE OR TRUNCATE ON es.events
	FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();

ALTER TABLE es.events ENABLE ALWAYS TRIGGER refuse_change;
