-- Candidates that a race stopped before their suites were through: closed, never told, and of no
-- use but for what was seen of them.
ALTER TABLE evaluation DROP CONSTRAINT evaluation_state_check;
ALTER TABLE evaluation ADD CONSTRAINT evaluation_state_check CHECK (state IN
    ('queued', 'running', 'complete', 'stopped', 'failed', 'abandoned', 'cancelled'));

-- What a race found: whom the candidate was tested against (numbers of trials), the wealth that was
-- reached, and if it was stopped, by whom, after how many items of each suite, and between which
-- bounds its objectives lie. NULL: it was not raced.
ALTER TABLE evaluation ADD COLUMN race jsonb;
ALTER TABLE evaluation ADD CHECK
    (state <> 'stopped' OR (split = 'search' AND race ? 'by' AND race ? 'seen'));
