-- name: one_moment
-- What is read in pieces must be of one moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY

-- name: scan
-- Everything that may change of the trials of one split, packed: number, id, rank (0: none), place
-- of the state in `states`, whether it was told. `split` is always named by the caller.
SELECT coalesce(string_agg(
           int4send(t.number) || int8send(t.id) || int4send(coalesce(e.rank, 0))
           || int4send(array_position(%(states)s::text[], e.state))
           || int4send((e.told_at IS NOT NULL)::int), ''::bytea), ''::bytea) AS packed
FROM trial t JOIN evaluation e ON e.trial_id = t.id AND e.split = %(split)s
WHERE t.study_id = %(study)s AND t.role = ANY(%(roles)s::text[])

-- name: trials
-- Of these trials, or of all where `ids` is NULL.
SELECT t.number, t.id, t.role, t.slot, t.label, t.weights, t.recipe_digest, e.id AS evaluation_id,
       e.state, extract(epoch FROM e.told_at)::float8 AS told_at, e.objectives, e.violation,
       e.error, e.race, (e.cost->>'items')::float8 AS items
FROM trial t JOIN evaluation e ON e.trial_id = t.id AND e.split = %(split)s
WHERE t.study_id = %(study)s AND t.role = ANY(%(roles)s::text[])
  AND (%(ids)s::bigint[] IS NULL OR t.id = ANY(%(ids)s::bigint[]))

-- name: metrics
-- Metrics of these trials, or of all where `ids` is NULL, packed: one row a metric.
SELECT m.suite, m.name,
       string_agg(int8send(m.trial_id) || float8send(coalesce(m.value, 'NaN'))
                  || float8send(coalesce(m.low, 'NaN')) || float8send(coalesce(m.high, 'NaN'))
                  || int4send(m.n), ''::bytea) AS packed
FROM metric m JOIN trial t ON t.id = m.trial_id
WHERE t.study_id = %(study)s AND m.split = %(split)s
  AND (%(ids)s::bigint[] IS NULL OR m.trial_id = ANY(%(ids)s::bigint[]))
GROUP BY m.suite, m.name ORDER BY m.suite, m.name

-- name: spans
-- The newest evaluations that were begun, for a timeline.
SELECT t.number, e.split, e.state, e.worker, e.attempt,
       extract(epoch FROM e.started_at)::float8 AS started,
       extract(epoch FROM coalesce(e.finished_at, clock_timestamp()))::float8 AS finished
FROM evaluation e JOIN trial t ON t.id = e.trial_id
WHERE t.study_id = %(study)s AND e.started_at IS NOT NULL AND e.worker IS NOT NULL
ORDER BY e.started_at DESC LIMIT %(most)s
