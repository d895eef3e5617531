package writer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// errOverlap says that another process wrote some of the events at the same time.
var errOverlap = errors.New("outliers were written by another process")

// StoreOutliers writes events that others refer to, without a place in their room: the auth chains and states that
// come with a join or fill a gap. The events must be of the version given, with signatures and hashes checked, and all
// auth_events must be among them or stored (*MissingEventsError); they may come in any order. Those that are stored
// already are left as they are, those that their auth_events do not allow are marked as rejected. Any process with
// Config.BackfillIDs can do it, whoever owns the room. The room is made known where it is not.
func (w *Writer) StoreOutliers(ctx context.Context, version *event.Version, roomID string, events []*event.Event) error {
	if w.cfg.BackfillIDs == nil {
		return errNoWriter
	}
	for _, e := range events {
		sk, _ := e.StateKey()
		if e.RoomID() != roomID || e.Version() != version || strings.ContainsRune(sk+e.Type()+e.ID(), 0) {
			return mxerr.InvalidParam.WithMessage("The event does not fit into the room")
		}
	}
	room, err := storage.EnsureRoom(ctx, w.cfg.DB, roomID, version.ID, w.cfg.Now().UnixMilli(), false)
	if err != nil {
		return err
	}
	if room.Version != version.ID {
		return mxerr.InvalidParam.WithMessage("The room has another version")
	}
	for {
		err := w.storeOutliers(ctx, room.NID, version, events)
		if !errors.Is(err, errOverlap) {
			return err
		}
	}
}

// PrepareRoom makes a room of other servers ready for events, before the first Receive in it: an event of this server's
// user joining, whose StateBefore (stored by StoreOutliers) then becomes the room's state.
func (w *Writer) PrepareRoom(ctx context.Context, version *event.Version, roomID string) error {
	room, err := storage.EnsureRoom(ctx, w.cfg.DB, roomID, version.ID, w.cfg.Now().UnixMilli(), true)
	if err != nil {
		return err
	}
	if room.Version != version.ID {
		return mxerr.InvalidParam.WithMessage("The room has another version")
	}
	return nil
}

func (w *Writer) storeOutliers(ctx context.Context, room storage.RoomNID, v *event.Version, events []*event.Event) error {
	known, todo, err := w.knownEvents(ctx, events)
	if err != nil || len(todo) == 0 {
		return err
	}
	ids, err := w.cfg.BackfillIDs.Take(ctx, len(todo), 0)
	if err != nil {
		return fmt.Errorf("take event numbers: %w", err)
	}
	defer ids.Done()
	var create *event.Event
	for _, e := range events {
		if e.Type() == event.TypeCreate {
			create = e
		}
	}
	if create == nil && v.RoomIDFromCreate && len(todo) > 0 {
		// Its id is that of the room.
		id := "$" + todo[0].RoomID()[1:]
		found, err := w.cfg.Store.EventsByID(ctx, []string{id})
		if err != nil {
			return err
		}
		if found[0] == nil {
			return &MissingEventsError{EventID: todo[0].ID(), Auth: []string{id}}
		}
		create = found[0].Event
	}
	rows, edges, err := w.outlierRows(ctx, room, known, todo, ids.All(), create)
	if err != nil {
		return err
	}
	err = storage.InTx(ctx, w.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
		made, err := storage.InsertOutliers(ctx, tx, room, w.cfg.BackfillIDs.Writer(), rows, edges)
		if err != nil {
			return err
		}
		if made < len(rows) {
			return errOverlap
		}
		return w.cfg.BackfillIDs.WritePosition(ctx, tx, ids)
	})
	if err != nil {
		return fmt.Errorf("store %d outliers: %w", len(rows), err)
	}
	return nil
}

// knownEvents finds the events that the given ones name and that are stored, and puts those that are not stored in an
// order in which each comes after its auth_events.
func (w *Writer) knownEvents(ctx context.Context, events []*event.Event) (known map[string]*record, todo []*event.Event, err error) {
	byID := make(map[string]*event.Event, len(events))
	var ids []string
	for _, e := range events {
		byID[e.ID()] = e
		ids = append(ids, e.ID())
	}
	for _, e := range events {
		for _, a := range e.AuthEvents() {
			if byID[a] == nil {
				ids = append(ids, a)
			}
		}
	}
	stored, err := w.cfg.Store.EventsByID(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	known = make(map[string]*record, len(stored))
	for i, e := range stored {
		if e != nil {
			known[ids[i]] = storedRecord(e)
		}
	}
	// Depth first, without recursion: chains may be long, and made to be.
	const visiting, done = 1, 2
	mark := make(map[string]int, len(events))
	for _, e := range events {
		stack := []*event.Event{e}
		for len(stack) > 0 {
			top := stack[len(stack)-1]
			if mark[top.ID()] == 0 && known[top.ID()] == nil {
				mark[top.ID()] = visiting
				for _, a := range top.AuthEvents() {
					next := byID[a]
					switch {
					case known[a] != nil:
					case next == nil:
						return nil, nil, &MissingEventsError{EventID: top.ID(), Auth: []string{a}}
					case mark[a] == visiting:
						return nil, nil, mxerr.InvalidParam.WithMessage("The auth events go round in a circle")
					case mark[a] == 0:
						stack = append(stack, next)
					}
				}
				continue
			}
			stack = stack[:len(stack)-1]
			if mark[top.ID()] == visiting {
				mark[top.ID()] = done
				todo = append(todo, top)
			}
		}
	}
	return known, todo, nil
}

func (w *Writer) outlierRows(ctx context.Context, room storage.RoomNID, known map[string]*record, todo []*event.Event, ids []int64, create *event.Event) ([]storage.NewEvent, []storage.AuthEdge, error) {
	users, tuples := make([]string, len(todo)), make([]event.Tuple, 0, len(todo))
	for i, e := range todo {
		users[i] = e.Sender()
		if e.IsState() {
			tuples = append(tuples, e.Tuple())
		}
	}
	senders, err := w.cfg.Store.InternUsers(ctx, users)
	if err != nil {
		return nil, nil, err
	}
	keys, err := w.cfg.Store.InternStateKeys(ctx, tuples)
	if err != nil {
		return nil, nil, err
	}
	rows := make([]storage.NewEvent, len(todo))
	var edges []storage.AuthEdge
	now := w.cfg.Now().UnixMilli()
	for i, e := range todo {
		rec := &record{event: e, senderNID: senders[i], nid: storage.EventNID(-ids[i]), flags: store.Outlier}
		if e.IsState() {
			rec.keyNID, keys = keys[0], keys[1:]
		}
		auth := make([]*record, 0, len(e.AuthEvents()))
		events := make([]*event.Event, 0, len(e.AuthEvents()))
		rejected := make(map[string]bool)
		for _, id := range e.AuthEvents() {
			a := known[id]
			auth, events = append(auth, a), append(events, a.event)
			if a.flags&store.Rejected != 0 {
				rejected[id] = true
			}
			if e.IsState() {
				edges = append(edges, storage.AuthEdge{EventNID: rec.nid, AuthNID: a.nid, AuthDepth: a.authDepth})
			}
		}
		rec.authDepth = authDepth(auth)
		state := event.NewAuthMap(events...)
		if create != nil && e.Version().RoomIDFromCreate {
			state[event.Tuple{Type: event.TypeCreate}] = create
		}
		err := event.CheckAuthEvents(e, events, func(id string) bool { return rejected[id] })
		if err == nil {
			err = event.Authorise(e, state)
		}
		var refused *event.AuthError
		if errors.As(err, &refused) {
			rec.flags |= store.Rejected
		} else if err != nil {
			return nil, nil, err
		}
		known[e.ID()] = rec
		rows[i] = storage.NewEvent{Type: e.Type(), Event: storage.Event{
			NID: rec.nid, RoomNID: room, SenderNID: rec.senderNID, StateKeyNID: rec.keyNID, Depth: e.Depth(), OriginServerTS: e.OriginServerTS(),
			ReceivedTS: now, AuthDepth: rec.authDepth, Flags: int16(rec.flags), EventID: e.ID(), JSON: e.JSON(),
		}}
	}
	return rows, edges, nil
}
