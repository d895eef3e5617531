-- oldest-compatible: 5
-- The connections of simplified sliding sync (MSC4186).

CREATE TABLE sliding_sync_connections (
    connection_nid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_nid       bigint NOT NULL,
    device_id      text COLLATE "C" NOT NULL,
    conn_id        text COLLATE "C" NOT NULL,
    -- When it was last used, give or take an hour.
    used_ts        bigint NOT NULL,
    UNIQUE (user_nid, device_id, conn_id)
);
CREATE INDEX sliding_sync_connections_used ON sliding_sync_connections (used_ts);

-- What a client has been sent over a connection, as of a position it holds: a row never changes. There are two at most,
-- of the last position the client has shown to have, and of the one in the answer to it.
CREATE TABLE sliding_sync_positions (
    connection_nid bigint NOT NULL REFERENCES sliding_sync_connections ON DELETE CASCADE,
    version        bigint GENERATED ALWAYS AS IDENTITY,
    state          bytea NOT NULL,
    PRIMARY KEY (connection_nid, version)
);
