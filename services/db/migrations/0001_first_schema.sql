-- The first schema. Postgres is the only truth: every state below changes in one place,
-- guarded by the checks that stand here, and the broker only carries hints that it changed.

CREATE TABLE checkpoint (
    digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    files jsonb NOT NULL,
    config jsonb NOT NULL,
    tokenizer_digest text NOT NULL,
    dtype text NOT NULL,
    parameters bigint NOT NULL CHECK (parameters > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE pool (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,95}$'),
    digest text NOT NULL,
    reference text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE pool_member (
    pool_id bigint NOT NULL REFERENCES pool ON DELETE CASCADE,
    position int NOT NULL,
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,95}$'),
    checkpoint_digest text NOT NULL REFERENCES checkpoint,
    uri text NOT NULL,
    PRIMARY KEY (pool_id, position),
    UNIQUE (pool_id, name),
    UNIQUE (pool_id, checkpoint_digest)
);

-- A suite never changes: registering other content under the same name adds a row, and the newest
-- row of a name is what new studies get.
CREATE TABLE suite (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,95}$'),
    digest text NOT NULL,
    form text NOT NULL CHECK (form IN ('choice', 'exact', 'text')),
    items int NOT NULL CHECK (items > 0),
    search_items int NOT NULL,
    validation_items int NOT NULL,
    test_items int NOT NULL,
    settings jsonb NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (name, digest)
);

CREATE TABLE study (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text UNIQUE,
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,95}$'),
    owner text NOT NULL DEFAULT '',
    spec jsonb NOT NULL,
    pool_id bigint NOT NULL REFERENCES pool,
    reference text NOT NULL,
    code_version text NOT NULL,
    state text NOT NULL DEFAULT 'running'
        CHECK (state IN ('running', 'paused', 'finished', 'failed', 'cancelled')),
    phase text NOT NULL DEFAULT 'search'
        CHECK (phase IN ('search', 'validation', 'test', 'publish', 'done')),
    chosen_trial_id bigint,
    failure text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE study_suite (
    study_id bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    position int NOT NULL,
    suite_id bigint NOT NULL REFERENCES suite,
    PRIMARY KEY (study_id, position),
    UNIQUE (study_id, suite_id)
);

-- One candidate: a recipe and where it came from. How it did is in `evaluation`, `prediction`
-- and `metric`, always together with the split.
CREATE TABLE trial (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    number int NOT NULL,
    role text NOT NULL
        CHECK (role IN ('reference', 'single', 'uniform', 'greedy', 'search')),
    slot text NOT NULL,
    label text NOT NULL,
    weights float8[] NOT NULL,
    recipe jsonb NOT NULL,
    recipe_digest text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (study_id, number),
    UNIQUE (study_id, slot)
);

ALTER TABLE study ADD FOREIGN KEY (chosen_trial_id) REFERENCES trial;

-- One piece of work: one trial on one split. The only rows that workers claim. The columns from
-- `told_at` on are what the study was told of it: written once, but for the rank.
CREATE TABLE evaluation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trial_id bigint NOT NULL REFERENCES trial ON DELETE CASCADE,
    split text NOT NULL CHECK (split IN ('search', 'validation', 'test')),
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'complete', 'failed', 'abandoned', 'cancelled')),
    -- every claim counts one up and fences all writes; attempt - forgiven is held against the cap
    attempt int NOT NULL DEFAULT 0,
    forgiven int NOT NULL DEFAULT 0,
    worker text,
    lease_until timestamptz,
    progress real NOT NULL DEFAULT 0,
    weights_digest text,
    cost jsonb NOT NULL DEFAULT '{}',
    error text,
    queued_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    told_at timestamptz,
    -- one value per objective of the study, in the user's direction
    objectives float8[],
    -- 0 or less: feasible; else how far its constraints are missed
    violation float8,
    -- 1 is the front of the split
    rank int,
    UNIQUE (trial_id, split),
    CHECK (state <> 'running' OR lease_until IS NOT NULL),
    CHECK (state <> 'complete' OR weights_digest IS NOT NULL),
    CHECK (told_at IS NULL OR (state = 'complete' AND objectives IS NOT NULL))
);
CREATE INDEX evaluation_open ON evaluation (state, lease_until) WHERE state IN ('queued', 'running');

CREATE TABLE prediction (
    trial_id bigint NOT NULL REFERENCES trial ON DELETE CASCADE,
    split text NOT NULL CHECK (split IN ('search', 'validation', 'test')),
    suite_id bigint NOT NULL REFERENCES suite,
    attempt int NOT NULL,
    recipe_digest text NOT NULL,
    suite_digest text NOT NULL,
    items_digest text NOT NULL,
    n int NOT NULL CHECK (n > 0),
    correct bytea,
    answer bytea,
    margin bytea,
    nll bytea,
    tokens bytea,
    texts bytea,
    cost jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (trial_id, split, suite_id)
);

-- suite = '' for metrics over all suites of the study
CREATE TABLE metric (
    trial_id bigint NOT NULL REFERENCES trial ON DELETE CASCADE,
    split text NOT NULL CHECK (split IN ('search', 'validation', 'test')),
    suite text NOT NULL,
    name text NOT NULL,
    value float8 CHECK (value <> 'NaN' AND abs(value) <> 'Infinity'),
    low float8,
    high float8,
    n int NOT NULL,
    PRIMARY KEY (trial_id, split, suite, name)
);

CREATE TABLE artefact (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trial_id bigint NOT NULL REFERENCES trial ON DELETE CASCADE,
    store text NOT NULL,
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'publishing', 'published', 'failed')),
    attempt int NOT NULL DEFAULT 0,
    worker text,
    lease_until timestamptz,
    digest text,
    weights_digest text,
    bytes bigint,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    UNIQUE (trial_id, store),
    CHECK (state <> 'published' OR (digest IS NOT NULL AND weights_digest IS NOT NULL))
);

-- Written in the transaction that makes the work; relayed to the broker outside of it.
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL CHECK (topic IN ('advance', 'evaluate', 'publish')),
    subject bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Every opening of a sealed test split, by whom and what for.
CREATE TABLE test_reading (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    purpose text NOT NULL,
    trials int NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    at timestamptz NOT NULL DEFAULT now(),
    text text NOT NULL
);
CREATE INDEX event_study ON event (study_id, id);

CREATE TABLE worker (
    name text PRIMARY KEY,
    kind text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    info jsonb NOT NULL DEFAULT '{}'
);
