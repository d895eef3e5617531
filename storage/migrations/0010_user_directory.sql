-- The user directory: whom people may find by name. Who may see whom is not kept here: it follows from memberships and
-- room_stats when somebody searches.

CREATE TABLE user_directory (
    user_nid      bigint PRIMARY KEY,
    is_local      boolean NOT NULL,
    -- The name everybody may see: that of the profile, or of a room anybody may look into. A name that somebody took on
    -- in a private room is not for the directory.
    display_name  text,
    avatar_url    text,
    -- The words of the localpart (A), the display name (B) and the server name (D), folded.
    words         tsvector NOT NULL,
    -- When to ask the user's server for the profile next; null where it need not be asked.
    refresh_ts    bigint,
    refresh_tries integer NOT NULL DEFAULT 0
);
CREATE INDEX user_directory_words ON user_directory USING gin (words);
CREATE INDEX user_directory_refresh ON user_directory (refresh_ts) WHERE refresh_ts IS NOT NULL;

-- Up to where in the events stream the directory has come; one row.
CREATE TABLE user_directory_progress (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    event_nid bigint NOT NULL
);
INSERT INTO user_directory_progress (event_nid) VALUES (0);
