WITH batch AS (
	DELETE FROM queue WHERE position IN (
		SELECT position FROM queue ORDER BY position LIMIT :batch FOR UPDATE SKIP LOCKED)
	RETURNING *
)
SELECT count(*) FROM batch;
