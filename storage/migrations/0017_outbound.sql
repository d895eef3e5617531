-- What other servers are to be sent, and how far that has come.

-- True for an event that this server tells the other servers of the room: those of its own users, and those it passes
-- on, such as a join made through it. Null for all others. Which servers an event is for follows from room_servers.
ALTER TABLE events ADD COLUMN outbound boolean;
CREATE INDEX events_outbound ON events (room_nid, event_nid) WHERE outbound;

-- When which other server was in which room: events from from_nid to until_nid are for it, both included. A server that
-- has gone keeps its rows until it has been sent what was for it. An invite or knock that came to nothing gives a row of
-- the one event that ended it. Follows memberships, by triggers.
CREATE TABLE room_servers (
    room_nid  bigint NOT NULL,
    server    text COLLATE "C" NOT NULL,
    -- The m.room.member event by which its first user came.
    from_nid  bigint NOT NULL,
    -- The one by which its last user went, NULL while it is in the room.
    until_nid bigint,
    -- How many of its users are joined.
    joined    integer NOT NULL,
    PRIMARY KEY (room_nid, server, from_nid)
) WITH (fillfactor = 80);
CREATE INDEX room_servers_server ON room_servers (server, room_nid);
CREATE INDEX room_servers_gone ON room_servers (until_nid) WHERE until_nid IS NOT NULL;

CREATE FUNCTION server_of(p_user_id text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN substr(p_user_id, strpos(p_user_id, ':') + 1);

-- Takes over changes of places in rooms, given as arrays in step: room, user, what the change adds to the joined users of
-- the server, the event that changed it (null where one is no longer part of the state), and whether it ended an invite
-- or a knock). A server of which no user is known any more stays while only part of the room's state is known: there may be
-- others.
CREATE FUNCTION change_room_servers(p_rooms bigint[], p_users bigint[], p_adds integer[], p_events bigint[], p_ended boolean[])
RETURNS void LANGUAGE sql AS $$
    WITH c AS (
        SELECT n.room_nid, server_of(u.user_id) AS server, sum(n.adds)::integer AS adds, min(n.event_nid) AS came,
            max(n.event_nid) AS went, max(n.event_nid) FILTER (WHERE n.ended) AS ended, max(h.last_event_nid) AS newest,
            bool_or(p.room_nid IS NOT NULL) AS partial
        FROM unnest(p_rooms, p_users, p_adds, p_events, p_ended) AS n(room_nid, user_nid, adds, event_nid, ended)
        JOIN user_ids u USING (user_nid)
        LEFT JOIN room_heads h USING (room_nid)
        LEFT JOIN partial_rooms p USING (room_nid)
        GROUP BY 1, 2
    ), counted AS (
        UPDATE room_servers s SET joined = greatest(s.joined + c.adds, 0),
            until_nid = CASE WHEN s.joined + c.adds <= 0 AND NOT c.partial THEN
                CASE WHEN c.went > s.from_nid THEN c.went ELSE greatest(c.newest, s.from_nid) END END
        FROM c WHERE s.room_nid = c.room_nid AND s.server = c.server AND s.until_nid IS NULL AND c.adds <> 0
        RETURNING s.room_nid, s.server
    ), came AS (
        -- Whoever comes by an event of the past, as when this server joins the room, comes with the newest event.
        INSERT INTO room_servers (room_nid, server, from_nid, joined)
        SELECT c.room_nid, c.server, CASE WHEN c.came > 0 THEN c.came ELSE coalesce(c.newest, c.came) END, c.adds
        FROM c WHERE c.adds > 0 AND NOT EXISTS (SELECT FROM counted d WHERE d.room_nid = c.room_nid AND d.server = c.server)
        ON CONFLICT (room_nid, server, from_nid) DO UPDATE SET joined = excluded.joined, until_nid = NULL
    )
    INSERT INTO room_servers (room_nid, server, from_nid, until_nid, joined)
    SELECT c.room_nid, c.server, c.ended, c.ended, 0
    FROM c WHERE c.ended IS NOT NULL AND c.adds <= 0
        AND NOT EXISTS (SELECT FROM room_servers s WHERE s.room_nid = c.room_nid AND s.server = c.server AND s.until_nid IS NULL)
    ON CONFLICT (room_nid, server, from_nid) DO NOTHING
$$;

CREATE FUNCTION follow_room_servers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    -- The places of other servers' users only, and only where something changes for their servers.
    CASE TG_OP
    WHEN 'INSERT' THEN
        SELECT array_agg(n.room_nid) AS rooms, array_agg(n.user_nid) AS users, array_agg(1) AS adds, array_agg(n.event_nid) AS events,
            array_agg(false) AS ended
        INTO c FROM after n WHERE NOT n.is_local AND n.membership = 2;
    WHEN 'UPDATE' THEN
        SELECT array_agg(n.room_nid) AS rooms, array_agg(n.user_nid) AS users,
            array_agg((n.membership = 2)::integer - (o.membership = 2)::integer) AS adds, array_agg(n.event_nid) AS events,
            array_agg(o.membership IN (1, 3) AND n.membership IN (4, 5)) AS ended
        INTO c FROM after n JOIN before o USING (room_nid, user_nid)
        WHERE NOT n.is_local AND ((n.membership = 2) <> (o.membership = 2) OR o.membership IN (1, 3) AND n.membership IN (4, 5));
    ELSE
        SELECT array_agg(o.room_nid) AS rooms, array_agg(o.user_nid) AS users, array_agg(-1) AS adds,
            array_agg(NULL::bigint) AS events, array_agg(false) AS ended
        INTO c FROM before o WHERE NOT o.is_local AND o.membership = 2;
    END CASE;
    IF c.rooms IS NOT NULL THEN
        PERFORM change_room_servers(c.rooms, c.users, c.adds, c.events, c.ended);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER memberships_came AFTER INSERT ON memberships
    REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION follow_room_servers();
CREATE TRIGGER memberships_changed AFTER UPDATE ON memberships
    REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION follow_room_servers();
CREATE TRIGGER memberships_gone AFTER DELETE ON memberships
    REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION follow_room_servers();

INSERT INTO room_servers (room_nid, server, from_nid, joined)
SELECT m.room_nid, server_of(u.user_id), min(m.event_nid), count(*)
FROM memberships m JOIN user_ids u USING (user_nid)
WHERE NOT m.is_local AND m.membership = 2 GROUP BY 1, 2;

-- While only part of a room's state is known, events are for the servers that the one which helped with the join has
-- named, too. One that has no users that are known counts none of them: once the state is whole, it is not there.
CREATE FUNCTION follow_partial_rooms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE room_servers s SET until_nid = greatest(s.from_nid, h.last_event_nid)
        FROM room_heads h
        WHERE s.room_nid = OLD.room_nid AND h.room_nid = OLD.room_nid AND s.until_nid IS NULL AND s.joined = 0;
        RETURN NULL;
    END IF;
    INSERT INTO room_servers (room_nid, server, from_nid, joined)
    SELECT NEW.room_nid, n.server, NEW.join_nid, 0
    FROM (SELECT DISTINCT server FROM unnest(NEW.servers || NEW.via) AS u(server)) n
    WHERE NOT EXISTS (SELECT FROM room_servers s WHERE s.room_nid = NEW.room_nid AND s.server = n.server AND s.until_nid IS NULL)
    ON CONFLICT (room_nid, server, from_nid) DO UPDATE SET until_nid = NULL;
    RETURN NULL;
END
$$;

CREATE TRIGGER partial_rooms_named AFTER INSERT OR UPDATE OF servers, join_nid ON partial_rooms
    FOR EACH ROW EXECUTE FUNCTION follow_partial_rooms();
CREATE TRIGGER partial_rooms_whole AFTER DELETE ON partial_rooms
    FOR EACH ROW EXECUTE FUNCTION follow_partial_rooms();

INSERT INTO room_servers (room_nid, server, from_nid, joined)
SELECT DISTINCT p.room_nid, n.server, p.join_nid, 0
FROM partial_rooms p CROSS JOIN LATERAL unnest(p.servers || p.via) AS n(server)
WHERE NOT EXISTS (SELECT FROM room_servers s WHERE s.room_nid = p.room_nid AND s.server = n.server AND s.until_nid IS NULL)
ON CONFLICT DO NOTHING;

-- How far another server has been sent what is for it.
CREATE TABLE outbound_cursors (
    destination text COLLATE "C" PRIMARY KEY,
    -- Every event up to here has been sent, or was passed over as the newer ones of the room stand for it.
    sent_nid    bigint NOT NULL,
    -- The transaction under way, so that it is the same when it is sent again after a crash: its id, when it was made, in
    -- milliseconds since the epoch, and its events.
    txn_id      text COLLATE "C",
    txn_ts      bigint,
    txn_nids    bigint[]
) WITH (fillfactor = 50);

-- The processes that send, which divide the destinations among them. One that has not renewed its row is gone.
CREATE TABLE federation_senders (
    instance   text COLLATE "C" PRIMARY KEY,
    expires_ts bigint NOT NULL
) WITH (fillfactor = 50);
