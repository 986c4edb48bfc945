-- Everything that the catalogs say of the extension's objects, without OIDs:
-- one line per object and property.  Two installations are equal if the lines
-- are, in whatever order.  With the variable contents also what is in the tables.
--
-- The objects are the members and what belongs to them: indexes, constraints,
-- triggers, rules, row types.  Columns are listed by number, those that were
-- dropped too, since the library reads them by number.
\set QUIET on
\pset tuples_only on
\pset format unaligned
\pset fieldsep '  '
\if :{?contents}
\else
\set contents false
\endif

-- An ACL in one order; null, which is the default, stays null.
CREATE FUNCTION pg_temp.acl(acl aclitem[]) RETURNS text LANGUAGE sql STRICT AS
$$SELECT coalesce(string_agg(a::text, ' ' ORDER BY a::text), 'nobody') FROM unnest(acl) AS a$$;

CREATE FUNCTION pg_temp.sorted(list text[]) RETURNS text LANGUAGE sql AS
$$SELECT string_agg(i, ' ' ORDER BY i) FROM unnest(list) AS i$$;

-- Some builds of PostgreSQL note things of their own among a column's options.
CREATE FUNCTION pg_temp.column_options(list text[]) RETURNS text[] LANGUAGE sql AS
$$SELECT array_agg(i) FROM unnest(list) AS i WHERE i LIKE 'n\_distinct%'$$;

CREATE TEMP VIEW object AS
WITH RECURSIVE object(classid, objid) AS (
	SELECT d.classid, d.objid
	FROM pg_depend AS d JOIN pg_extension AS x ON d.refobjid = x.oid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = 'pg_eventsourcing'
	UNION
	SELECT d.classid, d.objid
	FROM pg_depend AS d JOIN object AS o ON d.refclassid = o.classid AND d.refobjid = o.objid
	WHERE d.deptype IN ('a', 'i', 'I', 'P', 'S')
)
SELECT o.classid, o.objid, i.type || ' ' || i.identity AS name
FROM object AS o
CROSS JOIN pg_identify_object(o.classid, o.objid, 0) AS i
WHERE NOT EXISTS (SELECT FROM pg_class AS c
				  WHERE o.classid = 'pg_class'::regclass AND c.oid = o.objid AND c.relnamespace = 'pg_toast'::regnamespace)
  AND NOT EXISTS (SELECT FROM pg_trigger AS t
				  WHERE o.classid = 'pg_trigger'::regclass AND t.oid = o.objid AND t.tgisinternal);

CREATE TEMP VIEW property(name, property, value) AS
SELECT name, 'comment', obj_description(objid, (SELECT relname FROM pg_class WHERE oid = classid))
FROM object
UNION ALL
SELECT o.name, 'depends on', '(' || d.deptype::text || ') ' || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
	|| CASE WHEN d.objsubid > 0 THEN ' from column ' || d.objsubid ELSE '' END
FROM object AS o JOIN pg_depend AS d ON d.classid = o.classid AND d.objid = o.objid
UNION ALL
SELECT o.name, 'initial privileges' || CASE WHEN i.objsubid > 0 THEN ' of column ' || i.objsubid ELSE '' END,
	   pg_temp.acl(i.initprivs)
FROM object AS o JOIN pg_init_privs AS i ON i.classoid = o.classid AND i.objoid = o.objid
UNION ALL
SELECT o.name, v.property, v.value
FROM object AS o
JOIN pg_proc AS p ON o.classid = 'pg_proc'::regclass AND p.oid = o.objid
CROSS JOIN LATERAL (VALUES
	('definition', CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END),
	('library', p.probin),
	('owner', p.proowner::regrole::text),
	('privileges', pg_temp.acl(p.proacl)),
	('support function', nullif(p.prosupport, 0)::regproc::text)) AS v(property, value)
UNION ALL
SELECT o.name, v.property, v.value
FROM object AS o
JOIN pg_class AS c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid
LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
LEFT JOIN pg_am AS a ON a.oid = c.relam
CROSS JOIN LATERAL (VALUES
	('kind', concat_ws(' ', c.relkind, c.relpersistence, c.relreplident)),
	('access method', a.amname),
	('owner', c.relowner::regrole::text),
	('privileges', pg_temp.acl(c.relacl)),
	('options', pg_temp.sorted(c.reloptions)),
	('options of the TOAST table', pg_temp.sorted(t.reloptions)),
	('row security', concat_ws(' ', c.relrowsecurity, c.relforcerowsecurity)),
	('tablespace', nullif(c.reltablespace, 0)::text),
	('definition of the view', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END)) AS v(property, value)
UNION ALL
SELECT o.name, 'column ' || a.attnum, concat_ws(' ',
	CASE WHEN a.attisdropped THEN '(dropped)' ELSE quote_ident(a.attname) END,
	CASE WHEN a.atttypid <> 0 THEN format_type(a.atttypid, a.atttypmod) END,
	CASE WHEN a.attcollation <> 0 THEN 'COLLATE ' || a.attcollation::regcollation::text END,
	CASE WHEN a.attnotnull THEN 'NOT NULL' END,
	'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid),
	'identity ' || nullif(a.attidentity::text, ''), 'generated ' || nullif(a.attgenerated::text, ''),
	'storage ' || a.attstorage::text, 'compression ' || nullif(a.attcompression::text, ''),
	'statistics ' || nullif(a.attstattarget, -1)::text, 'options ' || pg_temp.sorted(pg_temp.column_options(a.attoptions)),
	'privileges ' || pg_temp.acl(a.attacl),
	'comment ' || quote_literal(col_description(c.oid, a.attnum)))
FROM object AS o
JOIN pg_class AS c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
UNION ALL
SELECT o.name, 'sequence', concat_ws(' ', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
FROM object AS o JOIN pg_sequence AS s ON o.classid = 'pg_class'::regclass AND s.seqrelid = o.objid
UNION ALL
SELECT o.name, 'definition of the index', concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisclustered, i.indisreplident, i.indisvalid, i.indimmediate)
FROM object AS o JOIN pg_index AS i ON o.classid = 'pg_class'::regclass AND i.indexrelid = o.objid
UNION ALL
SELECT o.name, 'definition', pg_get_constraintdef(c.oid) || CASE WHEN c.convalidated THEN '' ELSE ' (not valid)' END
FROM object AS o JOIN pg_constraint AS c ON o.classid = 'pg_constraint'::regclass AND c.oid = o.objid
UNION ALL
SELECT o.name, 'definition', pg_get_triggerdef(t.oid) || ' enabled ' || t.tgenabled::text
FROM object AS o JOIN pg_trigger AS t ON o.classid = 'pg_trigger'::regclass AND t.oid = o.objid
UNION ALL
SELECT o.name, 'definition', pg_get_ruledef(r.oid) || ' enabled ' || r.ev_enabled::text
FROM object AS o JOIN pg_rewrite AS r ON o.classid = 'pg_rewrite'::regclass AND r.oid = o.objid
UNION ALL
SELECT o.name, 'definition', concat_ws(' ', e.evtevent, e.evtfoid::regprocedure, 'enabled ' || e.evtenabled::text,
	'owner ' || e.evtowner::regrole::text, pg_temp.sorted(e.evttags))
FROM object AS o JOIN pg_event_trigger AS e ON o.classid = 'pg_event_trigger'::regclass AND e.oid = o.objid
UNION ALL
SELECT o.name, 'definition', concat_ws(' ', p.polcmd, p.polpermissive,
	(SELECT string_agg(coalesce(nullif(r, 0)::regrole::text, 'public'), ' ' ORDER BY r) FROM unnest(p.polroles) AS r),
	pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
FROM object AS o JOIN pg_policy AS p ON o.classid = 'pg_policy'::regclass AND p.oid = o.objid
UNION ALL
SELECT o.name, v.property, v.value
FROM object AS o
JOIN pg_type AS t ON o.classid = 'pg_type'::regclass AND t.oid = o.objid
CROSS JOIN LATERAL (VALUES
	('kind', concat_ws(' ', t.typtype, t.typcategory, t.typstorage, t.typdefault, t.typnotnull, nullif(t.typbasetype, 0)::regtype)),
	('owner', t.typowner::regrole::text),
	('privileges', pg_temp.acl(t.typacl)),
	('labels', (SELECT string_agg(quote_literal(e.enumlabel), ' ' ORDER BY e.enumsortorder) FROM pg_enum AS e WHERE e.enumtypid = t.oid)))
	AS v(property, value)
UNION ALL
SELECT o.name, 'definition', pg_get_statisticsobjdef(s.oid)
FROM object AS o JOIN pg_statistic_ext AS s ON o.classid = 'pg_statistic_ext'::regclass AND s.oid = o.objid
UNION ALL
SELECT 'extension', v.property, v.value
FROM pg_extension AS x
CROSS JOIN LATERAL (VALUES
	('version', x.extversion),
	('schema', x.extnamespace::regnamespace::text),
	('relocatable', x.extrelocatable::text),
	('comment', obj_description(x.oid, 'pg_extension'))) AS v(property, value)
WHERE x.extname = 'pg_eventsourcing'
UNION ALL
SELECT 'extension', 'dumped', u.relation::regclass::text || ' ' || u.condition
FROM pg_extension AS x, unnest(x.extconfig, x.extcondition) AS u(relation, condition)
WHERE x.extname = 'pg_eventsourcing'
UNION ALL
SELECT 'extension', 'requires', pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
FROM pg_extension AS x JOIN pg_depend AS d ON d.classid = 'pg_extension'::regclass AND d.objid = x.oid
WHERE x.extname = 'pg_eventsourcing'
UNION ALL
SELECT 'schema es', v.property, v.value
FROM pg_namespace AS n
CROSS JOIN LATERAL (VALUES
	('owner', n.nspowner::regrole::text),
	('privileges', pg_temp.acl(n.nspacl)),
	('comment', obj_description(n.oid, 'pg_namespace'))) AS v(property, value)
WHERE n.nspname = 'es'
UNION ALL
SELECT 'schema es', 'default privileges', concat_ws(' ', d.defaclrole::regrole, d.defaclobjtype, pg_temp.acl(d.defaclacl))
FROM pg_default_acl AS d JOIN pg_namespace AS n ON n.oid = d.defaclnamespace
WHERE n.nspname = 'es';

SELECT name, property, replace(value, E'\n', '\n')
FROM property
WHERE value IS NOT NULL
ORDER BY 1, 2, 3;

SELECT format('SELECT %L, %L, %s FROM %s AS t ORDER BY 3', o.name, 'row',
	CASE c.relkind WHEN 'r' THEN 't::text' ELSE 'concat_ws('' '', last_value, is_called)' END, o.objid::regclass)
FROM object AS o JOIN pg_class AS c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid
WHERE c.relkind IN ('r', 'S') AND :'contents'
ORDER BY o.name \gexec
