-- Searches with gradients: one row a descent, claimed and fenced as evaluations are. What comes out
-- is a recipe, which enters the study as a candidate like any other.

CREATE TABLE descent (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    number int NOT NULL,
    -- share of each aim of the study in what is lowered
    preference float8[] NOT NULL,
    -- everything that decides what is computed
    job jsonb NOT NULL,
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'complete', 'failed', 'abandoned', 'cancelled')),
    -- every claim counts one up and fences all writes; attempt - forgiven is held against the cap
    attempt int NOT NULL DEFAULT 0,
    forgiven int NOT NULL DEFAULT 0,
    worker text,
    lease_until timestamptz,
    progress real NOT NULL DEFAULT 0,
    -- where it stands: coefficients and Adam's moments after `step` steps; gone once it is complete
    step int NOT NULL DEFAULT 0,
    memory bytea,
    recipe jsonb,
    -- one number per parent: the mean of its coefficients
    weights float8[],
    -- items forwards and backwards, items that teachers read, steps, tokens, seconds, loss
    cost jsonb NOT NULL DEFAULT '{}',
    error text,
    queued_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    UNIQUE (study_id, number),
    CHECK (state <> 'running' OR lease_until IS NOT NULL),
    CHECK (state <> 'complete' OR (recipe IS NOT NULL AND weights IS NOT NULL))
);
CREATE INDEX descent_open ON descent (state, lease_until) WHERE state IN ('queued', 'running');

-- what a descent found before another searcher begins
ALTER TABLE trial DROP CONSTRAINT trial_role_check;
ALTER TABLE trial ADD CONSTRAINT trial_role_check
    CHECK (role IN ('reference', 'single', 'uniform', 'greedy', 'warm', 'search'));

ALTER TABLE outbox DROP CONSTRAINT outbox_topic_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_topic_check
    CHECK (topic IN ('advance', 'evaluate', 'publish', 'descend'));
