-- Suites of a fourth form: whether a model refuses what it should, and nothing else.
ALTER TABLE suite DROP CONSTRAINT suite_form_check;
ALTER TABLE suite ADD CONSTRAINT suite_form_check
    CHECK (form IN ('choice', 'exact', 'refusal', 'text'));
