-- name: insert
INSERT INTO descent (study_id, number, preference, job)
VALUES (%(study)s, %(number)s, %(preference)s, %(job)s)
RETURNING id

-- name: of_study
-- Without what only their worker needs.
SELECT id, number, preference, state, attempt, forgiven, worker, progress, step, weights, cost,
       error, started_at, finished_at
FROM descent WHERE study_id = %(study)s ORDER BY number

-- name: finished
-- Those whose candidate has not entered the study yet.
SELECT d.number, d.recipe, d.weights, d.cost FROM descent d
WHERE d.study_id = %(study)s AND d.state = 'complete'
  AND NOT EXISTS (SELECT 1 FROM trial t WHERE t.study_id = d.study_id
                  AND t.slot = 'd' || lpad(d.number::text, 3, '0'))
ORDER BY d.number

-- name: claim
-- The one way a descent becomes running: attempt counted, lease on the database's clock.
UPDATE descent d
SET state = 'running', attempt = d.attempt + 1, worker = %(worker)s, error = NULL,
    lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
    started_at = coalesce(d.started_at, clock_timestamp())
FROM study s
WHERE d.id = %(id)s AND s.id = d.study_id
  AND d.state = 'queued' AND d.attempt - d.forgiven < %(max_attempts)s
  AND s.state = 'running'
RETURNING d.id, d.attempt, d.number, d.job, d.memory, s.id AS study_id, s.pool_id

-- name: renew
UPDATE descent d
SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s), progress = %(progress)s
FROM study s
WHERE d.id = %(id)s AND d.attempt = %(attempt)s AND d.state = 'running'
  AND s.id = d.study_id AND s.state <> 'cancelled'
RETURNING d.id

-- name: save
-- Fenced, and never back: only the holder of the running attempt may write.
UPDATE descent
SET memory = %(memory)s, step = %(step)s, cost = %(cost)s
WHERE id = %(descent)s AND attempt = %(attempt)s AND state = 'running' AND step < %(step)s
RETURNING id

-- name: complete
UPDATE descent
SET state = 'complete', progress = 1, step = %(step)s, recipe = %(recipe)s, weights = %(weights)s,
    cost = %(cost)s, memory = NULL, lease_until = NULL, finished_at = clock_timestamp()
WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING study_id

-- name: fail
-- Deterministic failures end here; retryable ones go back in the queue until the cap.
UPDATE descent
SET state = CASE WHEN NOT %(retryable)s THEN 'failed'
                 WHEN attempt - forgiven >= %(max_attempts)s THEN 'abandoned'
                 ELSE 'queued' END,
    error = %(error)s, lease_until = NULL, worker = NULL, queued_at = clock_timestamp(),
    finished_at = CASE WHEN %(retryable)s AND attempt - forgiven < %(max_attempts)s THEN NULL
                       ELSE clock_timestamp() END
WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING state, id, study_id, number, error

-- name: give_back
-- A worker that shuts down returns its claim: the attempt is forgiven, its number stays the fence.
UPDATE descent
SET state = 'queued', forgiven = forgiven + 1, lease_until = NULL, worker = NULL,
    queued_at = clock_timestamp()
WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING id

-- name: expire
-- Leases that ran out on the database's clock.
UPDATE descent
SET state = CASE WHEN attempt - forgiven >= %(max_attempts)s THEN 'abandoned' ELSE 'queued' END,
    error = 'the worker stopped renewing its lease', lease_until = NULL, worker = NULL,
    queued_at = clock_timestamp(),
    finished_at = CASE WHEN attempt - forgiven >= %(max_attempts)s THEN clock_timestamp() END
WHERE state = 'running' AND lease_until < clock_timestamp()
RETURNING state, id, study_id, number, error

-- name: lost
-- Queued work whose message seems gone; marked, so that each is sent again once per wait.
UPDATE descent d SET queued_at = clock_timestamp()
FROM study s
WHERE s.id = d.study_id AND d.state = 'queued' AND s.state = 'running'
  AND d.queued_at < clock_timestamp() - make_interval(secs => %(seconds)s)
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.topic = 'descend' AND o.subject = d.id)
RETURNING d.id

-- name: queued
SELECT id FROM descent WHERE study_id = %(study)s AND state = 'queued' ORDER BY id

-- name: cancel
-- A running worker finds its claim gone at the next heartbeat; its late writes are fenced off.
UPDATE descent
SET state = 'cancelled', lease_until = NULL, finished_at = clock_timestamp()
WHERE study_id = %(study)s AND state = ANY(%(states)s)
RETURNING id
