-- name: insert
INSERT INTO leakage (checkpoint_digest, suite_id, against, against_digest, n, others, paired, nats,
                     grams, signs, code_version)
SELECT %(checkpoint)s, u.id, %(against)s, %(against_digest)s, %(n)s, %(others)s, %(paired)s,
       %(nats)s, %(grams)s, %(signs)s, %(code_version)s
FROM suite u WHERE u.name = %(suite)s AND u.digest = %(suite_digest)s
RETURNING measured_at

-- name: newest
-- The newest row of every checkpoint, suite and reference file.
SELECT DISTINCT ON (l.checkpoint_digest, l.suite_id, l.against_digest)
       l.checkpoint_digest AS checkpoint, u.name AS suite, l.against, l.n, l.others, l.paired,
       l.nats, l.grams, l.signs, l.code_version, l.measured_at
FROM leakage l JOIN suite u ON u.id = l.suite_id
WHERE l.checkpoint_digest = ANY(%(checkpoints)s) AND l.suite_id = ANY(%(suites)s)
ORDER BY l.checkpoint_digest, l.suite_id, l.against_digest, l.id DESC
