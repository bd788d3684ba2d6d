-- Messages of people here that somebody showed to their moderators, with proof.
-- Of who showed it there is the server only.

-- +goose Up
CREATE TABLE reports (
    no         INTEGER PRIMARY KEY AUTOINCREMENT,
    user_no    INTEGER NOT NULL,
    message_id BLOB    NOT NULL,
    peer       TEXT    NOT NULL,
    received   INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    body       BLOB    NOT NULL,
    UNIQUE (user_no, message_id)
) STRICT;

CREATE INDEX reports_expires ON reports (expires);

-- +goose Down
DROP TABLE reports;
