package sync

import (
	"context"
	"fmt"
	"slices"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// maxHeroes is how many members stand for a room's name.
const maxHeroes = 5

// summary is the summary of a joined room.
type summary struct {
	joined, invited int
	// heroes are nil where the room has a name.
	heroes []storage.SyncHero
	stats  *storage.RoomStats
}

// fillSummaries fills the summaries of the rooms that are new to the client or whose members changed, and adds the
// heroes to the state of those who load members lazily.
func (b *builder) fillSummaries(ctx context.Context) error {
	var jobs []*job
	var rooms []storage.RoomNID
	for _, j := range b.jobs {
		if !j.left && (j.fresh || j.full || j.members) {
			jobs, rooms = append(jobs, j), append(rooms, j.nid)
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	stats, err := b.s.cfg.Store.Stats(ctx, rooms)
	if err != nil {
		return fmt.Errorf("read summaries: %w", err)
	}
	heroes, err := b.roomHeroes(ctx, jobs, stats)
	if err != nil {
		return err
	}
	var nids []storage.EventNID
	var wanting []*job
	for i, j := range jobs {
		if stats[i] == nil {
			continue
		}
		j.summary = &summary{joined: stats[i].Joined, invited: stats[i].Invited, stats: stats[i]}
		if heroes[i] == nil {
			continue
		}
		j.summary.heroes = []storage.SyncHero{}
		for _, h := range heroes[i] {
			if h.UserID == b.q.userID || len(j.summary.heroes) == maxHeroes {
				continue
			}
			j.summary.heroes = append(j.summary.heroes, h)
			if b.q.lazy && b.q.f.Room.State.AllowsRoom(j.id) && (j.full || b.q.redundant || !b.hasMember(j, h.UserID)) && !b.shows(j, h.UserID) {
				nids, wanting = append(nids, h.EventNID), append(wanting, j)
			}
		}
	}
	events, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return fmt.Errorf("read heroes: %w", err)
	}
	for i, e := range events {
		if e != nil && b.q.f.Room.State.Match(subject(e)) {
			wanting[i].state = append(wanting[i].state, item{ev: e})
			key, _ := e.StateKey()
			b.sent(wanting[i]).put(key, b.upTo())
		}
	}
	return nil
}

// shows reports whether the room's sections have a member event of a user.
func (b *builder) shows(j *job, userID string) bool {
	is := func(it item) bool { return it.ev.Tuple() == memberTuple(userID) && it.ev.IsState() }
	return slices.ContainsFunc(j.state, is) || slices.ContainsFunc(j.timeline, is)
}

// roomHeroes returns the heroes of rooms in the order of jobs, nil for those with a name. One more than is sent are kept,
// since the recipient is never one.
func (b *builder) roomHeroes(ctx context.Context, jobs []*job, stats []*storage.RoomStats) ([][]storage.SyncHero, error) {
	out := make([][]storage.SyncHero, len(jobs))
	at := map[storage.RoomNID]int{}
	var missing []storage.RoomNID
	heads, err := b.s.cfg.Store.Heads(ctx, roomsOf(jobs))
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	for i, j := range jobs {
		st := stats[i]
		if st == nil || st.Name != "" || st.CanonicalAlias != "" {
			continue
		}
		out[i] = []storage.SyncHero{}
		if heads[i] != nil {
			if h, ok := b.s.heroes.GetIfPresent(heroKey{j.nid, heads[i].StateRoot}); ok {
				out[i] = h
				continue
			}
		}
		at[j.nid] = i
		missing = append(missing, j.nid)
	}
	if len(missing) == 0 {
		return out, nil
	}
	rows, err := storage.SyncHeroes(ctx, b.s.cfg.DB, missing, maxHeroes+1)
	if err != nil {
		return nil, err
	}
	for _, h := range rows {
		out[at[h.RoomNID]] = append(out[at[h.RoomNID]], h)
	}
	for nid, i := range at {
		slices.SortFunc(out[i], func(a, b storage.SyncHero) int { return int(a.EventNID - b.EventNID) })
		if heads[i] != nil {
			b.s.heroes.Set(heroKey{nid, heads[i].StateRoot}, out[i])
		}
	}
	return out, nil
}

func roomsOf(jobs []*job) []storage.RoomNID {
	out := make([]storage.RoomNID, len(jobs))
	for i, j := range jobs {
		out[i] = j.nid
	}
	return out
}

// heroKey names the heroes of a room in one state.
type heroKey struct {
	room storage.RoomNID
	root store.Root
}
