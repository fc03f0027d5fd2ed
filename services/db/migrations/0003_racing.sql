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

-- What was scored of the suites that a stopped evaluation did not finish. Packed like `prediction`,
-- n items long; `seen` has a bit for each, and where it is 0 the other columns mean nothing.
CREATE TABLE seen_prediction (
    trial_id bigint NOT NULL REFERENCES trial ON DELETE CASCADE,
    suite_id bigint NOT NULL REFERENCES suite,
    attempt int NOT NULL,
    items_digest text NOT NULL,
    n int NOT NULL CHECK (n > 0),
    seen bytea NOT NULL,
    correct bytea NOT NULL,
    answer bytea NOT NULL,
    margin bytea,
    PRIMARY KEY (trial_id, suite_id)
);
