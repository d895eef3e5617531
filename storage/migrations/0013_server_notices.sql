-- The room in which each user gets the server's notices. room_id is '' while it is being made; whoever makes it holds the
-- row.
CREATE TABLE server_notice_rooms (
    user_nid bigint PRIMARY KEY,
    room_id  text COLLATE "C" NOT NULL DEFAULT ''
);
