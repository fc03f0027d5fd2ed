-- How a checkpoint reads a suite's texts and others of the same form: signs that it has seen the
-- suite. Rows are added, never changed; the newest of a checkpoint, suite and reference counts.
CREATE TABLE leakage (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    checkpoint_digest text NOT NULL REFERENCES checkpoint,
    suite_id bigint NOT NULL REFERENCES suite,
    -- name and SHA-256 of the file that the suite was compared with
    against text NOT NULL,
    against_digest text NOT NULL CHECK (against_digest ~ '^[0-9a-f]{64}$'),
    -- items of the open splits, and texts of the file, that were read
    n int NOT NULL CHECK (n > 0),
    others int NOT NULL CHECK (others > 0),
    paired boolean NOT NULL,
    -- {"own", "other", "easier", "low", "high"}: nats per token, and share of 5-grams that greedy
    -- decoding gives
    nats jsonb NOT NULL,
    grams jsonb NOT NULL,
    -- the figures by which the suite's texts are certainly easier; empty: no sign
    signs text[] NOT NULL CHECK (signs <@ ARRAY['perplexity', '5-grams']),
    code_version text NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX leakage_newest ON leakage (checkpoint_digest, suite_id, against_digest, id);
