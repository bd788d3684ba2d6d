-- +goose Up

-- A person's key, wrapped under the root key. Destroying one empties wrapped and
-- leaves the row: a random id that tells that there was a key, and nothing else.
CREATE TABLE person_keys (
    id        BLOB    NOT NULL PRIMARY KEY,
    wrapped   BLOB    NOT NULL,
    destroyed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row that the root key must be able to open, so that a wrong key is found
-- at the start and not with the first person.
CREATE TABLE root_check (
    no     INTEGER PRIMARY KEY CHECK (no = 1),
    sealed BLOB    NOT NULL
) STRICT;

-- +goose Down

DROP TABLE root_check;
DROP TABLE person_keys;
