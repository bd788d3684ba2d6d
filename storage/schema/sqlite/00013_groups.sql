-- Groups: their signed operations, and beside them, apart and erasable, who
-- their members are.

-- +goose Up
CREATE TABLE groups (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,
    id      BLOB    NOT NULL UNIQUE,
    hub     TEXT    NOT NULL,
    epoch   INTEGER NOT NULL,
    head    BLOB    NOT NULL,
    state   TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;

CREATE TABLE group_ops (
    group_no INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    op       BLOB    NOT NULL,
    PRIMARY KEY (group_no, epoch)
) STRICT;

-- Who a member is. user_no is 0 for people of other servers.
CREATE TABLE group_members (
    group_no   INTEGER NOT NULL,
    member     BLOB    NOT NULL,
    user_no    INTEGER NOT NULL,
    user_index BLOB    NOT NULL,
    opening    BLOB    NOT NULL,
    PRIMARY KEY (group_no, member)
) STRICT;

CREATE INDEX group_members_user ON group_members (user_no) WHERE user_no > 0;
CREATE INDEX group_members_index ON group_members (user_index);

-- Operations that a hub has handed over and that were not verified yet.
CREATE TABLE group_arrivals (
    no       INTEGER PRIMARY KEY AUTOINCREMENT,
    peer     TEXT    NOT NULL,
    arrived  INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    seal_id  BLOB    NOT NULL,
    payload  BLOB    NOT NULL
) STRICT;

CREATE INDEX group_arrivals_peer ON group_arrivals (peer);
CREATE INDEX group_arrivals_due ON group_arrivals (due);

-- +goose Down
DROP TABLE group_arrivals;
DROP TABLE group_members;
DROP TABLE group_ops;
DROP TABLE groups;
