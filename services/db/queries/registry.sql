-- name: add_checkpoint
INSERT INTO checkpoint (digest, files, config, tokenizer_digest, dtype, parameters)
VALUES (%(digest)s, %(files)s, %(config)s, %(tokenizer_digest)s, %(dtype)s, %(parameters)s)
ON CONFLICT (digest) DO NOTHING

-- name: add_pool
INSERT INTO pool (name, digest, reference) VALUES (%(name)s, %(digest)s, %(reference)s)
ON CONFLICT (name) DO NOTHING
RETURNING id

-- name: add_member
INSERT INTO pool_member (pool_id, position, name, checkpoint_digest, uri)
VALUES (%(pool)s, %(position)s, %(name)s, %(checkpoint)s, %(uri)s)

-- name: pool
SELECT * FROM pool WHERE name = %(name)s

-- name: pool_by_id
SELECT * FROM pool WHERE id = %(pool)s

-- name: pools
SELECT p.id, p.name, p.reference, p.created_at, count(*) AS checkpoints,
       max(c.parameters) AS parameters, max(c.dtype) AS dtype
FROM pool p JOIN pool_member m ON m.pool_id = p.id JOIN checkpoint c ON c.digest = m.checkpoint_digest
GROUP BY p.id ORDER BY p.id

-- name: members
SELECT m.position, m.name, m.uri, m.checkpoint_digest, c.parameters, c.dtype, c.files, c.config,
       c.tokenizer_digest
FROM pool_member m JOIN checkpoint c ON c.digest = m.checkpoint_digest
WHERE m.pool_id = %(pool)s ORDER BY m.position

-- name: add_suite
INSERT INTO suite (name, digest, form, items, search_items, validation_items, test_items,
                   settings, content)
VALUES (%(name)s, %(digest)s, %(form)s, %(items)s, %(search_items)s, %(validation_items)s,
        %(test_items)s, %(settings)s, %(content)s)
ON CONFLICT (name, digest) DO NOTHING
RETURNING id

-- name: suite
-- The newest content of a name.
SELECT * FROM suite WHERE name = %(name)s ORDER BY id DESC LIMIT 1

-- name: suite_by_id
SELECT * FROM suite WHERE id = %(suite)s

-- name: suites
SELECT DISTINCT ON (name) id, name, digest, form, items, search_items, validation_items,
       test_items, settings, created_at
FROM suite ORDER BY name, id DESC
