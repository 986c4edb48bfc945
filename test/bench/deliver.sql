WITH batch AS MATERIALIZED (
	SELECT lease_id, clock_timestamp() - recorded_at AS took FROM es.fetch('delivered', 1000, wait => '10s')
),
noted AS (INSERT INTO delivered SELECT took FROM batch)
SELECT es.ack(lease_id) FROM batch GROUP BY lease_id;
