-- +goose Up

ALTER TABLE peers ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE peers ADD COLUMN failing_since INTEGER NOT NULL DEFAULT 0;

-- Set for what was added to a queue that was deep already; the index finds its
-- senders without reading the queue, and costs others nothing.
ALTER TABLE outbox ADD COLUMN deep INTEGER NOT NULL DEFAULT 0;
CREATE INDEX outbox_fair ON outbox (peer, class, pos, deferred_until, sender_no, row_no) WHERE deep = 1;

-- What could not be delivered to a peer: metadata only.
CREATE TABLE dead_letters (
    no         INTEGER PRIMARY KEY AUTOINCREMENT,
    peer       TEXT    NOT NULL,
    class      TEXT    NOT NULL,
    code       TEXT    NOT NULL,
    sender_no  INTEGER NOT NULL,
    sender_key BLOB    NOT NULL,
    message_id BLOB    NOT NULL,
    recipient  BLOB    NOT NULL,
    accepted   INTEGER NOT NULL,
    first_try  INTEGER NOT NULL,
    last_try   INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    died       INTEGER NOT NULL
) STRICT;

CREATE INDEX dead_letters_peer ON dead_letters (peer, code);
CREATE INDEX dead_letters_message ON dead_letters (sender_no, message_id);
CREATE INDEX dead_letters_died ON dead_letters (died);

-- +goose Down

DROP TABLE dead_letters;
DROP INDEX outbox_fair;
ALTER TABLE outbox DROP COLUMN deep;
ALTER TABLE peers DROP COLUMN failing_since;
ALTER TABLE peers DROP COLUMN trouble;
