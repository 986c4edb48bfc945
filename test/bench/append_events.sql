\set a random(1, 1000000000000)
SELECT * FROM es.append_events('account', 'a' || :a::text, :events::jsonb);
