\set a random(1, :keys)
SELECT * FROM waited WHERE id = 'r' || :a::text;
