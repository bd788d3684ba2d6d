-- Keys of people of other servers that begin a session while their server is
-- away: signed prekeys and last-resort keys, never one-time keys.

-- +goose Up
CREATE TABLE keys_ahead (
    user_index BLOB    NOT NULL PRIMARY KEY,
    server     TEXT    NOT NULL,
    uid        BLOB    NOT NULL,
    bundles    BLOB    NOT NULL,
    fetched    INTEGER NOT NULL,
    used       INTEGER NOT NULL,
    due        INTEGER NOT NULL
) STRICT;

CREATE INDEX keys_ahead_due ON keys_ahead (due);

CREATE INDEX keys_ahead_used ON keys_ahead (used);

-- +goose Down
DROP TABLE keys_ahead;
