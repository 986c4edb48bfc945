
-- What the extension is made of.

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

-- What is new belongs to the extension's owner, whichever superuser upgrades, and is
-- for nobody else until it is granted.  Objects that others have in the schema are left
-- alone.  Only a superuser can own event triggers.

DO $$
DECLARE
	keeper pg_catalog.pg_roles;
	member record;
BEGIN
	SELECT r.* INTO keeper
	  FROM pg_catalog.pg_extension AS x JOIN pg_catalog.pg_roles AS r ON r.oid = x.extowner
	 WHERE x.extname = 'pg_eventsourcing';
	FOR member IN
		SELECT i.type, i.identity,
			   coalesce(c.relowner, p.proowner, t.typowner, e.evtowner) AS owner
		  FROM pg_temp.es_owned AS o
		 CROSS JOIN pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
		  LEFT JOIN pg_catalog.pg_class AS c ON o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = o.objid
		  LEFT JOIN pg_catalog.pg_proc AS p ON o.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = o.objid
		  LEFT JOIN pg_catalog.pg_type AS t ON o.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = o.objid
		  LEFT JOIN pg_catalog.pg_event_trigger AS e ON o.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass AND e.oid = o.objid
		 WHERE c.relkind IN ('r', 'v', 'S') OR p.oid IS NOT NULL OR e.oid IS NOT NULL
			OR (t.typrelid = 0 AND t.typelem = 0) OR i.type = 'schema'
	LOOP
		IF member.owner <> keeper.oid AND (member.type <> 'event trigger' OR keeper.rolsuper) THEN
			EXECUTE pg_catalog.format('ALTER %s %s OWNER TO %I', member.type, member.identity, keeper.rolname);
		END IF;
		IF member.type <> 'event trigger' THEN
			EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC',
				CASE member.type WHEN 'view' THEN 'table' ELSE member.type END, member.identity);
		END IF;
	END LOOP;
END $$;

-- Where a script changes the privileges of an object, PostgreSQL takes all that it
-- has for the extension's own, which pg_dump leaves out.  The extension's own are
-- the owner's and those of PUBLIC; what roles were granted stays theirs.

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
