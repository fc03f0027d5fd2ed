-- Results of earlier studies that a study starts from. Which ones is decided when the study is
-- submitted, so that replaying it finds the same ones; the values are its own: its objectives and
-- constraints on the stored predictions, written once its reference has been evaluated.
CREATE TABLE earlier_result (
    study_id bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    -- newest first
    position int NOT NULL,
    trial_id bigint NOT NULL REFERENCES trial,
    -- as in `evaluation`
    objectives float8[],
    violation float8,
    PRIMARY KEY (study_id, position),
    UNIQUE (study_id, trial_id),
    CHECK ((objectives IS NULL) = (violation IS NULL))
);
