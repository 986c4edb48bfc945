\set a random(1, :keys)
SELECT * FROM es.append_events(:type, 'a' || :a::text, :events::jsonb);
