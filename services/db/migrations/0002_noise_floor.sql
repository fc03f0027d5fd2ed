-- How one checkpoint's answers change when only the way of computing them does: the floor below
-- which flip rates mean nothing. Rows are added, never changed; the newest of a key is shown.
CREATE TABLE noise_floor (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    checkpoint_digest text NOT NULL REFERENCES checkpoint,
    suite_id bigint NOT NULL REFERENCES suite,
    -- never the sealed test split
    split text NOT NULL CHECK (split IN ('search', 'validation')),
    variant text NOT NULL CHECK (variant IN ('batching', 'dtype')),
    -- how both were computed: {"usual": {...}, "other": {...}}
    settings jsonb NOT NULL,
    n int NOT NULL CHECK (n > 0),
    -- counts of items; NULL for text suites, which have no answers
    negative_flips int CHECK (negative_flips >= 0),
    positive_flips int CHECK (positive_flips >= 0),
    changed int CHECK (changed BETWEEN negative_flips + positive_flips AND n),
    -- nats; NULL for generated answers, which have no margin
    largest_difference float8 CHECK (largest_difference >= 0 AND largest_difference < 'Infinity'),
    -- every changed answer: item, kind, margins
    flips jsonb NOT NULL DEFAULT '[]',
    code_version text NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX noise_floor_newest ON noise_floor (checkpoint_digest, suite_id, split, variant, id);
