-- Where Tidegate keeps progress and dead letters. The text in braces is filled in with names.
CREATE SCHEMA IF NOT EXISTS {prefix};
CREATE TABLE IF NOT EXISTS {version} (version integer NOT NULL);
INSERT INTO {version} (version) SELECT {number} WHERE NOT EXISTS (SELECT 1 FROM {version});
CREATE TABLE IF NOT EXISTS {progress} (
    group_id            text        NOT NULL,
    topic               text        NOT NULL,
    partition           integer     NOT NULL,
    next_offset         bigint      NOT NULL, -- the next offset to read
    claim               bigint      NOT NULL, -- grows with every claim: fences earlier owners
    owner               uuid,                 -- who claimed it last
    owner_pid           integer,              -- the owner's backend, so that a heir
    owner_backend_start timestamptz,          -- can end exactly that one
    topic_id            bytea,                -- the incarnation of the topic, if known
    reset_generation    bigint      NOT NULL DEFAULT 0,
    updated_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_id, topic, partition)
) WITH (fillfactor = 50);                     -- room to update rows in place
CREATE TABLE IF NOT EXISTS {dead_letter} (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id    text        NOT NULL,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    "offset"    bigint      NOT NULL,
    timestamp   bigint,                       -- the broker's, in milliseconds since 1970
    key         bytea,
    value       bytea,                        -- NULL also when it was left out: it was refused
    headers     jsonb       NOT NULL,         -- an array in the order of the record
    reason      text        NOT NULL,
    error       text        NOT NULL,
    attempts    integer     NOT NULL,
    value_size  bigint,
    value_hash  text,                         -- FNV-1a, 64 bits, in hexadecimal
    at          timestamptz NOT NULL DEFAULT now()
);
