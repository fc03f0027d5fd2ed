-- name: study
-- What a report says of a study beside what `Study` holds.
SELECT s.code_version, s.created_at, s.finished_at, p.digest AS pool_digest
FROM study s JOIN pool p ON p.id = s.pool_id WHERE s.id = %(study)s
