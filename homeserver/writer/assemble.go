package writer

import (
	"context"
	"fmt"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
)

// written is an event with its row.
type written struct {
	p   *pending
	row storage.Event
}

// batchNodes reads nodes of this transaction first.
type batchNodes struct {
	base  statetree.NodeReader
	nodes map[statetree.Hash]*statetree.Node
}

// ReadNodes implements statetree.NodeReader.
func (b *batchNodes) ReadNodes(ctx context.Context, hashes []statetree.Hash) ([]*statetree.Node, error) {
	out := make([]*statetree.Node, len(hashes))
	var missing []statetree.Hash
	for i, h := range hashes {
		if out[i] = b.nodes[h]; out[i] == nil {
			missing = append(missing, h)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := b.base.ReadNodes(ctx, missing)
	if err != nil {
		return nil, err
	}
	j := 0
	for i := range out {
		if out[i] == nil {
			out[i] = found[j]
			j++
		}
	}
	return out, nil
}

func (b *batchNodes) add(nodes []*statetree.Node) {
	for _, n := range nodes {
		b.nodes[n.Hash()] = n
	}
}

// assemble numbers the events of a batch, grows the state trees, and lays out the rows.
func (c *committer) assemble(ctx context.Context, batch []*share, ids []int64) (*storage.EventBatch, []*statetree.Node, error) {
	eb := &storage.EventBatch{}
	nodes := &batchNodes{base: c.w.cfg.Store.Nodes(), nodes: make(map[statetree.Hash]*statetree.Node)}
	for _, s := range batch {
		var err error
		if ids, err = c.assembleLane(ctx, eb, nodes, s, ids); err != nil {
			return nil, nil, fmt.Errorf("lay out events of room %s: %w", s.lane.roomID, err)
		}
	}
	for _, n := range nodes.nodes {
		eb.Nodes = append(eb.Nodes, n)
	}
	return eb, eb.Nodes, nil
}

func (c *committer) assembleLane(ctx context.Context, eb *storage.EventBatch, nodes *batchNodes, s *share, ids []int64) ([]int64, error) {
	room := s.lane.room
	h := s.head
	tally := newTally(room.NID, c.w.cfg.Store)
	events := 0
	for _, it := range s.items {
		if it.req.creation != nil && it.err == nil {
			eb.Rooms = append(eb.Rooms, storage.NewRoom{
				Room:      storage.Room{NID: room.NID, ID: room.ID, Version: room.Version.ID},
				CreatedTS: c.w.cfg.Now().UnixMilli(),
			})
		}
		for _, p := range it.events {
			id := ids[0]
			ids = ids[1:]
			events++
			if !p.upgrade {
				p.rec.nid = storage.EventNID(id)
			}
			before := h.root
			if p.before != nil {
				before = *p.before
				nodes.add(p.beforeNodes)
			}
			if len(p.changes) > 0 {
				entries := make([]statetree.Entry, len(p.changes))
				for i, ch := range p.changes {
					entries[i].Key = int64(ch.key)
					if ch.new != nil {
						entries[i].Value = int64(ch.new.nid)
					}
				}
				root, added, err := statetree.Apply(ctx, nodes, h.root, entries)
				if err != nil {
					return nil, err
				}
				nodes.add(added)
				h.root = root
				tally.add(p, storage.EventNID(id))
			}
			if p.anew && !p.aside && (p.partial != nil || h.partial) {
				c.enter(eb, room, p, before)
				h.partial = p.partial != nil
			}
			if !p.aside {
				h.extremities = follow(h.extremities, p)
				h.depth = max(h.depth, p.rec.event.Depth())
				if p.follows == nil {
					h.depth = p.rec.event.Depth()
				}
			}
			h.last = max(h.last, storage.EventNID(id))
			s.out = append(s.out, written{p: p, row: c.eventRow(room, p, before)})
			c.addEvent(eb, room, s.out[len(s.out)-1])
			c.addNotified(eb, room, p)
		}
	}
	if events == 0 {
		return ids, nil
	}
	tally.finish(eb)
	eb.Heads = append(eb.Heads, storage.RoomHead{
		RoomNID: room.NID, Generation: h.generation, Extremities: h.extremities, StateRoot: rootOf(h.root), Depth: h.depth,
		LastEventNID: h.last,
	})
	h.generation++
	s.head = h
	return ids, nil
}

// enter notes whether the members of a room are known that is entered anew.
func (c *committer) enter(eb *storage.EventBatch, room *store.Room, p *pending, before store.Root) {
	if p.partial == nil {
		eb.Whole = append(eb.Whole, room.NID)
		return
	}
	eb.Partial = append(eb.Partial, storage.PartialRoom{
		RoomNID: room.NID, JoinNID: p.rec.nid, KnownRoot: before, Via: p.partial.Via, Servers: p.partial.Servers,
	})
}

// follow returns the extremities after an event.
func follow(extremities []storage.EventNID, p *pending) []storage.EventNID {
	if p.follows == nil {
		return []storage.EventNID{p.rec.nid}
	}
	out := slices.Clone(extremities)
	for _, f := range p.follows {
		out = slices.DeleteFunc(out, func(n storage.EventNID) bool { return n == f.nid })
	}
	return append(out, p.rec.nid)
}

func (c *committer) eventRow(room *store.Room, p *pending, before store.Root) storage.Event {
	e := p.rec.event
	return storage.Event{
		NID: p.rec.nid, RoomNID: room.NID, SenderNID: p.rec.senderNID, StateKeyNID: p.rec.keyNID, Depth: e.Depth(),
		OriginServerTS: e.OriginServerTS(), ReceivedTS: p.receivedTS, AuthDepth: p.rec.authDepth, WriterNID: c.w.cfg.IDs.Writer(),
		Flags: int16(p.rec.flags), EventID: e.ID(), StateRoot: rootOf(before), TxnDevice: p.device, TxnID: p.txn, JSON: e.JSON(),
		Outbound: p.outbound && !p.rec.flags.Hidden(),
	}
}

func (c *committer) addEvent(eb *storage.EventBatch, room *store.Room, w written) {
	p := w.p
	row := storage.NewEvent{Event: w.row, Type: p.rec.event.Type()}
	if p.upgrade {
		eb.Upgrades = append(eb.Upgrades, row)
	} else {
		eb.Events = append(eb.Events, row)
		for _, a := range p.auth {
			eb.Auth = append(eb.Auth, storage.AuthEdge{EventNID: p.rec.nid, AuthNID: a.nid, AuthDepth: a.authDepth})
		}
	}
	for _, prev := range p.gaps {
		eb.Gaps = append(eb.Gaps, storage.EventGap{RoomNID: room.NID, EventNID: p.rec.nid, PrevEventID: prev})
	}
	if p.txn != "" {
		eb.Txns = append(eb.Txns, storage.Txn{RoomNID: room.NID, SenderNID: p.rec.senderNID, Device: p.device, ID: p.txn})
	}
	if p.redacts != "" && !p.rec.flags.Hidden() {
		eb.Redactions = append(eb.Redactions, storage.Redaction{RoomNID: room.NID, Redacts: p.redacts, RedactionNID: p.rec.nid, Allowed: p.allowed})
	}
	for _, r := range p.unlocks {
		eb.Redactions = append(eb.Redactions, storage.Redaction{RoomNID: room.NID, Redacts: p.rec.event.ID(), RedactionNID: r, Allowed: true})
	}
	if p.stripped != nil {
		eb.Stripped = append(eb.Stripped, storage.StrippedState{RoomNID: room.NID, EventNID: p.rec.nid, State: p.stripped})
	}
}

// announce tells the caches of this process and the followers of the stream what was written, and that the writer stands
// at position.
func (c *committer) announce(batch []*share, position int64) {
	n := 0
	for _, s := range batch {
		if s.won {
			n += len(s.out)
		}
	}
	rows := make([]replication.Row[*streams.EventRow], 0, n)
	for _, s := range batch {
		if !s.won {
			continue
		}
		for i := range s.out {
			o := &s.out[i]
			row := c.streamRow(s.lane.room, o)
			// Upgrades keep the number of the outlier, so they are not rows of the stream; but caches must know.
			c.w.cfg.Store.Apply(row)
			if len(o.p.unlocks) == 0 && !o.p.redacted {
				c.w.cfg.Store.Put(storeEvent(o))
			}
			if o.p.upgrade {
				continue
			}
			rows = append(rows, replication.Row[*streams.EventRow]{Token: int64(o.row.NID), Value: row})
		}
	}
	if c.w.cfg.Publisher == nil {
		return
	}
	slices.SortFunc(rows, func(a, b replication.Row[*streams.EventRow]) int { return int(min(max(a.Token-b.Token, -1), 1)) })
	if err := c.w.cfg.Publisher.Publish(position, rows...); err != nil {
		// Followers find the rows in the database.
		c.w.cfg.Log.Error().Err(err).Int("count", len(rows)).Msg("Events could not be published")
	}
}

func storeEvent(o *written) *store.Event {
	e := &store.Event{
		Event: o.p.rec.event, NID: o.row.NID, RoomNID: o.row.RoomNID, SenderNID: o.row.SenderNID, StateKeyNID: o.row.StateKeyNID,
		WriterNID: o.row.WriterNID, Flags: store.Flags(o.row.Flags), AuthDepth: o.row.AuthDepth, ReceivedTS: o.row.ReceivedTS,
		TxnDevice: o.row.TxnDevice, TxnID: o.row.TxnID, Outbound: o.row.Outbound,
	}
	copy(e.StateRoot[:], o.row.StateRoot)
	return e
}

func (c *committer) streamRow(room *store.Room, o *written) *streams.EventRow {
	p, e := o.p, o.p.rec.event
	row := &streams.EventRow{
		RoomNID: int64(room.NID), SenderNID: int64(o.row.SenderNID), StateKeyNID: int64(o.row.StateKeyNID), TargetNID: int64(p.target),
		RoomID: room.ID, RoomVersion: room.Version.ID, EventID: e.ID(), Type: e.Type(), Sender: e.Sender(), Membership: e.Membership(),
		Flags: o.row.Flags, StateReset: p.reset, StateRoot: o.row.StateRoot, AuthDepth: o.row.AuthDepth,
		TxnDevice: o.row.TxnDevice, TxnID: o.row.TxnID, ReceivedTS: o.row.ReceivedTS, Outbound: o.row.Outbound,
	}
	if sk, ok := e.StateKey(); ok {
		row.StateKey = &sk
	}
	if p.outOfBand {
		row.PrevMembership = p.prevMembership
	}
	if p.allowed && !p.rec.flags.Hidden() {
		row.Redacts = p.redacts
	}
	for _, ch := range p.changes {
		if ch.new == p.rec {
			row.Current = true
			if ch.old != nil && e.Type() == event.TypeMember {
				row.PrevMembership = ch.old.event.Membership()
			}
		}
	}
	if len(e.JSON()) <= streams.MaxInlineBytes {
		row.JSON = e.JSON()
	}
	return row
}
