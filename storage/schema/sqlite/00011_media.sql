-- Attachments: whose an object is, how much it weighs and until when it is kept.
-- The ciphertext is in files beside the database. Of the secret that opens an
-- object to readers there is the hash only.

-- +goose Up
CREATE TABLE media (
    object  BLOB    NOT NULL PRIMARY KEY,
    user_no INTEGER NOT NULL,
    reader  BLOB    NOT NULL,
    size    INTEGER NOT NULL,
    digest  BLOB    NOT NULL,
    whole   INTEGER NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;

CREATE INDEX media_user ON media (user_no, size);

CREATE INDEX media_expires ON media (expires);

-- +goose Down
DROP TABLE media;
