-- What other servers send, until it is written to its room.

-- Events of transactions that were answered and are not processed yet. staged_id is the order of arrival.
CREATE TABLE federation_inbound (
    staged_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_nid    bigint NOT NULL,
    event_id    text COLLATE "C" NOT NULL,
    -- The server that sent it, which is asked for what is missing.
    origin      text COLLATE "C" NOT NULL,
    received_ts bigint NOT NULL,
    json        bytea NOT NULL
);
CREATE INDEX federation_inbound_room ON federation_inbound (room_nid, staged_id);
CREATE INDEX federation_inbound_origin ON federation_inbound (origin);

-- The rooms of such events, each with the process that writes them to the room: a lease, given and renewed for many rooms
-- at once. A row is there while there is something to do.
CREATE TABLE federation_inbound_rooms (
    room_nid   bigint PRIMARY KEY,
    holder     text COLLATE "C" NOT NULL,
    -- Grows whenever the room changes hands.
    token      bigint NOT NULL,
    -- Counts the transactions that brought events, so that a holder who has found none left gives the room up only if
    -- none came since.
    changes    bigint NOT NULL,
    expires_ts bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX federation_inbound_rooms_expiry ON federation_inbound_rooms (expires_ts);

-- Transactions that were answered, so that one that comes again is answered alike.
CREATE TABLE federation_transactions (
    origin      text COLLATE "C" NOT NULL,
    txn_id      text COLLATE "C" NOT NULL,
    received_ts bigint NOT NULL,
    response    bytea NOT NULL,
    PRIMARY KEY (origin, txn_id)
);
CREATE INDEX federation_transactions_age ON federation_transactions (received_ts);
