-- What events notify whom of, as running totals: how much is unread is the difference between a total now and one where the
-- reader has read up to. A message in a room of ten thousand adds a few rows, not one a member.
--
-- A subject is what is counted for: a user (user_nid, positive), or all users whose push rules come to the same in a room,
-- by a negative number that package homeserver/push makes. What a user's own rows count is by how much they differ from
-- those of the group the user is in.

CREATE TABLE push_counts (
    event_nid  bigint NOT NULL,
    subject    bigint NOT NULL,
    room_nid   bigint NOT NULL,
    -- '' for the main timeline, otherwise the event id of the thread's root.
    thread     text COLLATE "C" NOT NULL,
    -- The totals of the room, subject and thread up to this event.
    notify     bigint NOT NULL,
    highlight  bigint NOT NULL,
    -- What this event adds to them.
    notify_by    smallint NOT NULL,
    highlight_by smallint NOT NULL,
    -- What the event does: 1 it notifies, 2 it highlights.
    effect     smallint NOT NULL,
    -- True once the event is redacted and no longer counts.
    redacted   boolean NOT NULL DEFAULT false,
    -- The actions, a JSON array; null for ["notify"] and for none.
    actions    text,
    PRIMARY KEY (event_nid, subject)
);
CREATE INDEX push_counts_thread ON push_counts (room_nid, subject, thread, event_nid) INCLUDE (notify, highlight);
CREATE INDEX push_counts_room ON push_counts (room_nid, subject, event_nid) WHERE effect <> 0;
CREATE INDEX push_counts_redacted ON push_counts (room_nid, subject, thread, event_nid) WHERE redacted;

-- The last row of each room, subject and thread.
CREATE TABLE push_totals (
    room_nid  bigint NOT NULL,
    subject   bigint NOT NULL,
    thread    text COLLATE "C" NOT NULL,
    event_nid bigint NOT NULL,
    notify    bigint NOT NULL,
    highlight bigint NOT NULL,
    PRIMARY KEY (room_nid, subject, thread)
) WITH (fillfactor = 70);
CREATE INDEX push_totals_last ON push_totals (room_nid, subject, event_nid);

-- Which group a user of this server is counted with in a room from an event on. Those without a row are with the people
-- who have changed nothing about their rules.
CREATE TABLE push_groups (
    user_nid  bigint NOT NULL,
    room_nid  bigint NOT NULL,
    event_nid bigint NOT NULL,
    subject   bigint NOT NULL,
    PRIMARY KEY (user_nid, room_nid, event_nid)
);
CREATE INDEX push_groups_room ON push_groups (room_nid, user_nid, event_nid);

-- The last event that a user of this server has sent to a thread of a room, by which they have read what was before.
CREATE TABLE push_sent (
    user_nid  bigint NOT NULL,
    room_nid  bigint NOT NULL,
    thread    text COLLATE "C" NOT NULL,
    event_nid bigint NOT NULL,
    PRIMARY KEY (user_nid, room_nid, thread)
) WITH (fillfactor = 70);

-- The event by which the user's present stay in the room began; what was counted before is not theirs.
ALTER TABLE memberships ADD COLUMN joined_nid bigint NOT NULL DEFAULT 0;
UPDATE memberships SET joined_nid = event_nid WHERE membership = 2;

-- Highlights are few among what notifies, and asked for alone.
CREATE INDEX push_counts_highlights ON push_counts (room_nid, subject, event_nid) WHERE effect >= 2;

ALTER TABLE pushers ADD COLUMN pusher_nid bigint GENERATED ALWAYS AS IDENTITY;
CREATE UNIQUE INDEX pushers_nid ON pushers (pusher_nid);

-- Up to which event notifications have been queued for pushers: one row, locked by whoever goes on from there.
CREATE TABLE push_queued (
    one       boolean PRIMARY KEY CHECK (one),
    event_nid bigint NOT NULL
);
INSERT INTO push_queued SELECT true, coalesce(max(event_nid), 0) FROM events;

-- What pushers are to send.
CREATE TABLE push_queue (
    pusher_nid bigint NOT NULL,
    -- 0 for the number of unread rooms by itself.
    event_nid  bigint NOT NULL,
    -- Whose row of push_counts says what to send: the user's own or that of the group.
    subject    bigint NOT NULL,
    PRIMARY KEY (pusher_nid, event_nid)
);

-- The pushers that have something in the queue. A process that sends for one has claimed it for a while, under a number
-- that grows with each claim; what another has claimed since is not touched.
CREATE TABLE push_jobs (
    pusher_nid    bigint PRIMARY KEY,
    claim         bigint NOT NULL DEFAULT 0,
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    next_try      timestamptz NOT NULL DEFAULT now(),
    -- Null while the gateway answers.
    failing_since timestamptz,
    failures      integer NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX push_jobs_due ON push_jobs (greatest(claimed_until, next_try));
