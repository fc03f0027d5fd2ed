-- name: evaluations
-- Every evaluation of a study with what it cost. An evaluation that another attempt had begun says
-- in its cost what the last one used; the rows of finished suites know the tokens of all. An
-- evaluation that was stopped early says how many items it saw; any other has scored those that it
-- has predictions of. Answers are not read.
SELECT t.number, t.role, t.label, e.split, e.state, e.attempt, e.cost,
       coalesce((e.cost->>'items')::bigint, p.items, 0)::bigint AS items,
       greatest((e.cost->>'tokens')::bigint, p.tokens, 0)::bigint AS tokens,
       CASE WHEN e.finished_at >= e.started_at
            THEN extract(epoch FROM e.finished_at - e.started_at)::float8 END AS seconds
FROM evaluation e
JOIN trial t ON t.id = e.trial_id
LEFT JOIN LATERAL (SELECT sum(p.n) AS items, sum((p.cost->>'tokens')::bigint) AS tokens
                   FROM prediction p
                   WHERE p.trial_id = t.id AND p.split = e.split) p ON true
WHERE t.study_id = %(study)s
ORDER BY t.number, e.id
