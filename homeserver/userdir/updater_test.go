package userdir

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// profiles answers for other servers.
type profiles map[string]map[string]any

func (p profiles) ProfileFields(_ context.Context, userID, _ string) (map[string]any, error) {
	if fields, ok := p[userID]; ok {
		return fields, nil
	}
	return nil, errors.New("nobody is there")
}

// Users of other servers get the name of a room that everybody may see; others' names come from their servers.
func TestUsersOfOtherServers(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	ctx := t.Context()
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	ids := []string{"@me:here", "@open:there", "@closed:there", "@silent:there", "@gone:there"}
	names, err := storage.InternUsers(ctx, db, ids)
	if err != nil {
		t.Fatal(err)
	}
	nids := make([]storage.UserNID, len(names))
	for _, n := range names {
		nids[slices.Index(ids, n.ID)] = n.NID
	}
	exec(`INSERT INTO users (user_nid, created_ts) VALUES ($1, 0)`, nids[0])
	exec(`INSERT INTO profiles (user_nid, display_name) VALUES ($1, 'Me Myself')`, nids[0])
	// Room 1 is private, 2 and 3 are public.
	exec(`INSERT INTO room_stats (room_nid, join_rule) VALUES (1, 'invite'), (2, 'public'), (3, 'public')`)
	join := func(room int, user int, nid int, name string, membership storage.Membership) {
		exec(`INSERT INTO memberships (room_nid, user_nid, membership, event_nid, sender_nid, is_local, display_name)
VALUES ($1, $2, $3, $4, $2, $5, $6) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership`,
			room, nids[user], membership, nid, user == 0, name)
	}
	join(1, 0, 1, "Me Myself", storage.MembershipJoin)
	join(1, 1, 9, "Private One", storage.MembershipJoin)
	join(2, 1, 2, "Old Name", storage.MembershipJoin)
	join(3, 1, 3, "Open Name", storage.MembershipJoin)
	join(1, 2, 4, "Private Two", storage.MembershipJoin)
	join(1, 3, 5, "Private Three", storage.MembershipJoin)
	join(1, 4, 6, "Was Here", storage.MembershipLeave)

	now := time.UnixMilli(1_000_000)
	u := &Updater{wake: make(chan struct{}, 1), cfg: UpdaterConfig{
		DB: db, Now: func() time.Time { return now },
		Profiles: profiles{"@closed:there": {"displayname": "Closed\x00 Name", "avatar_url": 5}},
	}}
	apply := func() {
		t.Helper()
		err := storage.InTx(ctx, db, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error { return u.apply(ctx, tx, nids) })
		if err != nil {
			t.Fatal(err)
		}
		if err := u.profiles(ctx); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	search := func(o config.UserDirectory, who, term string) []string {
		t.Helper()
		o.Enabled = true
		s, err := New(Config{DB: db, Options: o})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Search(ctx, &requester.Requester{UserID: who}, term, 0)
		if err != nil {
			t.Fatalf("search %q: %v", term, err)
		}
		found := []string{}
		for _, u := range r.Users {
			name := ""
			if u.DisplayName != nil {
				name = *u.DisplayName
			}
			found = append(found, u.UserID+" "+name)
		}
		return found
	}
	all := config.UserDirectory{SearchAllUsers: true}
	for _, c := range []struct {
		who, term string
		o         config.UserDirectory
		want      []string
	}{
		{"@me:here", "there", config.UserDirectory{}, []string{"@closed:there Closed Name", "@open:there Open Name", "@silent:there "}},
		{"@me:here", "private", config.UserDirectory{}, []string{}},
		{"@me:here", "open", config.UserDirectory{ExcludeRemoteUsers: true}, []string{}},
		{"@me:here", "gone", all, []string{}},
		{"@me:here", "myself", all, []string{}},
		{"@stranger:here", "here", config.UserDirectory{}, []string{}},
		{"@stranger:here", "there", config.UserDirectory{}, []string{"@open:there Open Name"}},
		{"@stranger:here", "name", all, []string{"@closed:there Closed Name", "@open:there Open Name"}},
		{"@stranger:here", "m", all, []string{"@me:here Me Myself"}},
	} {
		if diff := cmp.Diff(c.want, search(c.o, c.who, c.term)); diff != "" {
			t.Errorf("%s searches %q with %+v: %s", c.who, c.term, c.o, diff)
		}
	}
	// A server that did not answer is asked again later, and less and less often.
	stale := func() int {
		t.Helper()
		list, err := storage.StaleDirectoryProfiles(ctx, db, now.UnixMilli(), 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := stale(); n != 0 {
		t.Errorf("%d profiles are due at once", n)
	}
	now = now.Add(minBackoff)
	if n := stale(); n != 1 {
		t.Errorf("%d profiles are due after a while, want that of the silent server", n)
	}
	// Who leaves the last room is forgotten; who joins a public one is known by its name.
	join(1, 2, 4, "", storage.MembershipLeave)
	join(2, 3, 7, "Silent No More", storage.MembershipJoin)
	apply()
	if diff := cmp.Diff([]string{"@open:there Open Name", "@silent:there Silent No More"}, search(all, "@me:here", "there")); diff != "" {
		t.Error(diff)
	}
}
