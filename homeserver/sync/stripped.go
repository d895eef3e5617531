package sync

import (
	"context"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// strippedTypes are what somebody who is invited or knocks is shown of a room.
//
// Spec: client-server API, "Stripped state" (v1.19).
var strippedTypes = [...]string{
	event.TypeCreate, "m.room.name", "m.room.avatar", "m.room.topic", event.TypeJoinRules, "m.room.canonical_alias",
	"m.room.encryption",
}

// stripped is a room of the invite or the knock section.
type stripped struct {
	id       string
	nid      storage.RoomNID
	eventNID storage.EventNID
	// events is the JSON of the stripped events, without brackets.
	events []byte
}

// fillStripped fills the invite and knock sections. Invites of ignored users are left out.
func (b *builder) fillStripped(ctx context.Context) error {
	all := append(append([]*stripped(nil), b.invites...), b.knocks...)
	if len(all) == 0 {
		return nil
	}
	nids := make([]storage.EventNID, len(all))
	for i, st := range all {
		nids[i] = st.eventNID
	}
	members, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return fmt.Errorf("read invites: %w", err)
	}
	kept := map[*stripped]*store.Event{}
	var rest []*stripped
	for i, st := range all {
		if e := members[i]; e != nil && !(i < len(b.invites) && b.q.ignored[e.Sender()]) {
			kept[st] = e
			rest = append(rest, st)
		}
	}
	sent, err := b.s.cfg.Store.Stripped(ctx, nids)
	if err != nil {
		return fmt.Errorf("read stripped state: %w", err)
	}
	if err := b.stripCurrent(ctx, rest, kept, sent); err != nil {
		return err
	}
	for _, st := range rest {
		if raw := sent[st.eventNID]; raw != nil {
			st.appendSent(raw)
		}
		st.append(kept[st])
	}
	keep := func(list []*stripped) (out []*stripped) {
		for _, st := range list {
			if kept[st] != nil {
				out = append(out, st)
			}
		}
		return out
	}
	b.invites, b.knocks = keep(b.invites), keep(b.knocks)
	return nil
}

// stripCurrent strips the current state of the rooms of this server: nothing was sent along with their invites.
func (b *builder) stripCurrent(ctx context.Context, all []*stripped, members map[*stripped]*store.Event, sent map[storage.EventNID][]byte) error {
	var lookups []store.StateLookup
	var of []*stripped
	for _, st := range all {
		e := members[st]
		if sent[st.eventNID] != nil || e.StateRoot == (store.Root{}) {
			continue
		}
		l := store.StateLookup{Root: e.StateRoot}
		for _, t := range strippedTypes {
			l.Tuples = append(l.Tuples, event.Tuple{Type: t})
		}
		if sender := e.Sender(); sender != b.q.userID {
			l.Tuples = append(l.Tuples, memberTuple(sender))
		}
		lookups, of = append(lookups, l), append(of, st)
	}
	if len(lookups) == 0 {
		return nil
	}
	found, err := b.s.cfg.Store.StateBatch(ctx, lookups)
	if err != nil {
		return fmt.Errorf("read state of invites: %w", err)
	}
	for i, st := range of {
		for _, e := range found[i] {
			if e != nil {
				st.append(e)
			}
		}
	}
	return nil
}

func (st *stripped) append(e *store.Event) {
	if len(st.events) > 0 {
		st.events = append(st.events, ',')
	}
	st.events = event.AppendClient(st.events, e.Event, event.ClientOptions{Stripped: true})
}

// appendSent adds what the inviting server sent, each event cut down to what stripped state may hold.
func (st *stripped) appendSent(raw []byte) {
	gjson.ParseBytes(raw).ForEach(func(_, e gjson.Result) bool {
		typ, key := e.Get("type"), e.Get("state_key")
		if typ.Type != gjson.String || key.Type != gjson.String || typ.Str == event.TypeMember && key.Str == "" {
			return true
		}
		content := e.Get("content")
		if !content.IsObject() {
			return true
		}
		if len(st.events) > 0 {
			st.events = append(st.events, ',')
		}
		st.events = append(append(st.events, `{"content":`...), content.Raw...)
		if sender := e.Get("sender"); sender.Type == gjson.String {
			st.events = append(append(st.events, `,"sender":`...), sender.Raw...)
		}
		st.events = append(append(st.events, `,"state_key":`...), key.Raw...)
		st.events = append(append(st.events, `,"type":`...), typ.Raw...)
		st.events = append(st.events, '}')
		return true
	})
}
