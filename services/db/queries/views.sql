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

-- name: flight
-- What runs of one study right now; `share` counts in evaluations, of which descents are none.
SELECT count(*) + (SELECT count(*) FROM descent d
                   WHERE d.study_id = %(study)s AND d.state = 'running') AS running,
       coalesce(sum(e.progress), 0)::float8 AS share
FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND t.role <> 'probe' AND e.state = 'running'
