-- Log-probabilities of the options of every item, float16, n rows of equal length, -inf beyond an
-- item's own. NULL: another form, or scored before they were kept.
ALTER TABLE prediction ADD COLUMN options bytea;
