-- name: find
SELECT n, gram, sums, measured_at FROM kinship
WHERE base_digest = %(base)s AND digests = %(digests)s

-- name: insert
INSERT INTO kinship (base_digest, digests, n, gram, sums)
VALUES (%(base)s, %(digests)s, %(n)s, %(gram)s, %(sums)s)
ON CONFLICT (base_digest, digests) DO NOTHING
