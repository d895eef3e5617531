-- Push rules of this server's users.

SELECT create_stream('push_rules');

-- What each user has changed about their rules: users who changed nothing have no row.
CREATE TABLE push_rules (
    user_nid   bigint PRIMARY KEY,
    stream_id  bigint NOT NULL,
    writer_nid smallint NOT NULL,
    -- JSON, see package homeserver/push.
    rules      bytea NOT NULL
);
CREATE INDEX push_rules_stream ON push_rules (writer_nid, stream_id);
