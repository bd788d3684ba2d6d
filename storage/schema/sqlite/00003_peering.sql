-- What operators do with peers: direction, features and quotas of each, who is
-- blocked, what they must look at, and how far the end of a peering has come.

-- +goose Up
ALTER TABLE peers ADD COLUMN first_use INTEGER NOT NULL DEFAULT 0;
ALTER TABLE peers ADD COLUMN probation_until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE peers ADD COLUMN features TEXT NOT NULL DEFAULT '[]';
ALTER TABLE peers ADD COLUMN envelopes_per_second INTEGER NOT NULL DEFAULT 0;
ALTER TABLE peers ADD COLUMN bytes_per_second INTEGER NOT NULL DEFAULT 0;
ALTER TABLE peers ADD COLUMN state_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE peers ADD COLUMN steps TEXT NOT NULL DEFAULT '[]';

CREATE TABLE peer_blocks (
    name    TEXT    NOT NULL PRIMARY KEY,
    reason  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_alerts (
    peer     TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    since    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    resolved INTEGER NOT NULL,
    PRIMARY KEY (peer, kind)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE peer_alerts;
DROP TABLE peer_blocks;
ALTER TABLE peers DROP COLUMN steps;
ALTER TABLE peers DROP COLUMN state_since;
ALTER TABLE peers DROP COLUMN bytes_per_second;
ALTER TABLE peers DROP COLUMN envelopes_per_second;
ALTER TABLE peers DROP COLUMN features;
ALTER TABLE peers DROP COLUMN probation_until;
ALTER TABLE peers DROP COLUMN first_use;
