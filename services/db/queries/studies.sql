-- name: insert
INSERT INTO study (key, name, owner, spec, pool_id, reference, code_version)
VALUES (%(key)s, %(name)s, %(owner)s, %(spec)s, %(pool)s, %(reference)s, %(code_version)s)
ON CONFLICT (key) DO NOTHING
RETURNING id

-- name: by_key
SELECT id, coalesce(submitted_spec, spec) AS spec FROM study WHERE key = %(key)s

-- name: add_suite
INSERT INTO study_suite (study_id, position, suite_id) VALUES (%(study)s, %(position)s, %(suite)s)

-- name: get
SELECT s.*, p.name AS pool, p.reference AS pool_reference
FROM study s JOIN pool p ON p.id = s.pool_id WHERE s.id = %(study)s

-- name: lock
-- One advance at a time per study; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(%(space)s, %(study)s::int)

-- name: suites
SELECT u.id, u.name, u.form, u.digest, u.items, u.search_items, u.validation_items, u.test_items
FROM study_suite x JOIN suite u ON u.id = x.suite_id
WHERE x.study_id = %(study)s ORDER BY x.position

-- name: suites_with_content
SELECT u.id, u.name, u.form, u.digest, u.settings, u.content
FROM study_suite x JOIN suite u ON u.id = x.suite_id
WHERE x.study_id = %(study)s ORDER BY x.position

-- name: event
INSERT INTO event (study_id, text) VALUES (%(study)s, %(text)s)

-- name: events
SELECT id, at, text FROM event WHERE study_id = %(study)s ORDER BY id

-- name: touch
UPDATE study SET changed_at = clock_timestamp() WHERE id = %(study)s

-- name: set_phase
UPDATE study SET phase = %(phase)s, changed_at = clock_timestamp() WHERE id = %(study)s

-- name: set_chosen
UPDATE study SET chosen_trial_id = %(trial)s, changed_at = clock_timestamp() WHERE id = %(study)s

-- name: finish
UPDATE study SET state = %(state)s, phase = 'done', failure = %(failure)s,
    finished_at = clock_timestamp(), changed_at = clock_timestamp()
WHERE id = %(study)s AND state IN ('running', 'paused')
RETURNING id

-- name: pause
UPDATE study SET state = 'paused', changed_at = clock_timestamp()
WHERE id = %(study)s AND state = 'running' RETURNING id

-- name: resume
UPDATE study SET state = 'running', phase = %(phase)s, failure = NULL, finished_at = NULL,
    changed_at = clock_timestamp()
WHERE id = %(study)s AND state IN ('paused', 'failed') RETURNING id

-- name: try_again
-- With all its tries; the attempt's number is never used again: it is the fence.
UPDATE evaluation
SET state = 'queued', forgiven = attempt, error = NULL, worker = NULL, progress = 0,
    queued_at = clock_timestamp(), started_at = NULL, finished_at = NULL
WHERE id = ANY(%(ids)s) AND state IN ('failed', 'abandoned', 'cancelled') AND told_at IS NULL

-- name: archive
UPDATE study SET archived_at = clock_timestamp(), changed_at = clock_timestamp()
WHERE id = %(study)s AND archived_at IS NULL AND state IN ('finished', 'failed', 'cancelled')
RETURNING id

-- name: unarchive
UPDATE study SET archived_at = NULL, changed_at = clock_timestamp()
WHERE id = %(study)s AND archived_at IS NOT NULL RETURNING id

-- name: edit
UPDATE study SET submitted_spec = coalesce(submitted_spec, spec), spec = %(spec)s,
    changed_at = clock_timestamp()
WHERE id = %(study)s

-- name: cancel
UPDATE study SET state = 'cancelled', phase = 'done', finished_at = clock_timestamp(),
    changed_at = clock_timestamp()
WHERE id = %(study)s AND state IN ('running', 'paused') RETURNING id

-- name: cancel_evaluations
-- A running worker finds its claim gone at the next heartbeat; its late writes are fenced off.
-- The probes of a study that finishes go on.
UPDATE evaluation e
SET state = 'cancelled', lease_until = NULL, finished_at = clock_timestamp()
FROM trial t JOIN study s ON s.id = t.study_id
WHERE t.id = e.trial_id AND t.study_id = %(study)s AND e.state IN ('queued', 'running')
  AND (t.role <> 'probe' OR s.state <> 'finished')

-- name: queued_evaluations
SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND e.state = 'queued' ORDER BY e.id

-- name: trials
-- Trials with what the study was told of them on one split; probes are no part of a study.
SELECT t.id, t.number, t.role, t.slot, t.label, t.weights, t.recipe_digest,
       e.id AS evaluation_id, e.state, e.told_at, e.objectives, e.violation, e.rank, e.error,
       e.race
FROM trial t JOIN evaluation e ON e.trial_id = t.id AND e.split = %(split)s
WHERE t.study_id = %(study)s AND t.role <> 'probe' ORDER BY t.number

-- name: untold
-- Complete evaluations whose metrics are not computed yet.
SELECT e.id, e.trial_id FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND e.split = %(split)s AND e.state = 'complete' AND e.told_at IS NULL
  AND t.role <> 'probe'
ORDER BY t.number

-- name: insert_trial
INSERT INTO trial (study_id, number, role, slot, label, weights, recipe, recipe_digest)
VALUES (%(study)s, %(number)s, %(role)s, %(slot)s, %(label)s, %(weights)s, %(recipe)s,
        %(recipe_digest)s)
RETURNING id

-- name: insert_evaluation
INSERT INTO evaluation (trial_id, split) VALUES (%(trial)s, %(split)s) RETURNING id

-- name: predictions
SELECT p.* FROM prediction p
WHERE p.trial_id = %(trial)s AND p.split = %(split)s

-- name: answers
-- What metrics of many trials are made of. `split` is always named by the caller.
SELECT p.trial_id, p.suite_id, p.n, p.items_digest, p.correct, p.answer, p.margin, p.nll, p.tokens,
       CASE WHEN %(options)s THEN p.options END AS options,
       CASE WHEN %(texts)s THEN p.texts END AS texts
FROM prediction p
WHERE p.trial_id = ANY(%(trials)s) AND p.suite_id = ANY(%(suites)s) AND p.split = %(split)s
ORDER BY p.trial_id, p.suite_id

-- name: seen_predictions
SELECT s.* FROM seen_prediction s WHERE s.trial_id = ANY(%(trials)s)

-- name: tell
-- Written once: a second telling finds no row.
UPDATE evaluation
SET told_at = clock_timestamp(), objectives = %(objectives)s, violation = %(violation)s
WHERE id = %(evaluation)s AND told_at IS NULL AND state = 'complete' RETURNING id

-- name: reject
-- Results that cannot be told: the evaluation ran, but its numbers are of no use.
UPDATE evaluation SET state = 'failed', error = %(error)s
WHERE id = %(evaluation)s AND told_at IS NULL AND state = 'complete' RETURNING id

-- name: set_rank
UPDATE evaluation SET rank = %(rank)s WHERE id = %(evaluation)s AND rank IS DISTINCT FROM %(rank)s

-- name: insert_metrics
-- All of one trial on one split, in one statement.
INSERT INTO metric (trial_id, split, suite, name, value, low, high, n)
SELECT %(trial)s, %(split)s, m.*
FROM unnest(%(suites)s::text[], %(names)s::text[], %(values)s::float8[], %(lows)s::float8[],
            %(highs)s::float8[], %(ns)s::int[]) AS m

-- name: metrics
-- `split` is always named by the caller: 'test' only through services.studies.sealed.
SELECT m.trial_id, t.number, m.suite, m.name, m.value, m.low, m.high, m.n
FROM metric m JOIN trial t ON t.id = m.trial_id
WHERE t.study_id = %(study)s AND m.split = %(split)s AND t.role <> 'probe'
ORDER BY t.number, m.suite, m.name

-- name: open_test
INSERT INTO test_reading (study_id, purpose, trials) VALUES (%(study)s, %(purpose)s, %(trials)s)

-- name: test_readings
SELECT at, purpose, trials FROM test_reading WHERE study_id = %(study)s ORDER BY id

-- name: opened_before
-- Other studies that have opened the test split of one of this study's suites.
SELECT DISTINCT r.study_id AS study
FROM test_reading r JOIN study_suite x ON x.study_id = r.study_id
WHERE r.study_id <> %(study)s
  AND x.suite_id IN (SELECT y.suite_id FROM study_suite y WHERE y.study_id = %(study)s)
ORDER BY 1

-- name: spent
-- What the search has used. An evaluation that was stopped early says in its cost how many items it
-- saw; any other has scored those that it has predictions of.
SELECT count(*) FILTER (WHERE t.role = 'search')::int AS trials,
       count(*) FILTER (WHERE e.state IN ('queued', 'running'))::int AS open,
       -- predictions are counted only of those whose cost does not say it
       coalesce(sum(coalesce((e.cost->>'items')::bigint,
                             (SELECT sum(p.n) FROM prediction p
                              WHERE p.trial_id = t.id AND p.split = 'search'), 0))
                FILTER (WHERE e.state NOT IN ('queued', 'running')), 0)::bigint AS items,
       (SELECT sum(u.search_items) FROM study_suite x JOIN suite u ON u.id = x.suite_id
        WHERE x.study_id = s.id)::bigint AS items_each,
       extract(epoch FROM coalesce(s.finished_at, clock_timestamp()) - s.created_at)::float8
           AS seconds
FROM study s
LEFT JOIN trial t ON t.study_id = s.id AND t.role <> 'probe'
LEFT JOIN evaluation e ON e.trial_id = t.id AND e.split = 'search'
WHERE s.id = %(study)s GROUP BY s.id

-- name: sleeping
-- Running studies with nothing in flight although something is to be done, and finished ones with
-- probes that nobody has told them of.
SELECT s.id FROM study s
WHERE (s.state = 'finished' AND EXISTS (
        SELECT 1 FROM trial t JOIN evaluation e ON e.trial_id = t.id
        WHERE t.study_id = s.id AND t.role = 'probe' AND e.state = 'complete'
          AND e.told_at IS NULL)
    OR s.state = 'running' AND (
    EXISTS (SELECT 1 FROM trial t JOIN evaluation e ON e.trial_id = t.id
            WHERE t.study_id = s.id AND e.state = 'complete' AND e.told_at IS NULL)
    OR NOT EXISTS (SELECT 1 FROM trial t JOIN evaluation e ON e.trial_id = t.id
                   WHERE t.study_id = s.id AND t.role <> 'probe'
                     AND e.state IN ('queued', 'running'))
       AND NOT EXISTS (SELECT 1 FROM descent d
                       WHERE d.study_id = s.id AND d.state IN ('queued', 'running'))))
  AND s.changed_at < clock_timestamp() - make_interval(secs => %(seconds)s)
