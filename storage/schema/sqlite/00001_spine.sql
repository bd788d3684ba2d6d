-- Times are milliseconds since 1970 in UTC, 0 for never. Columns named *_index
-- are keyed hashes (blind indexes). The fate of every column stands in
-- storage/datamap.go. Numbers (no) are never given twice, hence AUTOINCREMENT.

-- +goose Up

CREATE TABLE users (
    no              INTEGER PRIMARY KEY AUTOINCREMENT,
    uid             TEXT    NOT NULL UNIQUE,
    key_id          BLOB    NOT NULL,
    handle          BLOB    NOT NULL,
    handle_index    BLOB    UNIQUE,
    role            TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    password        BLOB    NOT NULL,
    device_list     BLOB    NOT NULL,
    devices_version INTEGER NOT NULL,
    notice_version  TEXT    NOT NULL,
    created         INTEGER NOT NULL
) STRICT;

CREATE TABLE resets (
    hash    BLOB    NOT NULL PRIMARY KEY,
    user_no INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX resets_user ON resets (user_no);

CREATE TABLE devices (
    no            INTEGER PRIMARY KEY AUTOINCREMENT,
    user_no       INTEGER NOT NULL,
    device_id     INTEGER NOT NULL,
    registration  INTEGER NOT NULL,
    public_key    BLOB    NOT NULL,
    name          BLOB    NOT NULL,
    added         INTEGER NOT NULL,
    last_seen_day INTEGER NOT NULL,
    removed       INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX devices_active ON devices (user_no, device_id) WHERE removed = 0;

-- The counters of a device's mailbox, apart from the device because they change
-- with every message and the device hardly ever does.
CREATE TABLE mailboxes (
    device_no   INTEGER PRIMARY KEY,
    next_seq    INTEGER NOT NULL,
    acked_seq   INTEGER NOT NULL,
    mails       INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    next_expiry INTEGER NOT NULL
) STRICT;

-- id = device_no << 32 | seq: one b-tree, in which a mailbox is a range.
CREATE TABLE mail (
    id      INTEGER PRIMARY KEY,
    expires INTEGER NOT NULL,
    wrapped BLOB    NOT NULL,
    payload BLOB    NOT NULL
) STRICT;

CREATE TABLE signed_prekeys (
    device_no     INTEGER PRIMARY KEY,
    ec_id         INTEGER NOT NULL,
    ec_public     BLOB    NOT NULL,
    ec_signature  BLOB    NOT NULL,
    kem_id        INTEGER NOT NULL,
    kem_public    BLOB    NOT NULL,
    kem_signature BLOB    NOT NULL,
    stored        INTEGER NOT NULL
) STRICT;

CREATE TABLE one_time_prekeys (
    device_no  INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    key_id     INTEGER NOT NULL,
    public_key BLOB    NOT NULL,
    signature  BLOB    NOT NULL,
    PRIMARY KEY (device_no, kind, key_id)
) STRICT;

CREATE TABLE claims (
    peer      TEXT    NOT NULL,
    claim_id  TEXT    NOT NULL,
    target_no INTEGER NOT NULL,
    answer    BLOB    NOT NULL,
    expires   INTEGER NOT NULL,
    PRIMARY KEY (peer, claim_id)
) STRICT;

CREATE INDEX claims_expires ON claims (expires);
CREATE INDEX claims_target ON claims (target_no);

CREATE TABLE sessions (
    id        TEXT    NOT NULL PRIMARY KEY,
    user_no   INTEGER NOT NULL,
    device_no INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    last_used INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    revoked   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_user ON sessions (user_no);
CREATE INDEX sessions_expires ON sessions (expires);

CREATE TABLE refresh_tokens (
    hash       BLOB    NOT NULL PRIMARY KEY,
    session_id TEXT    NOT NULL,
    expires    INTEGER NOT NULL,
    used       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

CREATE TABLE signing_keys (
    id          TEXT    NOT NULL PRIMARY KEY,
    private_key BLOB    NOT NULL,
    public_key  BLOB    NOT NULL,
    not_before  INTEGER NOT NULL,
    expires     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE invites (
    id         TEXT    NOT NULL PRIMARY KEY,
    hash       BLOB    NOT NULL UNIQUE,
    created_by INTEGER NOT NULL,
    role       TEXT    NOT NULL,
    for_handle BLOB    NOT NULL,
    created    INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    used       INTEGER NOT NULL,
    used_by    INTEGER NOT NULL,
    revoked    INTEGER NOT NULL
) STRICT;

CREATE TABLE user_consents (
    no             INTEGER PRIMARY KEY AUTOINCREMENT,
    user_no        INTEGER NOT NULL,
    purpose        TEXT    NOT NULL,
    notice_version TEXT    NOT NULL,
    notice_hash    BLOB    NOT NULL,
    language       TEXT    NOT NULL,
    action         TEXT    NOT NULL,
    at             INTEGER NOT NULL
) STRICT;

CREATE INDEX user_consents_purpose ON user_consents (user_no, purpose, no);

CREATE TABLE notice_acks (
    user_no INTEGER NOT NULL,
    version TEXT    NOT NULL,
    hash    BLOB    NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (user_no, version)
) STRICT;

CREATE TABLE audit_logs (
    no        INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    actor_no  INTEGER NOT NULL,
    role      TEXT    NOT NULL,
    action    TEXT    NOT NULL,
    object_no INTEGER NOT NULL,
    object    TEXT    NOT NULL,
    purpose   TEXT    NOT NULL,
    detail    TEXT    NOT NULL
) STRICT;

CREATE TABLE submissions (
    user_no    INTEGER NOT NULL,
    message_id BLOB    NOT NULL,
    body_hash  BLOB    NOT NULL,
    answer     BLOB    NOT NULL,
    state      TEXT    NOT NULL,
    expires    INTEGER NOT NULL,
    PRIMARY KEY (user_no, message_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX submissions_expires ON submissions (expires);

CREATE TABLE outbox (
    row_no         INTEGER PRIMARY KEY AUTOINCREMENT,
    peer           TEXT    NOT NULL,
    class          TEXT    NOT NULL,
    pos            INTEGER NOT NULL,
    deferred_until INTEGER NOT NULL,
    sender_no      INTEGER NOT NULL,
    sender_key     BLOB    NOT NULL,
    message_id     BLOB    NOT NULL,
    accepted       INTEGER NOT NULL,
    expires        INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    first_try      INTEGER NOT NULL,
    last_try       INTEGER NOT NULL,
    delayed        INTEGER NOT NULL,
    void           INTEGER NOT NULL,
    hold_key       BLOB    NOT NULL,
    wrapped        BLOB    NOT NULL,
    payload        BLOB    NOT NULL
) STRICT;

-- Undispatched items stand at pos 0 in row order, held ones behind them,
-- dispatched ones in position order.
CREATE INDEX outbox_queue ON outbox (peer, class, pos, deferred_until, row_no);
CREATE INDEX outbox_hold ON outbox (hold_key);
CREATE INDEX outbox_expires ON outbox (expires);
CREATE INDEX outbox_undelayed ON outbox (accepted) WHERE delayed = 0;

CREATE TABLE outbox_holds (
    peer     TEXT    NOT NULL,
    class    TEXT    NOT NULL,
    hold_key BLOB    NOT NULL,
    until    INTEGER NOT NULL,
    PRIMARY KEY (peer, class, hold_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE out_streams (
    peer     TEXT    NOT NULL,
    class    TEXT    NOT NULL,
    stream   BLOB    NOT NULL,
    next_pos INTEGER NOT NULL,
    fence    INTEGER NOT NULL,
    items    INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    PRIMARY KEY (peer, class)
) STRICT, WITHOUT ROWID;

CREATE TABLE in_streams (
    peer     TEXT    NOT NULL,
    class    TEXT    NOT NULL,
    stream   BLOB    NOT NULL,
    last_pos INTEGER NOT NULL,
    fence    INTEGER NOT NULL,
    answers  INTEGER NOT NULL,
    PRIMARY KEY (peer, class)
) STRICT, WITHOUT ROWID;

CREATE TABLE in_answers (
    peer      TEXT    NOT NULL,
    class     TEXT    NOT NULL,
    slot      INTEGER NOT NULL,
    stream    BLOB    NOT NULL,
    first_pos INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    answer    BLOB    NOT NULL,
    PRIMARY KEY (peer, class, slot)
) STRICT;

CREATE TABLE peers (
    server        TEXT    NOT NULL PRIMARY KEY,
    state         TEXT    NOT NULL,
    pin           BLOB    NOT NULL,
    identity_key  BLOB    NOT NULL,
    document      BLOB    NOT NULL,
    seq           INTEGER NOT NULL,
    endpoints     TEXT    NOT NULL,
    country       TEXT    NOT NULL,
    allow_private INTEGER NOT NULL,
    direction     TEXT    NOT NULL,
    clock_offset  INTEGER NOT NULL,
    last_seen     INTEGER NOT NULL,
    last_try      INTEGER NOT NULL,
    created       INTEGER NOT NULL,
    failures      INTEGER NOT NULL,
    next_try      INTEGER NOT NULL,
    last_error    TEXT    NOT NULL
) STRICT;

CREATE TABLE peer_invites (
    hash    BLOB    NOT NULL PRIMARY KEY,
    server  TEXT    NOT NULL,
    country TEXT    NOT NULL,
    expires INTEGER NOT NULL,
    used    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE remote_users (
    user_index    BLOB    NOT NULL PRIMARY KEY,
    address_index BLOB    UNIQUE,
    server        TEXT    NOT NULL,
    uid           BLOB    NOT NULL,
    handle        BLOB    NOT NULL,
    device_list   BLOB    NOT NULL,
    version       INTEGER NOT NULL,
    fetched       INTEGER NOT NULL
) STRICT;

CREATE TABLE archives (
    user_no  INTEGER PRIMARY KEY,
    next_seq INTEGER NOT NULL,
    items    INTEGER NOT NULL,
    bytes    INTEGER NOT NULL
) STRICT;

CREATE TABLE archive_items (
    user_no      INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    id           TEXT    NOT NULL,
    conversation BLOB    NOT NULL,
    body         BLOB    NOT NULL,
    size         INTEGER NOT NULL,
    created      INTEGER NOT NULL,
    PRIMARY KEY (user_no, seq)
) STRICT;

CREATE UNIQUE INDEX archive_items_id ON archive_items (user_no, id);

CREATE TABLE server_state (
    key   TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down

DROP TABLE server_state;
DROP TABLE archive_items;
DROP TABLE archives;
DROP TABLE remote_users;
DROP TABLE peer_invites;
DROP TABLE peers;
DROP TABLE in_answers;
DROP TABLE in_streams;
DROP TABLE out_streams;
DROP TABLE outbox_holds;
DROP TABLE outbox;
DROP TABLE submissions;
DROP TABLE audit_logs;
DROP TABLE notice_acks;
DROP TABLE user_consents;
DROP TABLE invites;
DROP TABLE signing_keys;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
DROP TABLE claims;
DROP TABLE one_time_prekeys;
DROP TABLE signed_prekeys;
DROP TABLE mail;
DROP TABLE mailboxes;
DROP TABLE devices;
DROP TABLE resets;
DROP TABLE users;
