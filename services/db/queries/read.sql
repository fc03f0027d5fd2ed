-- name: studies
SELECT s.id, s.key, s.name, s.owner, s.state, s.phase, p.name AS pool, s.reference, s.created_at,
       s.finished_at, s.changed_at, s.failure, s.archived_at,
       -- a descent is one candidate; how many there are shows once they have begun
       coalesce((SELECT nullif(count(*), 0) FROM descent d WHERE d.study_id = s.id),
                (s.spec->'budget'->>'trials')::int)::int AS budget, s.spec->'budget' AS limits,
       c.number AS chosen,
       count(t.id) FILTER (WHERE t.role = 'search') AS asked,
       count(e.id) FILTER (WHERE e.state = 'complete') AS complete,
       count(e.id) FILTER (WHERE e.state = 'stopped') AS stopped,
       count(e.id) FILTER (WHERE e.state = 'running') AS running,
       count(e.id) FILTER (WHERE e.state = 'queued') AS queued,
       count(e.id) FILTER (WHERE e.state IN ('failed', 'abandoned')) AS failed
FROM study s
JOIN pool p ON p.id = s.pool_id
LEFT JOIN trial c ON c.id = s.chosen_trial_id
LEFT JOIN trial t ON t.study_id = s.id AND t.role <> 'probe'
LEFT JOIN evaluation e ON e.trial_id = t.id AND e.split = 'search'
WHERE %(study)s::bigint IS NULL OR s.id = %(study)s
GROUP BY s.id, p.name, c.number ORDER BY s.id DESC

-- name: counts
SELECT e.split, e.state, count(*) AS n
FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND t.role <> 'probe' GROUP BY 1, 2 ORDER BY 1, 2

-- name: pace
-- Seconds between the last finished evaluations, for an estimate of what is left. A gap that is
-- longer than all others together was a pause.
SELECT count(*) AS n,
       coalesce(sum(gap) - CASE WHEN count(gap) > 4 AND max(gap) > sum(gap) / 2 THEN max(gap)
                           ELSE 0 END, 0)::float8 AS seconds
FROM (SELECT extract(epoch FROM e.finished_at - lag(e.finished_at) OVER (ORDER BY e.finished_at))
      FROM (SELECT e.finished_at FROM evaluation e JOIN trial t ON t.id = e.trial_id
            WHERE t.study_id = %(study)s AND t.role <> 'probe'
              AND e.state IN ('complete', 'stopped')
            ORDER BY e.finished_at DESC LIMIT 30) e) g (gap)

-- name: racing
-- Search candidates that have ended, and the items that were scored for them.
SELECT count(*) AS candidates, count(*) FILTER (WHERE e.state = 'stopped') AS stopped,
       coalesce(sum((e.cost->>'items')::bigint), 0)::bigint AS used,
       (SELECT coalesce(sum(u.search_items), 0)::bigint FROM study_suite x
        JOIN suite u ON u.id = x.suite_id WHERE x.study_id = %(study)s) AS items
FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND t.role = 'search' AND e.split = 'search'
  AND e.state IN ('complete', 'stopped')

-- name: change_mark
-- One cheap value that differs whenever anything of the study did: whatever is told or asked for
-- touches the study.
SELECT s.changed_at, s.state, s.phase FROM study s WHERE s.id = %(study)s

-- name: trial_detail
SELECT t.*, t.recipe AS recipe_data FROM trial t
WHERE t.study_id = %(study)s AND t.number = %(number)s

-- name: trial_times
SELECT t.number, t.created_at, e.started_at, e.finished_at
FROM trial t JOIN evaluation e ON e.trial_id = t.id AND e.split = 'search'
WHERE t.study_id = %(study)s

-- name: evaluations_of_trial
SELECT split, state, attempt, worker, weights_digest, cost, error, started_at, finished_at
FROM evaluation WHERE trial_id = %(trial)s ORDER BY id

-- name: workers
SELECT name, kind, started_at, seen_at, info,
       extract(epoch FROM clock_timestamp() - seen_at)::float8 AS silent_seconds
FROM worker WHERE seen_at > clock_timestamp() - interval '1 day' ORDER BY kind, name

-- name: seen
INSERT INTO worker (name, kind, info) VALUES (%(name)s, %(kind)s, %(info)s)
ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp(), kind = EXCLUDED.kind,
    info = EXCLUDED.info
