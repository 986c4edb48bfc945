WITH batch AS (
	DELETE FROM queue WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM queue ORDER BY position LIMIT :batch FOR UPDATE SKIP LOCKED))
	RETURNING *
)
SELECT count(*) FROM batch;
