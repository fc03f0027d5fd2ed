-- Evaluations that a study is asked for after its choice, to explain or to explore it: trials of
-- their own role, on the open splits alone, which take no part in the study itself.
ALTER TABLE trial DROP CONSTRAINT trial_role_check;
ALTER TABLE trial ADD CONSTRAINT trial_role_check
    CHECK (role IN ('reference', 'single', 'uniform', 'greedy', 'warm', 'search', 'probe'));
CREATE INDEX trial_recipe ON trial (study_id, recipe_digest);

-- Probes of a finished study can be paused, though the study itself has ended.
ALTER TABLE study ADD COLUMN probes_held boolean NOT NULL DEFAULT false;

-- Whatever code asks for it: no probe on the sealed split, none before the choice.
CREATE FUNCTION check_probe() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (SELECT 1 FROM trial t JOIN study s ON s.id = t.study_id
               WHERE t.id = NEW.trial_id AND t.role = 'probe'
                 AND (NEW.split = 'test' OR s.phase NOT IN ('publish', 'done'))) THEN
        RAISE check_violation USING MESSAGE = 'a probe is for an open split, after the choice';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER probe BEFORE INSERT ON evaluation FOR EACH ROW EXECUTE FUNCTION check_probe();

-- Inner products of task vectors (checkpoint - base), streamed once from the files.
CREATE TABLE kinship (
    base_digest text NOT NULL REFERENCES checkpoint,
    -- the other checkpoints, in the order of the rows of `gram`
    digests text[] NOT NULL,
    -- values of one checkpoint
    n bigint NOT NULL CHECK (n > 0),
    -- row after row, and the sums of each vector's values
    gram float8[] NOT NULL,
    sums float8[] NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (base_digest, digests)
);
