-- oldest-compatible: 5
-- What is known of other servers: whether they can be reached, and their keys.

-- A server has a row only while something is known of it.
CREATE TABLE destinations (
    destination       text COLLATE "C" PRIMARY KEY,
    -- When it could not be reached for the first time since it last answered, NULL while it answers.
    failure_ts        bigint,
    -- When it was last tried in vain, and how long to wait from then until the next attempt.
    retry_last_ts     bigint NOT NULL DEFAULT 0,
    retry_interval_ms bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

-- The keys of other servers, and the response each was taken from as the server signed it: what a notary hands on.
CREATE TABLE server_keys (
    server         text COLLATE "C" NOT NULL,
    key_id         text COLLATE "C" NOT NULL,
    public_key     bytea NOT NULL,
    -- For a key in use the valid_until_ts of its response, for an old one when it was last used.
    valid_until_ts bigint NOT NULL,
    is_old         boolean NOT NULL,
    fetched_ts     bigint NOT NULL,
    response       bytea NOT NULL,
    PRIMARY KEY (server, key_id)
);
