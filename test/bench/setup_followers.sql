SELECT es.create_subscription('follower' || i) FROM generate_series(0, 9) AS i;
