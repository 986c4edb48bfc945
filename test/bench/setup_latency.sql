-- What has come to a consumer, and how long after it was recorded.
CREATE TABLE delivered (took interval);
SELECT es.create_subscription('delivered');
