INSERT INTO replayed_by_hand
SELECT aggregate_id, sum((data->>'amount')::numeric), count(*)
FROM es.events
WHERE aggregate_type = 'replayed'
GROUP BY aggregate_id
