-- Where Tidegate keeps progress and dead letters. The text in braces is filled in with names.
CREATE TABLE IF NOT EXISTS {version} (version INTEGER NOT NULL);
INSERT INTO {version} (version) SELECT {number} WHERE NOT EXISTS (SELECT 1 FROM {version});
CREATE TABLE IF NOT EXISTS {progress} (
    group_id         TEXT    NOT NULL,
    topic            TEXT    NOT NULL,
    partition        INTEGER NOT NULL,
    next_offset      INTEGER NOT NULL, -- the next offset to read
    claim            INTEGER NOT NULL, -- grows with every claim: fences earlier owners
    owner            TEXT,             -- who claimed it last
    topic_id         BLOB,             -- the incarnation of the topic, if known
    reset_generation INTEGER NOT NULL DEFAULT 0,
    updated_at       TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (group_id, topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {dead_letter} (
    id           INTEGER PRIMARY KEY,
    group_id     TEXT    NOT NULL,
    topic        TEXT    NOT NULL,
    partition    INTEGER NOT NULL,
    "offset"     INTEGER NOT NULL,
    timestamp    INTEGER,              -- the broker's, in milliseconds since 1970
    key          BLOB,
    value        BLOB,                 -- NULL also when it was left out because it was refused
    headers      TEXT    NOT NULL,     -- a JSON array in the order of the record
    reason       TEXT    NOT NULL,
    error        TEXT    NOT NULL,
    attempts     INTEGER NOT NULL,
    value_size   INTEGER,
    value_hash   TEXT,                 -- FNV-1a, 64 bits, in hexadecimal
    at           TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
