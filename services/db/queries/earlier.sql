-- name: fitting
-- Candidates told by other studies on the same checkpoints, names and reference, with search-split
-- predictions on every suite of this study; newest first.
SELECT t.id, t.study_id, t.weights, t.recipe_digest
FROM study mine
JOIN pool p ON p.id = mine.pool_id
JOIN study s ON s.id <> mine.id AND s.reference = mine.reference
JOIN pool q ON q.id = s.pool_id AND q.digest = p.digest
JOIN trial t ON t.study_id = s.id AND t.role IN ('greedy', 'search')
JOIN evaluation e ON e.trial_id = t.id AND e.split = 'search' AND e.told_at IS NOT NULL
WHERE mine.id = %(study)s AND NOT EXISTS (
    SELECT 1 FROM study_suite x WHERE x.study_id = mine.id AND NOT EXISTS (
        SELECT 1 FROM prediction r
        WHERE r.trial_id = t.id AND r.split = 'search' AND r.suite_id = x.suite_id))
ORDER BY e.told_at DESC, t.id DESC LIMIT %(most)s

-- name: insert
INSERT INTO earlier_result (study_id, position, trial_id)
VALUES (%(study)s, %(position)s, %(trial)s)

-- name: untold
SELECT position, trial_id FROM earlier_result
WHERE study_id = %(study)s AND objectives IS NULL ORDER BY position

-- name: tell
UPDATE earlier_result SET objectives = %(objectives)s, violation = %(violation)s
WHERE study_id = %(study)s AND position = %(position)s AND objectives IS NULL

-- name: told
SELECT x.trial_id, t.study_id AS study, t.slot, t.weights, x.objectives, x.violation
FROM earlier_result x JOIN trial t ON t.id = x.trial_id
WHERE x.study_id = %(study)s AND x.objectives IS NOT NULL ORDER BY x.position
