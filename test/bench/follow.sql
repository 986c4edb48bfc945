WITH batch AS MATERIALIZED (SELECT * FROM es.fetch('follower' || :client_id, 100, wait => '1s'))
SELECT count(*), es.ack(lease_id) FROM batch GROUP BY lease_id;
