SELECT count(*), es.ack(lease_id) FROM es.fetch('consumed' || :consumers::text, :batch) GROUP BY lease_id;
