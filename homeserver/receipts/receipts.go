// Package receipts keeps up to where people have read rooms: public and private read receipts, threaded or not, and the
// read markers that are their owner's alone. Receipts travel on the receipts stream, which is divided by room among its
// writers; a process that does not write a room's hands requests on to the one that does.
//
// Receipts never move backwards: the position of events in the events stream decides.
//
// Spec: client-server API, "Receipts", "Read and unread markers" (v1.19).
package receipts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// The receipt types.
const (
	Read        = "m.read"
	ReadPrivate = "m.read.private"
	// FullyRead is the read marker, which is account data and no receipt.
	FullyRead = "m.fully_read"
)

// MainThread is the thread id of events that are in no thread.
const MainThread = "main"

// Rooms knows rooms, their people and their events. *store.Store does.
type Rooms interface {
	Room(ctx context.Context, roomID string) (*store.Room, error)
	Membership(ctx context.Context, room storage.RoomNID, userID string) (*store.Member, error)
	Event(ctx context.Context, eventID string) (*store.Event, error)
	InternUsers(ctx context.Context, ids []string) ([]storage.UserNID, error)
}

// Markers keeps read markers. *accountdata.Service does.
type Markers interface {
	SetFullyRead(ctx context.Context, userID, roomID, eventID string, event storage.EventNID) error
}

// Config holds what a Service needs.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Rooms knows rooms. Required.
	Rooms Rooms
	// Markers keeps read markers. Required.
	Markers Markers
	// Client follows the stream, and publishes it where this process writes it. It must not run yet. Required.
	Client *replication.Client
	// Writers says which process writes a room's receipts. Required.
	Writers *replication.Writers
	// RPC reaches it. Required.
	RPC *rpc.Node
	// IDs numbers the rows where this process writes the stream. Required there.
	IDs *storage.StreamIDs
	// From is a position of the stream read from the database before the process serves anything. Defaults to the start
	// of the stream.
	From replication.Position
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Service is receipts in one process. It is safe for concurrent use.
type Service struct {
	cfg      Config
	follower *replication.Follower[streams.ReceiptsRow]
	writer   *streams.Writer[streams.ReceiptsRow] // nil unless this process writes the stream
}

// stream is the stream's name.
const stream = "receipts"

// MaxIDSQL is for the storage.StreamIDsConfig of the stream.
const MaxIDSQL = `SELECT coalesce(max(stream_id), 0) FROM receipts`

// Receipt is a receipt of one user for one room.
type Receipt struct {
	RoomID string `json:"room_id"`
	// Type is Read or ReadPrivate.
	Type    string `json:"type"`
	UserID  string `json:"user_id"`
	EventID string `json:"event_id"`
	// ThreadID is "" for unthreaded receipts.
	ThreadID string `json:"thread_id,omitempty"`
	// TS is when the user read, in milliseconds since the epoch.
	TS int64 `json:"ts"`
}

// put is receipts of one room, as they travel to the room's writer.
type put struct {
	RoomID   string          `json:"room_id"`
	RoomNID  storage.RoomNID `json:"room_nid"`
	Receipts []numbered      `json:"receipts"`
}

type numbered struct {
	Receipt
	UserNID storage.UserNID `json:"user_nid"`
	// EventNID is 0 where the event is not known here.
	EventNID storage.EventNID `json:"event_nid"`
}

var putMethod = rpc.Method[put, struct{}]{
	Name: "put_receipts", Args: func(p put) []string { return []string{p.RoomID} },
}

// New makes the service, has cfg.Client follow the stream (and publish it where this process writes it), and registers
// its method with cfg.RPC. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.Rooms == nil || cfg.Markers == nil || cfg.Client == nil || cfg.Writers == nil || cfg.RPC == nil {
		return nil, errors.New("receipts: Config.DB, Rooms, Markers, Client, Writers and RPC are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg}
	var err error
	s.follower, err = replication.Follow(cfg.Client, streams.Receipts(), replication.FollowConfig[streams.ReceiptsRow]{
		Source: s.source,
		From:   cfg.From,
	})
	if err != nil {
		return nil, fmt.Errorf("receipts: %w", err)
	}
	if !cfg.Writers.Writes(stream) {
		return s, nil
	}
	s.writer, err = streams.NewWriter(streams.WriterConfig[streams.ReceiptsRow]{
		DB: cfg.DB, IDs: cfg.IDs, Client: cfg.Client, Stream: streams.Receipts(), Source: s.source,
	})
	if err != nil {
		return nil, fmt.Errorf("receipts: %w", err)
	}
	mxrpc.Register(cfg.RPC, putMethod, func(ctx context.Context, p put) (struct{}, error) {
		return struct{}{}, s.apply(ctx, p)
	})
	return s, nil
}

// Marker is where one of a user's markers in a room is to stand.
type Marker struct {
	// Type is Read, ReadPrivate or FullyRead.
	Type    string
	EventID string
	// ThreadID is nil for unthreaded receipts.
	ThreadID *string
}

// Set moves the requester's markers in a room. Those that stand further on already stay.
//
// Errors are M_FORBIDDEN for somebody who is not joined, M_INVALID_PARAM for a type, event id or thread that cannot be
// used, M_NOT_FOUND for an event that is not in the room.
func (s *Service) Set(ctx context.Context, who *requester.Requester, roomID string, markers ...Marker) error {
	for _, m := range markers {
		if err := m.check(); err != nil {
			return err
		}
	}
	room, err := s.joined(ctx, roomID, who.UserID)
	if err != nil || len(markers) == 0 {
		return err
	}
	events := make([]*store.Event, len(markers))
	for i, m := range markers {
		e, err := s.cfg.Rooms.Event(ctx, m.EventID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err != nil || e.RoomNID != room.NID {
			return mxerr.NotFound.WithMessage("Event not found")
		}
		if m.ThreadID != nil {
			if err := s.checkThread(ctx, e, *m.ThreadID); err != nil {
				return err
			}
		}
		events[i] = e
	}
	if who.ShadowBanned {
		return nil
	}
	nids, err := s.cfg.Rooms.InternUsers(ctx, []string{who.UserID})
	if err != nil {
		return err
	}
	now := s.cfg.Now().UnixMilli()
	p := put{RoomID: roomID, RoomNID: room.NID}
	for i, m := range markers {
		if m.Type == FullyRead {
			if err := s.cfg.Markers.SetFullyRead(ctx, who.UserID, roomID, m.EventID, events[i].NID); err != nil {
				return err
			}
			continue
		}
		r := Receipt{RoomID: roomID, Type: m.Type, UserID: who.UserID, EventID: m.EventID, TS: now}
		if m.ThreadID != nil {
			r.ThreadID = *m.ThreadID
		}
		p.Receipts = append(p.Receipts, numbered{Receipt: r, UserNID: nids[0], EventNID: events[i].NID})
	}
	return s.put(ctx, p)
}

// Receive takes in receipts of other servers' users. Those for rooms this server does not know are passed over; the
// caller has checked that each user is of the server that sent them and in the room. Only Read receipts travel between
// servers.
func (s *Service) Receive(ctx context.Context, receipts []Receipt) error {
	byRoom := make(map[string]*put)
	var order []string
	for _, r := range receipts {
		if r.Type != Read || !id.IsEvent(r.EventID) || !id.IsUser(r.UserID) {
			continue
		}
		p := byRoom[r.RoomID]
		if p == nil {
			room, err := s.cfg.Rooms.Room(ctx, r.RoomID)
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			p = &put{RoomID: r.RoomID, RoomNID: room.NID}
			byRoom[r.RoomID] = p
			order = append(order, r.RoomID)
		}
		nids, err := s.cfg.Rooms.InternUsers(ctx, []string{r.UserID})
		if err != nil {
			return err
		}
		n := numbered{Receipt: r, UserNID: nids[0]}
		e, err := s.cfg.Rooms.Event(ctx, r.EventID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err == nil {
			if e.RoomNID != p.RoomNID {
				continue
			}
			n.EventNID = e.NID
		}
		p.Receipts = append(p.Receipts, n)
	}
	for _, roomID := range order {
		if err := s.put(ctx, *byRoom[roomID]); err != nil {
			return err
		}
	}
	return nil
}

// Position is how far this process has followed the stream.
func (s *Service) Position() replication.Position { return s.follower.Position() }

// Handle has fn called with each update of the stream.
func (s *Service) Handle(fn func(ctx context.Context, u replication.Update[streams.ReceiptsRow])) {
	s.follower.Handle(fn)
}

func (m *Marker) check() error {
	switch m.Type {
	case Read, ReadPrivate:
	case FullyRead:
		if m.ThreadID != nil {
			return mxerr.InvalidParam.WithMessage("thread_id is not compatible with " + FullyRead)
		}
	default:
		return mxerr.InvalidParam.WithMessage("Receipt type must be 'm.read', 'm.read.private' or 'm.fully_read'")
	}
	if err := id.ValidateEvent(m.EventID); err != nil {
		return mxerr.InvalidParam.WithMessage("Invalid event ID").Wrap(err)
	}
	if m.ThreadID != nil && *m.ThreadID != MainThread {
		if *m.ThreadID == "" {
			return mxerr.InvalidParam.WithMessage("thread_id field must be a non-empty string")
		}
		if err := id.ValidateEvent(*m.ThreadID); err != nil {
			return mxerr.InvalidParam.WithMessage("thread_id must be \"main\" or an event ID").Wrap(err)
		}
	}
	return nil
}

// joined returns the room a user is joined to, M_FORBIDDEN where they are not.
func (s *Service) joined(ctx context.Context, roomID, userID string) (*store.Room, error) {
	forbidden := mxerr.Forbidden.WithMessage("User " + userID + " not in room " + roomID)
	room, err := s.cfg.Rooms.Room(ctx, roomID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, forbidden
	}
	if err != nil {
		return nil, err
	}
	m, err := s.cfg.Rooms.Membership(ctx, room.NID, userID)
	if err != nil {
		return nil, err
	}
	if m == nil || m.Membership != storage.MembershipJoin {
		return nil, forbidden
	}
	return room, nil
}

// checkThread refuses a receipt whose event is not in the thread it names. The root, and what is related to it, count as
// part of its thread as well as of the main timeline.
func (s *Service) checkThread(ctx context.Context, e *store.Event, thread string) error {
	if e.ID() == thread {
		return nil
	}
	in, related, err := event.Thread(e.Event, thread, func(eventID string) (*event.Event, error) {
		next, err := s.cfg.Rooms.Event(ctx, eventID)
		if errors.Is(err, storage.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find the thread of an event: %w", err)
		}
		if next.RoomNID != e.RoomNID {
			return nil, nil
		}
		return next.Event, nil
	})
	if err != nil {
		return err
	}
	if in == "" {
		in = MainThread
	}
	if in != thread && !related {
		return mxerr.InvalidParam.WithMessage("event_id " + e.ID() + " is not related to thread " + thread)
	}
	return nil
}

// put stores receipts of one room on the process that writes the room's.
func (s *Service) put(ctx context.Context, p put) error {
	if len(p.Receipts) == 0 {
		return nil
	}
	owner := s.cfg.Writers.Owner(stream, p.RoomID)
	if owner == s.cfg.Client.Instance() {
		return s.apply(ctx, p)
	}
	_, err := mxrpc.Call(ctx, s.cfg.RPC, owner, putMethod, p)
	return err
}

// apply stores receipts here.
func (s *Service) apply(ctx context.Context, p put) error {
	p.Receipts = newest(p.Receipts)
	return s.writer.Write(ctx, len(p.Receipts), func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]replication.Row[streams.ReceiptsRow], error) {
		in := make([]storage.Receipt, len(p.Receipts))
		byID := make(map[int64]replication.Row[streams.ReceiptsRow], len(in))
		for i, r := range p.Receipts {
			data, err := dataOf(r.Receipt)
			if err != nil {
				return nil, err
			}
			in[i] = storage.Receipt{
				RoomNID: p.RoomNID, Type: r.Type, UserNID: r.UserNID, ThreadID: r.ThreadID, EventID: r.EventID,
				EventNID: r.EventNID, StreamID: ids[i], WriterNID: writer, Data: data,
			}
			byID[ids[i]] = replication.Row[streams.ReceiptsRow]{Token: ids[i], Value: rowOf(p.RoomID, r.Type, r.UserID, r.EventID, r.ThreadID, data)}
		}
		stored, err := storage.PutReceipts(ctx, tx, in)
		if err != nil {
			return nil, err
		}
		slices.Sort(stored)
		rows := make([]replication.Row[streams.ReceiptsRow], len(stored))
		for i, streamID := range stored {
			rows[i] = byID[streamID]
		}
		return rows, nil
	})
}

// newest keeps one receipt for each user, type and thread: the one furthest on.
func newest(receipts []numbered) []numbered {
	type key struct {
		user         storage.UserNID
		kind, thread string
	}
	at := make(map[key]int, len(receipts))
	out := make([]numbered, 0, len(receipts))
	for _, r := range receipts {
		k := key{r.UserNID, r.Type, r.ThreadID}
		i, seen := at[k]
		switch {
		case !seen:
			at[k] = len(out)
			out = append(out, r)
		case r.EventNID > out[i].EventNID:
			out[i] = r
		}
	}
	return out
}

func dataOf(r Receipt) (json.RawMessage, error) {
	return json.Marshal(struct {
		TS       int64  `json:"ts"`
		ThreadID string `json:"thread_id,omitempty"`
	}{r.TS, r.ThreadID})
}

func rowOf(roomID, kind, userID, eventID, threadID string, data json.RawMessage) streams.ReceiptsRow {
	row := streams.ReceiptsRow{RoomID: roomID, ReceiptType: kind, UserID: userID, EventID: eventID, Data: data}
	if threadID != "" {
		row.ThreadID = &threadID
	}
	return row
}

func (s *Service) source(ctx context.Context, writer string, after, upTo int64, limit int) ([]replication.Row[streams.ReceiptsRow], int64, error) {
	found, err := storage.ReceiptUpdates(ctx, s.cfg.DB, writer, after, upTo, limit)
	if err != nil {
		return nil, 0, err
	}
	reached := upTo
	if len(found) >= limit {
		reached = found[len(found)-1].StreamID
	}
	rows := make([]replication.Row[streams.ReceiptsRow], len(found))
	for i, f := range found {
		rows[i] = replication.Row[streams.ReceiptsRow]{
			Token: f.StreamID, Value: rowOf(f.RoomID, f.Type, f.UserID, f.EventID, f.ThreadID, f.Data),
		}
	}
	return rows, reached, nil
}
