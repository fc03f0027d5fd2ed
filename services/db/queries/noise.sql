-- name: insert
INSERT INTO noise_floor (checkpoint_digest, suite_id, split, variant, settings, n, negative_flips,
                         positive_flips, changed, largest_difference, flips, code_version)
SELECT %(checkpoint)s, u.id, %(split)s, %(variant)s, %(settings)s, %(n)s, %(negative)s,
       %(positive)s, %(changed)s, %(largest)s, %(flips)s, %(code_version)s
FROM suite u WHERE u.name = %(suite)s AND u.digest = %(suite_digest)s
RETURNING measured_at

-- name: newest
-- The newest row of every suite, split and variant of one checkpoint.
SELECT DISTINCT ON (f.suite_id, f.split, f.variant)
       u.name AS suite, f.split, f.variant, f.settings, f.n, f.negative_flips AS negative,
       f.positive_flips AS positive, f.changed, f.largest_difference AS largest, f.flips,
       f.code_version, f.measured_at
FROM noise_floor f JOIN suite u ON u.id = f.suite_id
WHERE f.checkpoint_digest = %(checkpoint)s AND f.suite_id = ANY(%(suites)s)
ORDER BY f.suite_id, f.split, f.variant, f.id DESC
