-- What a message to many has in common is stored once: mail points to it, and
-- the last mail that is deleted takes it away.

-- +goose Up

CREATE TABLE bodies (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,
    payload BLOB    NOT NULL
) STRICT;

-- How many mails point to a body; apart from it because it changes often and
-- the body never does.
CREATE TABLE body_refs (
    body_no INTEGER PRIMARY KEY,
    refs    INTEGER NOT NULL
) STRICT;

-- 0 for mail that has everything in itself.
ALTER TABLE mail ADD COLUMN body_no INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mail ADD COLUMN body_size INTEGER NOT NULL DEFAULT 0;

-- Of a message in several parts for other servers: how many have not been
-- taken, for how many people they are, and of whom it is known that they did
-- not get it. All 0 of a message in one part.
ALTER TABLE submissions ADD COLUMN parts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE submissions ADD COLUMN people INTEGER NOT NULL DEFAULT 0;
ALTER TABLE submissions ADD COLUMN told BLOB NOT NULL DEFAULT x'';

-- One row, which changes with every change of who has which devices, so that
-- what is known of many people is compared at once.
CREATE TABLE people_version (
    n INTEGER NOT NULL
) STRICT;

INSERT INTO people_version (n) VALUES (1);

-- +goose Down

DROP TABLE people_version;
ALTER TABLE submissions DROP COLUMN told;
ALTER TABLE submissions DROP COLUMN people;
ALTER TABLE submissions DROP COLUMN parts;
ALTER TABLE mail DROP COLUMN body_size;
ALTER TABLE mail DROP COLUMN body_no;
DROP TABLE body_refs;
DROP TABLE bodies;
