-- +goose Up

ALTER TABLE peers ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE peers ADD COLUMN failing_since INTEGER NOT NULL DEFAULT 0;

-- +goose Down

ALTER TABLE peers DROP COLUMN failing_since;
ALTER TABLE peers DROP COLUMN trouble;
