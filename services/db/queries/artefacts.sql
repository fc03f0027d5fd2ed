-- name: queue
-- A failed artefact may be asked for again; a published one stays.
INSERT INTO artefact (trial_id, store) VALUES (%(trial)s, %(store)s)
ON CONFLICT (trial_id, store) DO UPDATE
SET state = 'queued', attempt = 0, error = NULL WHERE artefact.state = 'failed'
RETURNING id

-- name: claim
UPDATE artefact
SET state = 'publishing', attempt = attempt + 1, worker = %(worker)s, error = NULL,
    lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id = %(artefact)s AND state = 'queued' AND attempt < %(max_attempts)s
RETURNING id, attempt, trial_id, store

-- name: renew
UPDATE artefact SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id = %(artefact)s AND attempt = %(attempt)s AND state = 'publishing' RETURNING id

-- name: published
UPDATE artefact
SET state = 'published', digest = %(digest)s, weights_digest = %(weights_digest)s,
    bytes = %(bytes)s, lease_until = NULL, published_at = clock_timestamp()
WHERE id = %(artefact)s AND attempt = %(attempt)s AND state = 'publishing' RETURNING trial_id

-- name: fail
UPDATE artefact
SET state = CASE WHEN %(retryable)s AND attempt < %(max_attempts)s THEN 'queued' ELSE 'failed' END,
    error = %(error)s, lease_until = NULL
WHERE id = %(artefact)s AND attempt = %(attempt)s AND state = 'publishing'
RETURNING id, state, trial_id

-- name: expire
UPDATE artefact
SET state = CASE WHEN attempt < %(max_attempts)s THEN 'queued' ELSE 'failed' END,
    error = 'the worker stopped renewing its lease', lease_until = NULL
WHERE state = 'publishing' AND lease_until < clock_timestamp()
RETURNING id, state, trial_id

-- name: lost
-- Queued artefacts whose message seems gone; marked, so that each is sent again once per wait.
UPDATE artefact a SET queued_at = clock_timestamp()
WHERE a.state = 'queued'
  AND a.queued_at < clock_timestamp() - make_interval(secs => %(seconds)s)
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.topic = 'publish' AND o.subject = a.id)
RETURNING a.id

-- name: of_trial
SELECT * FROM artefact WHERE trial_id = %(trial)s AND store = %(store)s

-- name: source
-- What casting a trial needs, and the digest of the weights that were measured.
SELECT t.id AS trial_id, t.number, t.recipe, t.label, t.study_id, s.name AS study, s.pool_id,
       (SELECT e.weights_digest FROM evaluation e
        WHERE e.trial_id = t.id AND e.state = 'complete' ORDER BY e.id LIMIT 1) AS weights_digest,
       (SELECT count(DISTINCT e.weights_digest) FROM evaluation e
        WHERE e.trial_id = t.id AND e.state = 'complete') AS digests
FROM trial t JOIN study s ON s.id = t.study_id WHERE t.id = %(trial)s

-- name: trial_by_number
SELECT id FROM trial WHERE study_id = %(study)s AND number = %(number)s

-- name: of_study
SELECT a.*, t.number FROM artefact a JOIN trial t ON t.id = a.trial_id
WHERE t.study_id = %(study)s ORDER BY a.id

-- name: study_of_trial
SELECT study_id FROM trial WHERE id = %(trial)s
