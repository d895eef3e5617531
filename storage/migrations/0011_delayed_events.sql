-- Events that users have asked to be sent later (MSC4140), and for a while what became of them.

CREATE TABLE delayed_events (
    -- Whoever knows it may send, restart or cancel the event.
    delay_id         text COLLATE "C" PRIMARY KEY,
    user_nid         bigint NOT NULL,
    device_id        text COLLATE "C" NOT NULL,
    txn_id           text COLLATE "C",
    room_id          text COLLATE "C" NOT NULL,
    type             text COLLATE "C" NOT NULL,
    state_key        text COLLATE "C",
    content          bytea NOT NULL,
    -- The time of the event, where an application service has set it; otherwise that of its sending.
    origin_server_ts bigint,
    -- Milliseconds; the event is sent at running_since + delay.
    delay            bigint NOT NULL,
    running_since    bigint NOT NULL,
    send_ts          bigint NOT NULL,
    -- Nobody else takes the row before this; a process that died while it sent leaves it to run out.
    claimed_until_ts bigint NOT NULL DEFAULT 0,
    -- After a failure that may pass: how many there were, and when to try again.
    attempts         integer NOT NULL DEFAULT 0,
    retry_ts         bigint NOT NULL DEFAULT 0,
    -- Set once the event was sent (event_id), cancelled, or refused (error, as clients see it).
    finalised_ts     bigint,
    event_id         text COLLATE "C",
    error            bytea
);
CREATE INDEX delayed_events_due ON delayed_events (send_ts) WHERE finalised_ts IS NULL;
CREATE INDEX delayed_events_user ON delayed_events (user_nid, send_ts);
CREATE UNIQUE INDEX delayed_events_txn ON delayed_events (user_nid, device_id, room_id, txn_id) WHERE txn_id IS NOT NULL;
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_ts) WHERE finalised_ts IS NOT NULL;
