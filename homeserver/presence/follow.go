package presence

import (
	"context"
	"sync"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
)

// keptChanges bounds how many changes are kept for incremental syncs.
const keptChanges = 20_000

// known is what this process has heard of users over the stream.
type known struct {
	mu    sync.RWMutex
	users map[string]entry
	// changes are what a client can see changing, oldest first. They are all that happened behind floor, once floored is
	// set; of what was before only the database knows.
	changes []change
	floor   replication.Position
	floored bool
	pruneAt int64
}

type entry struct {
	row    streams.PresenceRow
	writer string
	token  int64
}

type change struct {
	userID string
	writer string
	token  int64
}

// take takes in rows and returns the users of whom a client sees a difference.
func (k *known) take(u replication.Update[streams.PresenceRow]) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var seen []string
	for _, r := range u.Rows {
		old, had := k.users[r.Value.UserID]
		k.users[r.Value.UserID] = entry{r.Value, u.Writer, r.Token}
		if had && sameToSee(&old.row, &r.Value) {
			continue
		}
		k.changes = append(k.changes, change{r.Value.UserID, u.Writer, r.Token})
		seen = append(seen, r.Value.UserID)
	}
	if over := len(k.changes) - keptChanges; over > keptChanges/4 {
		for _, c := range k.changes[:over] {
			k.floor = k.floor.Advance(c.writer, c.token)
		}
		k.changes = append([]change(nil), k.changes[over:]...)
	}
	k.prune(u.Token)
	return seen
}

// prune forgets users who have been offline for so long that the writer has written it down. Tokens are near the time.
func (k *known) prune(now int64) {
	if now < k.pruneAt {
		return
	}
	k.pruneAt = now + keepOffline.Milliseconds()
	for id, e := range k.users {
		if e.row.State == Offline && now-e.token > keepOffline.Milliseconds() {
			delete(k.users, id)
		}
	}
}

// wholeFrom notes that the rows that come are all there is behind a place of the stream.
func (k *known) wholeFrom(writer string, token int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.floored, k.floor = true, k.floor.Advance(writer, token)
}

// forget drops everything, where rows were missed for good.
func (k *known) forget(writer string, upTo int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.users)
	k.changes, k.floored = nil, true
	k.floor = k.floor.Advance(writer, upTo)
}

func (k *known) get(userID string) (streams.PresenceRow, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	e, ok := k.users[userID]
	return e.row, ok
}

// here returns the users who are not offline.
func (k *known) here() []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var out []string
	for id, e := range k.users {
		if e.row.State != Offline {
			out = append(out, id)
		}
	}
	return out
}

// changed returns the users who changed behind since, and false where that is not known any more.
func (k *known) changed(since replication.Position) (users []string, ok bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if !k.floored || !since.AtLeast(k.floor) {
		return nil, false
	}
	floor := since.Floor()
	for i := len(k.changes) - 1; i >= 0; i-- {
		c := k.changes[i]
		if c.token <= floor {
			break
		}
		if !since.Covers(c.writer, c.token) {
			users = append(users, c.userID)
		}
	}
	return users, true
}

// source asks the writer for the users who changed.
func (s *Service) source(ctx context.Context, writer string, after, upTo int64, _ int) ([]replication.Row[streams.PresenceRow], int64, error) {
	reply, err := s.updates(ctx, writer, after)
	if err != nil {
		return nil, 0, err
	}
	if started := s.started.Swap(reply.Started); started != reply.Started && s.writer == nil {
		s.tracker.again()
	}
	rows := reply.Rows
	if reply.Whole {
		s.known.wholeFrom(writer, min(reply.Forgotten, upTo))
		rows = append(s.others(rows, upTo), rows...)
	}
	// The writer may have gone on since it announced upTo; rows above that will come by themselves, and again.
	return rows, upTo, nil
}

// others returns rows that say that those are offline whom this process believes otherwise and who are not in rows.
func (s *Service) others(rows []replication.Row[streams.PresenceRow], token int64) []replication.Row[streams.PresenceRow] {
	in := make(map[string]bool, len(rows))
	for _, r := range rows {
		in[r.Value.UserID] = true
		token = min(token, r.Token)
	}
	var out []replication.Row[streams.PresenceRow]
	s.known.mu.RLock()
	defer s.known.mu.RUnlock()
	for id, e := range s.known.users {
		if e.row.State != Offline && !in[id] {
			row := e.row
			row.State, row.CurrentlyActive = Offline, false
			out = append(out, replication.Row[streams.PresenceRow]{Token: token, Value: row})
		}
	}
	return out
}
