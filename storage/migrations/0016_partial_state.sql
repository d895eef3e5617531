-- oldest-compatible: 5
-- Rooms that this server has entered without their members: the rest of their state is fetched while people use them.

ALTER TABLE room_heads ADD COLUMN partial boolean NOT NULL DEFAULT false;

-- A row is there as long as room_heads.partial is set.
CREATE TABLE partial_rooms (
    room_nid   bigint PRIMARY KEY,
    -- The join by which the room was entered, and the part of the state before it that was known then.
    join_nid   bigint NOT NULL,
    known_root bytea NOT NULL,
    -- The whole of that state, '' until it was fetched.
    full_root  bytea NOT NULL DEFAULT '',
    -- Whether the states of the room's events are whole; what is left then are the tables of current state.
    switched   boolean NOT NULL DEFAULT false,
    -- The server that helped with the join, and those that it said were in the room.
    via        text NOT NULL,
    servers    text[] NOT NULL
);

-- rooms.partial_state is kept in room_heads instead, beside what it is about.
ALTER TABLE rooms DROP COLUMN partial_state;

SELECT create_stream('un_partial_stated_room');

-- The rooms whose state has become whole.
CREATE TABLE un_partial_stated_rooms (
    stream_id  bigint PRIMARY KEY,
    writer_nid smallint NOT NULL,
    room_nid   bigint NOT NULL
);
CREATE INDEX un_partial_stated_rooms_writer ON un_partial_stated_rooms (writer_nid, stream_id);
