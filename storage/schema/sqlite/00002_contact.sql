-- Consent before contact with people of other servers: what lets their messages
-- in, who asked to be accepted, and who may not ask.

-- +goose Up

CREATE TABLE delivery_tokens (
    user_no  INTEGER PRIMARY KEY,
    token    BLOB    NOT NULL,
    previous BLOB    NOT NULL,
    until    INTEGER NOT NULL
) STRICT;

CREATE INDEX delivery_tokens_until ON delivery_tokens (until) WHERE until > 0;

-- Knocks of people here. A closed one stays until its end, so that a repeat of
-- the request gets its first answer.
CREATE TABLE knocks (
    id_index      BLOB    NOT NULL PRIMARY KEY,
    user_no       INTEGER NOT NULL,
    peer          TEXT    NOT NULL,
    address_index BLOB    NOT NULL,
    created       INTEGER NOT NULL,
    expires       INTEGER NOT NULL,
    closed        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX knocks_user ON knocks (user_no, address_index);
CREATE INDEX knocks_expires ON knocks (expires);

-- Knocks that a peer has handed over and that nobody has looked at yet: for
-- whom they are is found out after the peer has its answer.
CREATE TABLE arrived_knocks (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,
    peer    TEXT    NOT NULL,
    seal_id BLOB    NOT NULL,
    payload BLOB    NOT NULL
) STRICT;

CREATE INDEX arrived_knocks_peer ON arrived_knocks (peer);

-- Knocks at people here that their devices were told of.
CREATE TABLE received_knocks (
    id_index       BLOB    NOT NULL PRIMARY KEY,
    user_no        INTEGER NOT NULL,
    peer           TEXT    NOT NULL,
    stranger_index BLOB    NOT NULL,
    stranger       BLOB    NOT NULL,
    expires        INTEGER NOT NULL,
    closed         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX received_knocks_user ON received_knocks (user_no, peer, stranger_index);
CREATE INDEX received_knocks_expires ON received_knocks (expires);

CREATE TABLE blocks (
    user_no     INTEGER NOT NULL,
    block_index BLOB    NOT NULL,
    name        BLOB    NOT NULL,
    PRIMARY KEY (user_no, block_index)
) STRICT, WITHOUT ROWID;

-- +goose Down

DROP TABLE blocks;
DROP TABLE received_knocks;
DROP TABLE arrived_knocks;
DROP TABLE knocks;
DROP TABLE delivery_tokens;
