-- A role, as the extension's tables refer to it: written as its present name, so
-- that it can be renamed, and read as no role, not as an error, where there is none
-- of that name, so that a dump can be restored there.

CREATE TYPE es.role;

CREATE FUNCTION es.role_in(cstring) RETURNS es.role
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_role_in';

CREATE FUNCTION es.role_out(es.role) RETURNS cstring
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_role_out';

CREATE TYPE es.role (INPUT = es.role_in, OUTPUT = es.role_out, LIKE = pg_catalog.oid);

COMMENT ON TYPE es.role IS 'a role: like regrole, but one that does not exist is read as none';
COMMENT ON FUNCTION es.role_in(cstring) IS 'input of es.role';
COMMENT ON FUNCTION es.role_out(es.role) IS 'output of es.role';
