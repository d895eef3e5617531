-- While only part of a room's state is known, events are for the servers that the one which helped with the join has
-- named, too.

-- As before, but a server of which no user is known any more stays, as long as it cannot be told whether there are others.
CREATE OR REPLACE FUNCTION change_room_servers(p_rooms bigint[], p_users bigint[], p_adds integer[], p_events bigint[], p_ended boolean[])
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

-- A server that was named and has no users that are known counts none of them: once the state is whole, it is not there.
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
