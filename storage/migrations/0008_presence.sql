-- Who is online: what the presence stream's writer wrote down last, some seconds behind its memory. Users who were never
-- seen have no row.
CREATE TABLE presence (
    user_nid                  bigint PRIMARY KEY,
    -- Place of the last change in the presence stream, near its time in milliseconds.
    stream_id                 bigint NOT NULL,
    -- 0 offline, 1 unavailable, 2 online.
    state                     smallint NOT NULL,
    last_active_ts            bigint NOT NULL,
    last_federation_update_ts bigint NOT NULL,
    last_user_sync_ts         bigint NOT NULL,
    status_msg                text,
    currently_active          boolean NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX presence_stream ON presence (stream_id);
CREATE INDEX presence_here ON presence (user_nid) WHERE state <> 0;
