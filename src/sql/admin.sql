-- Administration.

CREATE FUNCTION es.version() RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_version';

COMMENT ON FUNCTION es.version() IS 'version of the loaded library';

CREATE FUNCTION es.uuid_v7() RETURNS uuid
LANGUAGE C VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_uuid_v7';

COMMENT ON FUNCTION es.uuid_v7() IS 'a new UUID version 7; those of one session increase';
