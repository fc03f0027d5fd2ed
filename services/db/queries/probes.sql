-- name: trials
-- Probes with what the study was told of them on one open split.
SELECT t.id, t.number, t.role, t.slot, t.label, t.weights, t.recipe_digest,
       e.id AS evaluation_id, e.state, e.told_at, e.objectives, e.violation, e.rank, e.error,
       e.race
FROM trial t JOIN evaluation e ON e.trial_id = t.id AND e.split = %(split)s
WHERE t.study_id = %(study)s AND t.role = 'probe' AND e.split <> 'test' ORDER BY t.number

-- name: known
-- Trials of any role that were made of one of these recipes and evaluated, or are about to be.
-- Results first, so that the first of a recipe is the one to be read.
SELECT t.id, t.number, t.role, t.slot, t.label, t.weights, t.recipe_digest,
       e.id AS evaluation_id, e.state, e.told_at, e.objectives, e.violation, e.rank, e.error,
       e.race
FROM trial t JOIN evaluation e ON e.trial_id = t.id AND e.split = %(split)s
WHERE t.study_id = %(study)s AND t.recipe_digest = ANY(%(digests)s) AND e.split <> 'test'
ORDER BY e.told_at IS NULL,
         array_position(ARRAY['complete', 'running', 'queued'], e.state) NULLS LAST, t.number DESC

-- name: unused
-- Probes of one of these recipes that are not evaluated on this split.
SELECT t.id, t.recipe_digest FROM trial t
WHERE t.study_id = %(study)s AND t.role = 'probe' AND t.recipe_digest = ANY(%(digests)s)
  AND NOT EXISTS (SELECT 1 FROM evaluation e WHERE e.trial_id = t.id AND e.split = %(split)s)
ORDER BY t.number DESC

-- name: next_number
SELECT max(number) + 1 AS number FROM trial WHERE study_id = %(study)s

-- name: untold
-- Complete probes whose metrics are not computed yet.
SELECT e.id, e.trial_id FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND e.split = %(split)s AND e.state = 'complete' AND e.told_at IS NULL
  AND t.role = 'probe'
ORDER BY t.number

-- name: counts
-- How many probes there are by split and state, and whether they are held.
SELECT e.split, e.state, s.probes_held AS held, count(*) AS n
FROM evaluation e JOIN trial t ON t.id = e.trial_id JOIN study s ON s.id = t.study_id
WHERE t.study_id = %(study)s AND t.role = 'probe' GROUP BY 1, 2, 3 ORDER BY 1, 2

-- name: held
SELECT probes_held AS held FROM study WHERE id = %(study)s

-- name: pause
-- Of a finished study with open probes; one that still runs is paused as a whole.
UPDATE study s SET probes_held = true, changed_at = clock_timestamp()
WHERE s.id = %(study)s AND s.state = 'finished' AND NOT s.probes_held AND EXISTS (
    SELECT 1 FROM evaluation e JOIN trial t ON t.id = e.trial_id
    WHERE t.study_id = s.id AND t.role = 'probe' AND e.state IN ('queued', 'running'))
RETURNING s.id

-- name: resume
UPDATE study SET probes_held = false, changed_at = clock_timestamp()
WHERE id = %(study)s AND state = 'finished' AND probes_held RETURNING id

-- name: cancel
-- The study stays finished; a running worker finds its claim gone at the next heartbeat.
WITH freed AS (
    UPDATE study SET probes_held = false, changed_at = clock_timestamp()
    WHERE id = %(study)s AND state = 'finished' RETURNING id)
UPDATE evaluation e
SET state = 'cancelled', lease_until = NULL, finished_at = clock_timestamp()
FROM trial t JOIN freed ON freed.id = t.study_id
WHERE t.id = e.trial_id AND t.role = 'probe' AND e.state IN ('queued', 'running')
RETURNING e.id
