SELECT count(*), es.ack(lease_id) FROM es.fetch('consumed', :batch) GROUP BY lease_id;
