package sync

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// The event types of the ephemeral section, and the receipts that only their owner sees.
const (
	receiptType    = "m.receipt"
	typingType     = "m.typing"
	privateReceipt = "m.read.private"
)

// receipt is one entry of an m.receipt event.
type receipt struct {
	eventID, typ, userID string
	threaded             bool
	data                 []byte
}

// fillReceipts fills the ephemeral sections.
func (b *builder) fillReceipts(ctx context.Context) error {
	f := &b.q.f.Room.Ephemeral
	if f.AllowsType(typingType) {
		for id, t := range b.snap.typing {
			if f.AllowsRoom(id) {
				if j := b.known(id); j != nil {
					j.typing = t
				}
			}
		}
		// Rooms that are new to the client, and where somebody had been typing before.
		b.typingInFresh()
	}
	if !f.AllowsType(receiptType) {
		return nil
	}
	for id, entries := range b.snap.receipts {
		if !f.AllowsRoom(id) {
			continue
		}
		var list []receipt
		for _, e := range entries {
			if e.row.ReceiptType == privateReceipt && e.row.UserID != b.q.userID {
				continue
			}
			list = append(list, receipt{e.row.EventID, e.row.ReceiptType, e.row.UserID, e.row.ThreadID != nil, e.row.Data})
		}
		if len(list) > 0 {
			if j := b.known(id); j != nil {
				j.receipts = list
			}
		}
	}
	return b.queryReceipts(ctx)
}

// known returns the job of a room the user is joined to, made if need be.
func (b *builder) known(id string) *job {
	if j := b.byID[id]; j != nil {
		if j.left {
			return nil
		}
		return j
	}
	i, ok := slices.BinarySearchFunc(b.snap.rooms, id, compareRooms)
	if !ok || b.snap.rooms[i].membership != storage.MembershipJoin {
		return nil
	}
	vr := b.snap.rooms[i]
	j := b.job(id, vr.room.nid)
	if j != nil {
		j.memberNID, j.joined, j.full = storage.EventNID(vr.nid), true, b.q.FullState
	}
	return j
}

func (b *builder) typingInFresh() {
	var ids []string
	for _, j := range b.jobs {
		if j.fresh && !b.q.initial && !j.left && j.typing == nil && b.q.f.Room.Ephemeral.AllowsRoom(j.id) {
			ids = append(ids, j.id)
		}
	}
	if len(ids) == 0 {
		return
	}
	h := b.s.hub
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, id := range ids {
		if r := h.rooms[id]; r != nil && r.typing != nil && len(r.typing.users) > 0 {
			b.byID[id].typing = r.typing
		}
	}
}

// queryReceipts reads the receipts of rooms the client learns from nothing, and those behind since where they are not in
// memory.
func (b *builder) queryReceipts(ctx context.Context) error {
	f := &b.q.f.Room.Ephemeral
	since, now := b.snap.since.Get(token.Receipts), b.snap.now.Get(token.Receipts)
	var fresh, others []storage.RoomNID
	ids := map[storage.RoomNID]string{}
	for _, j := range b.jobs {
		if j.fresh && !j.left && f.AllowsRoom(j.id) {
			fresh = append(fresh, j.nid)
			ids[j.nid] = j.id
		}
	}
	if !b.q.initial && !b.snap.receipted {
		for _, vr := range b.snap.rooms {
			if j := b.byID[vr.room.id]; vr.membership == storage.MembershipJoin && (j == nil || !j.fresh) && b.allows(vr.room.id, f) {
				others = append(others, vr.room.nid)
				ids[vr.room.nid] = vr.room.id
			}
		}
	}
	if len(fresh) == 0 && len(others) == 0 {
		return nil
	}
	viewer, err := b.s.cfg.Store.UserNID(ctx, b.q.userID)
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	for _, ask := range []struct {
		rooms []storage.RoomNID
		after int64
	}{{fresh, 0}, {others, since.Floor()}} {
		if len(ask.rooms) == 0 {
			continue
		}
		rows, err := storage.ReceiptsInRooms(ctx, b.s.cfg.DB, ask.rooms, viewer, ask.after, now.Max())
		if err != nil {
			return err
		}
		for _, r := range rows {
			if ask.after > 0 {
				if w, ok := b.s.cfg.WriterIDs.WriterName(int(r.WriterNID)); ok && since.Covers(w, r.StreamID) {
					continue
				}
			}
			if j := b.known(ids[r.RoomNID]); j != nil {
				j.receipts = append(j.receipts, receipt{r.EventID, r.Type, r.UserID, r.ThreadID != "", r.Data})
			}
		}
	}
	return nil
}

// appendReceipts writes an m.receipt event. Of two receipts of a user for one event the one without a thread wins, since
// the event has room for one only and it says more.
func appendReceipts(dst []byte, list []receipt) []byte {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b receipt) int {
		if c := strings.Compare(a.eventID, b.eventID); c != 0 {
			return c
		}
		if c := strings.Compare(a.typ, b.typ); c != 0 {
			return c
		}
		if c := strings.Compare(a.userID, b.userID); c != 0 {
			return c
		}
		switch {
		case a.threaded == b.threaded:
			return 0
		case a.threaded:
			return 1
		}
		return -1
	})
	dst = append(dst, `{"type":"m.receipt","content":{`...)
	for i, r := range list {
		newEvent := i == 0 || list[i-1].eventID != r.eventID
		newType := newEvent || list[i-1].typ != r.typ
		switch {
		case newEvent:
			if i > 0 {
				dst = append(dst, "}},"...)
			}
			dst = append(appendString(dst, r.eventID), ":{"...)
			dst = append(appendString(dst, r.typ), ":{"...)
		case newType:
			dst = append(dst, "},"...)
			dst = append(appendString(dst, r.typ), ":{"...)
		case list[i-1].userID == r.userID:
			continue
		default:
			dst = append(dst, ',')
		}
		dst = append(append(appendString(dst, r.userID), ':'), r.data...)
	}
	if len(list) > 0 {
		dst = append(dst, "}}"...)
	}
	return append(dst, "}}"...)
}

// appendTyping writes an m.typing event.
func appendTyping(dst []byte, users []string) []byte {
	dst = append(dst, `{"type":"m.typing","content":{"user_ids":[`...)
	for i, u := range users {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, u)
	}
	return append(dst, "]}}"...)
}
