package fullstate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
)

const (
	// nodesAtOnce is how many nodes of a tree are written in one statement, fillAtOnce how many pieces of current state in
	// one transaction, which holds the head of the room.
	nodesAtOnce = 1000
	fillAtOnce  = 500
)

// errEntered says that the room was entered anew meanwhile, or that this server is in it no more.
var errEntered = errors.New("the room is not the one that was entered")

// Complete makes the state of a room whole. state is the whole state before the join by which the room was entered, its
// events stored; it is not looked at where an earlier call has noted it.
func (s *Service) Complete(ctx context.Context, p *storage.PartialRoom, state []statetree.Entry) error {
	if s.writer == nil {
		return errors.New("complete a room: this process does not write the stream")
	}
	steps := []struct {
		what string
		do   func(context.Context, *storage.PartialRoom) error
	}{{"switch states", s.switchStates}, {"fill current state", s.fill}, {"finish", s.finish}}
	if p.FullRoot.IsZero() {
		if err := s.build(ctx, p, state); err != nil {
			return fmt.Errorf("complete room %d: write state: %w", p.RoomNID, err)
		}
	}
	for _, step := range steps {
		if err := step.do(ctx, p); errors.Is(err, errEntered) {
			return nil
		} else if err != nil {
			return fmt.Errorf("complete room %d: %s: %w", p.RoomNID, step.what, err)
		}
	}
	s.whole(p.RoomNID)
	return nil
}

// build writes the tree of the whole state. What was known and is not in it stays: the events of the join's own auth chain.
func (s *Service) build(ctx context.Context, p *storage.PartialRoom, state []statetree.Entry) error {
	root, nodes := statetree.Build(state)
	if err := s.writeNodes(ctx, nodes); err != nil {
		return err
	}
	if err := storage.SetFullRoot(ctx, s.cfg.DB, p, root); err != nil {
		return err
	}
	p.FullRoot = root
	return nil
}

func (s *Service) writeNodes(ctx context.Context, nodes []*statetree.Node) error {
	for part := range slices.Chunk(nodes, nodesAtOnce) {
		if err := storage.InsertStateNodes(ctx, s.cfg.DB, part); err != nil {
			return err
		}
	}
	s.store.Nodes().Remember(nodes)
	return nil
}

// translate puts the changes that lead from the known part to a state on top of the whole.
func (s *Service) translate(ctx context.Context, p *storage.PartialRoom, root statetree.Hash) (statetree.Hash, error) {
	diff, err := statetree.Diff(ctx, s.store.Nodes(), p.KnownRoot, root)
	if err != nil {
		return statetree.Hash{}, err
	}
	entries := make([]statetree.Entry, len(diff))
	for i, d := range diff {
		entries[i] = statetree.Entry{Key: d.Key, Value: d.B}
	}
	whole, nodes, err := statetree.Apply(ctx, s.store.Nodes(), p.FullRoot, entries)
	if err != nil {
		return statetree.Hash{}, err
	}
	return whole, s.writeNodes(ctx, nodes)
}

// switchStates puts whole states in place of those of the events since the join.
func (s *Service) switchStates(ctx context.Context, p *storage.PartialRoom) error {
	if p.Switched {
		return nil
	}
	whole := make(map[statetree.Hash]statetree.Hash)
	translate := func(ctx context.Context, q storage.Querier, more ...statetree.Hash) error {
		roots, err := storage.RootsSince(ctx, q, p.RoomNID, p.JoinNID)
		if err != nil {
			return err
		}
		for _, root := range append(roots, more...) {
			if _, done := whole[root]; done {
				continue
			}
			if whole[root], err = s.translate(ctx, p, root); err != nil {
				return err
			}
		}
		return nil
	}
	// Most of them before the room is held.
	if err := translate(ctx, s.cfg.DB); err != nil {
		return err
	}
	err := storage.InTx(ctx, s.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
		head, err := s.lock(ctx, tx, p)
		if err != nil {
			return err
		}
		var current statetree.Hash
		copy(current[:], head.StateRoot)
		if err := translate(ctx, tx, current); err != nil {
			return err
		}
		from, to := make([]statetree.Hash, 0, len(whole)), make([]statetree.Hash, 0, len(whole))
		for f, t := range whole {
			if f != t {
				from, to = append(from, f), append(to, t)
			}
		}
		return storage.SwitchRoots(ctx, tx, p, from, to, whole[current])
	})
	if err != nil {
		return err
	}
	p.Switched = true
	s.store.ForgetRoom(p.RoomNID)
	return nil
}

// lock locks the head of the room, and looks whether the room is still as it was entered.
func (s *Service) lock(ctx context.Context, tx *storage.Tx, p *storage.PartialRoom) (storage.RoomHead, error) {
	head, err := storage.LockHead(ctx, tx, p.RoomNID)
	if errors.Is(err, storage.ErrNotFound) {
		return head, errEntered
	}
	if err != nil {
		return head, err
	}
	now, err := storage.GetPartialRoom(ctx, tx, p.RoomNID)
	if err == nil && (now == nil || now.JoinNID != p.JoinNID) {
		err = errEntered
	}
	return head, err
}

// fill brings the tables of current state in line with the state of the head.
func (s *Service) fill(ctx context.Context, p *storage.PartialRoom) error {
	all, err := statetree.All(ctx, s.store.Nodes(), p.FullRoot)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(all, fillAtOnce) {
		keys := make([]storage.StateKeyNID, len(part))
		for i, e := range part {
			keys[i] = storage.StateKeyNID(e.Key)
		}
		if err := s.fillPart(ctx, p, keys); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) fillPart(ctx context.Context, p *storage.PartialRoom, keys []storage.StateKeyNID) error {
	tuples, err := s.store.Tuples(ctx, keys)
	if err != nil {
		return err
	}
	var members []string
	for _, t := range tuples {
		if t.Type == event.TypeMember {
			members = append(members, t.StateKey)
		}
	}
	users, err := s.store.InternUsers(ctx, members)
	if err != nil {
		return err
	}
	userOf := make(map[string]storage.UserNID, len(members))
	for i, m := range members {
		userOf[m] = users[i]
	}
	room, err := s.store.RoomByNID(ctx, p.RoomNID)
	if err != nil {
		return err
	}
	return storage.InTx(ctx, s.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
		head, err := s.lock(ctx, tx, p)
		if err != nil {
			return err
		}
		var root statetree.Hash
		copy(root[:], head.StateRoot)
		wanted, err := s.missing(ctx, tx, p.RoomNID, root, keys)
		if err != nil || len(wanted) == 0 {
			return err
		}
		nids := make([]storage.EventNID, 0, len(wanted))
		state := make([]storage.CurrentState, 0, len(wanted))
		for key, nid := range wanted {
			state = append(state, storage.CurrentState{RoomNID: p.RoomNID, StateKeyNID: key, EventNID: nid})
			nids = append(nids, nid)
		}
		rows, err := storage.GetEvents(ctx, tx, nids)
		if err != nil {
			return err
		}
		places := make([]storage.Member, 0, len(rows))
		for i := range rows {
			e, err := event.Load(room.Version, rows[i].EventID, rows[i].JSON)
			if err != nil {
				return fmt.Errorf("load event %s: %w", rows[i].EventID, err)
			}
			if m, ok := s.place(p.RoomNID, &rows[i], e, userOf); ok {
				places = append(places, m)
			}
		}
		return storage.WriteCurrent(ctx, tx, head, state, places)
	})
}

// missing returns the pieces of a state that the table of current state does not have, or not so.
func (s *Service) missing(ctx context.Context, tx *storage.Tx, room storage.RoomNID, root statetree.Hash, keys []storage.StateKeyNID) (map[storage.StateKeyNID]storage.EventNID, error) {
	plain := make([]int64, len(keys))
	pieces := make([]storage.CurrentState, len(keys))
	for i, k := range keys {
		plain[i], pieces[i] = int64(k), storage.CurrentState{RoomNID: room, StateKeyNID: k}
	}
	want, err := statetree.Get(ctx, s.store.Nodes(), root, plain)
	if err != nil {
		return nil, err
	}
	have, err := storage.GetCurrentPieces(ctx, tx, pieces)
	if err != nil {
		return nil, err
	}
	out := make(map[storage.StateKeyNID]storage.EventNID, len(want))
	for k, v := range want {
		out[storage.StateKeyNID(k)] = storage.EventNID(v)
	}
	for _, h := range have {
		if out[h.StateKeyNID] == h.EventNID {
			delete(out, h.StateKeyNID)
		}
	}
	return out, nil
}

// place returns the place in the room that an event gives to somebody, if it does.
func (s *Service) place(room storage.RoomNID, row *storage.Event, e *event.Event, users map[string]storage.UserNID) (storage.Member, bool) {
	user, _ := e.StateKey()
	m := storage.MembershipOf(e.Membership())
	if e.Type() != event.TypeMember || m == 0 || users[user] == 0 {
		return storage.Member{}, false
	}
	return storage.Member{
		RoomNID: room, UserNID: users[user], Membership: m, EventNID: row.NID, SenderNID: row.SenderNID, IsLocal: s.store.IsLocal(user),
		DisplayName: store.Text(e.Content(), "displayname"), AvatarURL: store.Text(e.Content(), "avatar_url"),
	}, true
}

// finish takes the mark away, and says so.
func (s *Service) finish(ctx context.Context, p *storage.PartialRoom) error {
	room, err := s.store.RoomByNID(ctx, p.RoomNID)
	if err != nil {
		return err
	}
	return s.writer.Write(ctx, 1, func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]replication.Row[streams.UnPartialStatedRoomRow], error) {
		if _, err := s.lock(ctx, tx, p); err != nil {
			return nil, err
		}
		if err := storage.Unpartial(ctx, tx, p.RoomNID, ids[0], writer); err != nil {
			return nil, err
		}
		return []replication.Row[streams.UnPartialStatedRoomRow]{{Token: ids[0], Value: streams.UnPartialStatedRoomRow{RoomID: room.ID}}}, nil
	})
}
