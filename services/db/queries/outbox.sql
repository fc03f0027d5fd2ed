-- name: add
INSERT INTO outbox (topic, subject) SELECT %(topic)s, unnest(%(subjects)s::bigint[])

-- name: next
-- Not locked: two relays may both send a hint, which is harmless; holding a transaction open
-- while the broker is slow is not.
SELECT id, topic, subject FROM outbox ORDER BY id LIMIT 500

-- name: sent
DELETE FROM outbox WHERE id = ANY(%(ids)s)

-- name: waiting
SELECT count(*) AS n FROM outbox
