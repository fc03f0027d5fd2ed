-- name: claim
-- The one way an evaluation becomes running: attempt counted, lease on the database's clock.
UPDATE evaluation e
SET state = 'running', attempt = e.attempt + 1, worker = %(worker)s, progress = 0, error = NULL,
    lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
    started_at = clock_timestamp()
FROM trial t
JOIN study s ON s.id = t.study_id
WHERE e.id = %(id)s AND t.id = e.trial_id
  AND e.state = 'queued' AND e.attempt - e.forgiven < %(max_attempts)s
  AND (s.state = 'running' OR (t.role = 'probe' AND s.state = 'finished' AND NOT s.probes_held))
RETURNING e.id, e.attempt, e.split, t.id AS trial_id, t.number, t.role, t.slot, t.recipe,
          t.recipe_digest, s.id AS study_id, s.pool_id

-- name: renew
UPDATE evaluation e
SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s), progress = %(progress)s
FROM trial t
JOIN study s ON s.id = t.study_id
WHERE e.id = %(id)s AND e.attempt = %(attempt)s AND e.state = 'running'
  AND t.id = e.trial_id AND s.state <> 'cancelled'
RETURNING e.id

-- name: finished_suites
SELECT p.suite_id FROM prediction p
WHERE p.trial_id = %(trial)s AND p.split = %(split)s AND p.recipe_digest = %(recipe_digest)s

-- name: save_predictions
-- Fenced: only the holder of the running attempt may write.
INSERT INTO prediction (trial_id, split, suite_id, attempt, recipe_digest, suite_digest,
                        items_digest, n, correct, answer, margin, options, nll, tokens, texts,
                        cost)
SELECT e.trial_id, e.split, u.id, e.attempt, t.recipe_digest, u.digest, %(items_digest)s, %(n)s,
       %(correct)s, %(answer)s, %(margin)s, %(options)s, %(nll)s, %(tokens)s, %(texts)s, %(cost)s
FROM evaluation e
JOIN trial t ON t.id = e.trial_id
JOIN study_suite x ON x.study_id = t.study_id
JOIN suite u ON u.id = x.suite_id AND u.id = %(suite)s AND u.digest = %(suite_digest)s
WHERE e.id = %(evaluation)s AND e.attempt = %(attempt)s AND e.state = 'running'
FOR UPDATE OF e
ON CONFLICT (trial_id, split, suite_id) DO NOTHING
RETURNING suite_id

-- name: complete
-- Complete needs a row for every suite of the study, made from the trial's own recipe. `items`:
-- how many were scored for it, by this attempt and by earlier ones.
UPDATE evaluation e
SET state = 'complete', progress = 1, weights_digest = %(weights_digest)s, race = %(race)s,
    cost = %(cost)s || jsonb_build_object('items', (
        SELECT sum(p.n) FROM prediction p WHERE p.trial_id = t.id AND p.split = e.split)),
    lease_until = NULL, finished_at = clock_timestamp()
FROM trial t
WHERE e.id = %(id)s AND e.attempt = %(attempt)s AND e.state = 'running'
  AND t.id = e.trial_id
  AND NOT EXISTS (
      SELECT 1 FROM study_suite x JOIN suite u ON u.id = x.suite_id
      WHERE x.study_id = t.study_id AND NOT EXISTS (
          SELECT 1 FROM prediction p
          WHERE p.trial_id = t.id AND p.split = e.split AND p.suite_id = x.suite_id
            AND p.recipe_digest = t.recipe_digest AND p.suite_digest = u.digest))
RETURNING t.study_id

-- name: save_seen
-- Fenced, and written together with the stop.
INSERT INTO seen_prediction (trial_id, suite_id, attempt, items_digest, n, seen, correct, answer,
                             margin)
SELECT e.trial_id, u.id, e.attempt, %(items_digest)s, %(n)s, %(seen)s, %(correct)s, %(answer)s,
       %(margin)s
FROM evaluation e
JOIN trial t ON t.id = e.trial_id
JOIN study_suite x ON x.study_id = t.study_id
JOIN suite u ON u.id = x.suite_id AND u.name = %(suite)s
WHERE e.id = %(evaluation)s AND e.attempt = %(attempt)s AND e.state = 'running'
FOR UPDATE OF e

-- name: stop
-- Stopped by its race. What was scored whole stays in `prediction`.
UPDATE evaluation e
SET state = 'stopped', race = %(race)s, cost = %(cost)s, lease_until = NULL,
    finished_at = clock_timestamp()
FROM trial t
WHERE e.id = %(id)s AND e.attempt = %(attempt)s AND e.state = 'running'
  AND e.split = 'search' AND t.id = e.trial_id
RETURNING t.study_id

-- name: fail
-- Deterministic failures end here; retryable ones go back in the queue until the cap.
UPDATE evaluation e
SET state = CASE WHEN NOT %(retryable)s THEN 'failed'
                 WHEN e.attempt - e.forgiven >= %(max_attempts)s THEN 'abandoned'
                 ELSE 'queued' END,
    error = %(error)s, lease_until = NULL, worker = NULL, queued_at = clock_timestamp(),
    finished_at = CASE WHEN %(retryable)s AND e.attempt - e.forgiven < %(max_attempts)s THEN NULL
                       ELSE clock_timestamp() END
FROM trial t
WHERE e.id = %(id)s AND e.attempt = %(attempt)s AND e.state = 'running'
  AND t.id = e.trial_id
RETURNING e.state, e.id, t.study_id

-- name: give_back
-- A worker that shuts down returns its claim. Nothing went wrong, so the attempt is forgiven, but
-- its number is never used again: it is the fence.
UPDATE evaluation e
SET state = 'queued', forgiven = e.forgiven + 1, lease_until = NULL, worker = NULL,
    queued_at = clock_timestamp()
WHERE e.id = %(id)s AND e.attempt = %(attempt)s AND e.state = 'running'
RETURNING e.id

-- name: state
SELECT state, attempt FROM evaluation WHERE id = %(evaluation)s

-- name: expire
-- Leases that ran out on the database's clock.
UPDATE evaluation e
SET state = CASE WHEN e.attempt - e.forgiven >= %(max_attempts)s THEN 'abandoned' ELSE 'queued' END,
    error = 'the worker stopped renewing its lease', lease_until = NULL, worker = NULL,
    queued_at = clock_timestamp(),
    finished_at = CASE WHEN e.attempt - e.forgiven >= %(max_attempts)s THEN clock_timestamp() END
FROM trial t
WHERE e.state = 'running' AND e.lease_until < clock_timestamp() AND t.id = e.trial_id
RETURNING e.state, e.id, t.study_id

-- name: lost
-- Queued work whose message seems gone: nothing picked it up for a while.
SELECT e.id FROM evaluation e
JOIN trial t ON t.id = e.trial_id
JOIN study s ON s.id = t.study_id
WHERE e.state = 'queued'
  AND (s.state = 'running' OR (t.role = 'probe' AND s.state = 'finished' AND NOT s.probes_held))
  AND e.queued_at < clock_timestamp() - make_interval(secs => %(seconds)s)
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.topic = 'evaluate' AND o.subject = e.id)
ORDER BY e.id LIMIT 1000

-- name: requeued
UPDATE evaluation SET queued_at = clock_timestamp() WHERE id = ANY(%(ids)s) AND state = 'queued'
