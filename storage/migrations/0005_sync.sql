-- What only reading needs: stored filters, and ways into the history that /sync takes.

-- filter_id is made from the filter's content, so that storing an equal filter again finds the row that is there.
CREATE TABLE filters (
    user_nid  bigint NOT NULL,
    filter_id text COLLATE "C" NOT NULL,
    filter    bytea NOT NULL,
    PRIMARY KEY (user_nid, filter_id)
);

-- Which rooms a user's membership changed in between two points of the stream, and what it was before.
CREATE INDEX events_member ON events (state_key_nid, room_nid, event_nid) WHERE type = 'm.room.member';

-- What changed in a room's state between two points, without reading the messages between.
CREATE INDEX events_state ON events (room_nid, event_nid) INCLUDE (state_key_nid, writer_nid) WHERE state_key_nid IS NOT NULL AND flags = 0;

-- The state of a room without its members, of which there may be many. Events of all kinds count: the state of a room joined
-- over federation is made of outliers.
CREATE INDEX events_plain_state ON events (room_nid, state_key_nid) WHERE state_key_nid IS NOT NULL AND type <> 'm.room.member';

-- The first members of a room, who stand for its name.
CREATE INDEX memberships_order ON memberships (room_nid, event_nid) WHERE membership IN (1, 2);
