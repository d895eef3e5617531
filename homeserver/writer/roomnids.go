package writer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// roomNIDs hands out the numbers of new rooms from a few reserved ahead. Those left when the process ends are lost.
type roomNIDs struct {
	mu   sync.Mutex
	left []storage.RoomNID
}

func (r *roomNIDs) next(ctx context.Context, db storage.Querier) (storage.RoomNID, error) {
	for {
		r.mu.Lock()
		if n := len(r.left); n > 0 {
			nid := r.left[n-1]
			r.left = r.left[:n-1]
			r.mu.Unlock()
			return nid, nil
		}
		r.mu.Unlock()
		nids, err := storage.ReserveRoomNIDs(ctx, db, 16)
		if err != nil {
			return 0, err
		}
		r.mu.Lock()
		r.left = append(r.left, nids...)
		r.mu.Unlock()
	}
}

// buildCreate builds the m.room.create event of a new room and decides the room's id.
func (w *Writer) buildCreate(v *event.Version, d Draft) (string, *event.Event, error) {
	empty := ""
	ed := event.Draft{
		Sender: d.Sender, Type: event.TypeCreate, StateKey: &empty, Content: d.Content, Depth: 1,
		OriginServerTS: d.OriginServerTS,
	}
	if ed.OriginServerTS == 0 {
		ed.OriginServerTS = w.createTS()
	}
	if !v.RoomIDFromCreate {
		ed.RoomID = w.newRoomID()
	}
	e, err := event.Build(v, ed, w.cfg.Signer)
	if err != nil {
		return "", nil, buildError(err)
	}
	if err := event.Authorise(e, event.AuthMap{}); err != nil {
		return "", nil, buildError(err)
	}
	return e.RoomID(), e, nil
}

// createTS returns the time for a new room, a later one each time: in room version 12 two rooms that one user makes in
// the same way in the same millisecond would be the same room.
func (w *Writer) createTS() int64 {
	for {
		last := w.created.Load()
		ts := max(w.cfg.Now().UnixMilli(), last+1)
		if w.created.CompareAndSwap(last, ts) {
			return ts
		}
	}
}

// newRoomID chooses a room id, one that this process owns where luck allows, so that the room need not change hands
// after its creation.
func (w *Writer) newRoomID() string {
	var id string
	for range 64 {
		var b [12]byte
		// Never fails: see its documentation.
		_, _ = rand.Read(b[:])
		id = fmt.Sprintf("!%s:%s", base64.RawURLEncoding.EncodeToString(b[:]), w.cfg.Signer.ServerName)
		if _, local := w.owner(id); local {
			break
		}
	}
	return id
}
