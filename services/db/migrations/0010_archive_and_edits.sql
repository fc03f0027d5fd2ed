-- Archived studies are hidden from the list unless asked for; nothing else changes for them.
ALTER TABLE study ADD COLUMN archived_at timestamptz;

-- The spec as it was submitted, once its budget or parallelism was edited: submitting it again with
-- the same key is still the same submission. NULL: never edited.
ALTER TABLE study ADD COLUMN submitted_spec jsonb;
