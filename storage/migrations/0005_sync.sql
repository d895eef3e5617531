-- What only reading needs: stored filters, and the way from a user to the history of their memberships.

-- filter_id is made from the filter's content, so that storing an equal filter again finds the row that is there.
CREATE TABLE filters (
    user_nid  bigint NOT NULL,
    filter_id text COLLATE "C" NOT NULL,
    filter    bytea NOT NULL,
    PRIMARY KEY (user_nid, filter_id)
);

-- Which rooms a user's membership changed in between two points of the stream, and what it was before.
CREATE INDEX events_member ON events (state_key_nid, event_nid) WHERE type = 'm.room.member';
