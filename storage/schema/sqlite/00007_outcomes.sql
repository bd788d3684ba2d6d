-- What is known of the attempts to deliver an item of the outbox: 0 nothing yet,
-- 1 the peer did not take it, 2 it refused to, 3 it may have arrived.

-- +goose Up
ALTER TABLE outbox ADD COLUMN outcome INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE outbox DROP COLUMN outcome;
