-- Where users of this server have their notifications sent.

SELECT create_stream('pushers');

-- A pusher goes with the device whose session made it: a row whose device is gone is no pusher any more, and is not read.
CREATE TABLE pushers (
    user_nid            bigint NOT NULL,
    app_id              text COLLATE "C" NOT NULL,
    pushkey             text COLLATE "C" NOT NULL,
    stream_id           bigint NOT NULL,
    writer_nid          smallint NOT NULL,
    -- A pusher that was taken away keeps its row, so that followers hear of it.
    deleted             boolean NOT NULL,
    -- '' for sessions without a device.
    device_id           text COLLATE "C" NOT NULL,
    set_ts              bigint NOT NULL,
    kind                text NOT NULL,
    app_display_name    text NOT NULL,
    device_display_name text NOT NULL,
    profile_tag         text NOT NULL,
    lang                text NOT NULL,
    -- A JSON object.
    data                bytea NOT NULL,
    PRIMARY KEY (user_nid, app_id, pushkey)
);
CREATE INDEX pushers_key ON pushers (app_id, pushkey);
CREATE INDEX pushers_stream ON pushers (writer_nid, stream_id);
