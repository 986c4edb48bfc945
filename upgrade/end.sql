
-- Where a script changes the privileges of an object, PostgreSQL takes all that it
-- has for the extension's own, which pg_dump leaves out.  The extension's own are
-- the owner's and those of PUBLIC; what roles were granted stays theirs.

CREATE TEMP VIEW es_owned AS
SELECT d.classid, d.objid
  FROM pg_catalog.pg_depend AS d
  JOIN pg_catalog.pg_extension AS x ON x.oid = d.refobjid
 WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
   AND d.deptype = 'e'
   AND x.extname = 'pg_eventsourcing'
UNION ALL
SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid
  FROM pg_catalog.pg_namespace AS n
 WHERE n.nspname = 'es';

UPDATE pg_catalog.pg_init_privs AS i
   SET initprivs = ARRAY(SELECT a
                           FROM pg_catalog.unnest(i.initprivs) AS a
                          WHERE (SELECT pg_catalog.bool_and(g.grantee IN (0, g.grantor))
                                   FROM pg_catalog.aclexplode(ARRAY[a]) AS g))
  FROM pg_temp.es_owned AS o
 WHERE i.classoid = o.classid AND i.objoid = o.objid;

DELETE FROM pg_catalog.pg_init_privs AS i
 USING pg_temp.es_owned AS o
 WHERE i.classoid = o.classid AND i.objoid = o.objid AND i.initprivs = '{}';

DELETE FROM pg_catalog.pg_shdepend AS s
 USING pg_temp.es_owned AS o, pg_catalog.pg_database AS b
 WHERE s.classid = o.classid AND s.objid = o.objid AND s.deptype = 'i'
   AND s.dbid = b.oid AND b.datname = pg_catalog.current_database();

DROP VIEW pg_temp.es_owned;
