-- name: list_mark
-- One cheap value that differs whenever the list of studies did.
SELECT count(*) AS studies, max(changed_at) AS changed,
       count(*) FILTER (WHERE state = 'running') AS running
FROM study

-- name: extremes
-- Highest and lowest value of every objective over the feasible candidates, and the front's size.
SELECT t.study_id AS study, o.axis::int - 1 AS axis, max(o.value) AS high, min(o.value) AS low,
       count(*) FILTER (WHERE e.rank = 1) AS front
FROM evaluation e
JOIN trial t ON t.id = e.trial_id
CROSS JOIN LATERAL unnest(e.objectives) WITH ORDINALITY AS o(value, axis)
WHERE e.split = 'search' AND e.told_at IS NOT NULL AND e.violation <= 0 AND t.role <> 'probe'
GROUP BY 1, 2 ORDER BY 1, 2

-- name: objectives
-- What the list of studies needs to name the objectives, without reading whole specs.
SELECT s.id AS study, s.spec->'objectives' AS objectives, s.spec->'suites' AS suites,
       (SELECT jsonb_object_agg(u.name, u.form) FROM study_suite x
        JOIN suite u ON u.id = x.suite_id WHERE x.study_id = s.id) AS forms
FROM study s ORDER BY s.id

-- name: in_flight
SELECT t.study_id AS study, s.name, t.number, e.split, e.worker, e.attempt, e.progress,
       extract(epoch FROM clock_timestamp() - e.started_at)::float8 AS seconds,
       extract(epoch FROM e.lease_until - clock_timestamp())::float8 AS lease_seconds
FROM evaluation e
JOIN trial t ON t.id = e.trial_id
JOIN study s ON s.id = t.study_id
WHERE e.state = 'running'
UNION ALL
SELECT d.study_id, s.name, d.number, 'descent', d.worker, d.attempt, d.progress,
       extract(epoch FROM clock_timestamp() - d.started_at)::float8,
       extract(epoch FROM d.lease_until - clock_timestamp())::float8
FROM descent d JOIN study s ON s.id = d.study_id
WHERE d.state = 'running'
ORDER BY seconds DESC LIMIT 200

-- name: queues
SELECT s.id AS study, s.name, s.state,
       count(*) FILTER (WHERE e.state = 'queued') AS queued,
       count(*) FILTER (WHERE e.state = 'running') AS running
FROM evaluation e
JOIN trial t ON t.id = e.trial_id
JOIN study s ON s.id = t.study_id
WHERE e.state IN ('queued', 'running')
GROUP BY s.id ORDER BY s.id

-- name: publishing
SELECT count(*) FILTER (WHERE state = 'queued') AS queued,
       count(*) FILTER (WHERE state = 'publishing') AS running FROM artefact

-- name: studies_of_pools
SELECT pool_id AS pool, count(*) AS studies FROM study GROUP BY 1

-- name: studies_of_suite
SELECT s.id, s.name FROM study s
WHERE EXISTS (SELECT 1 FROM study_suite x JOIN suite u ON u.id = x.suite_id
              WHERE x.study_id = s.id AND u.name = %(name)s)
ORDER BY s.id DESC

-- name: flight
-- What runs of one study right now; `share` counts in evaluations, of which descents are none.
SELECT count(*) + (SELECT count(*) FROM descent d
                   WHERE d.study_id = %(study)s AND d.state = 'running') AS running,
       coalesce(sum(e.progress), 0)::float8 AS share
FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND t.role <> 'probe' AND e.state = 'running'

-- name: tokens_per_item
-- Of the newest evaluations of a pool's checkpoints on a suite, whatever study they were for.
SELECT sum((p.cost->>'tokens')::float8) AS tokens, sum(p.n)::float8 AS items
FROM (SELECT p.cost, p.n FROM prediction p
      JOIN trial t ON t.id = p.trial_id JOIN study s ON s.id = t.study_id
      WHERE p.suite_id = %(suite)s AND s.pool_id = %(pool)s AND p.split <> 'test'
        AND p.cost ? 'tokens'
      ORDER BY p.created_at DESC LIMIT 20) p

-- name: hours
-- Worker-hours of every study: seconds of evaluations and descents that have ended.
SELECT study, sum(seconds) / 3600 AS hours FROM (
    SELECT t.study_id AS study, (e.cost->>'seconds')::float8 AS seconds
    FROM evaluation e JOIN trial t ON t.id = e.trial_id WHERE e.cost ? 'seconds'
    UNION ALL
    SELECT d.study_id, (d.cost->>'seconds')::float8 FROM descent d WHERE d.cost ? 'seconds') s
GROUP BY 1

-- name: fronts
-- Of every study: the feasible front of the search split, and the baselines, whose worst values are
-- the hypervolume's reference point.
SELECT t.study_id AS study, t.role IN ('reference', 'single', 'uniform') AS baseline, e.objectives,
       e.violation
FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE e.split = 'search' AND e.told_at IS NOT NULL
  AND ((e.rank = 1 AND e.violation <= 0) OR t.role IN ('reference', 'single', 'uniform'))

-- name: throughput
-- Tokens a second of every worker over its latest evaluations within a day.
SELECT worker, sum(tokens) / nullif(sum(seconds), 0) AS tokens_per_second FROM (
    SELECT e.worker, (e.cost->>'tokens')::float8 AS tokens, (e.cost->>'seconds')::float8 AS seconds,
           row_number() OVER (PARTITION BY e.worker ORDER BY e.finished_at DESC) AS age
    FROM evaluation e
    WHERE e.finished_at > clock_timestamp() - interval '1 day' AND e.cost ? 'tokens') e
WHERE age <= 20 GROUP BY 1
