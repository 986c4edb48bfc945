-- Administration.

CREATE FUNCTION es.version() RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_version';

COMMENT ON FUNCTION es.version() IS 'version of the loaded library';

CREATE FUNCTION es.uuid_v7() RETURNS uuid
LANGUAGE C VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_uuid_v7';

COMMENT ON FUNCTION es.uuid_v7() IS 'a new UUID version 7; those of one session increase';

CREATE FUNCTION es.set_node_id(node integer)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'es_set_node_id';

COMMENT ON FUNCTION es.set_node_id(integer) IS
'Numbers this database among several (0 to 32767), before the first event: the number becomes the top bits of each position, which is then unique among them';
