-- name: study
-- What a report says of a study beside what `Study` holds.
SELECT s.code_version, s.created_at, s.finished_at, p.digest AS pool_digest
FROM study s JOIN pool p ON p.id = s.pool_id WHERE s.id = %(study)s

-- name: cost
-- What the evaluations of a study cost, split by split; failed attempts leave no cost.
SELECT e.split, count(*)::int AS evaluations,
       coalesce(sum(coalesce((e.cost->>'items')::bigint, p.items)), 0)::bigint AS items,
       coalesce(sum((e.cost->>'tokens')::bigint), 0)::bigint AS tokens,
       coalesce(sum((e.cost->>'seconds')::float8), 0)::float8 AS seconds,
       max((e.cost->>'peak_memory_bytes')::bigint) AS peak_memory_bytes
FROM evaluation e JOIN trial t ON t.id = e.trial_id
LEFT JOIN LATERAL (SELECT sum(p.n) AS items FROM prediction p
                   WHERE p.trial_id = t.id AND p.split = e.split) p ON true
WHERE t.study_id = %(study)s AND e.state IN ('complete', 'stopped')
GROUP BY e.split ORDER BY array_position(ARRAY['search', 'validation', 'test'], e.split)
