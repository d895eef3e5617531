// Package accountdata keeps what clients store for their users: global data, data of rooms, tags, and the markers of how
// far a room has been read. Changes travel on the account_data stream, which has one writer; any other process hands
// them on to it.
//
// Data that is set to {} counts as removed: it is no longer found, and clients are told of {} once.
//
// Spec: client-server API, "Client Config", "Room Tagging", "Read and unread markers" (v1.19).
package accountdata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// The types with a meaning of their own.
const (
	TypeTag       = "m.tag"
	TypeFullyRead = "m.fully_read"
	TypePushRules = "m.push_rules"
	TypeDirect    = "m.direct"
)

const maxTypeLen = 255

// PushRules gives the m.push_rules event, which is stored elsewhere.
type PushRules interface {
	// PushRules returns the content of a user's m.push_rules event.
	PushRules(ctx context.Context, userID string) (json.RawMessage, error)
}

// Config holds what a Service needs.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Client follows the stream, and publishes it where this process writes it. It must not run yet. Required.
	Client *replication.Client
	// Writers says which process writes the stream. Required.
	Writers *replication.Writers
	// RPC reaches it. Required.
	RPC *rpc.Node
	// IDs numbers the rows where this process writes the stream. Required there.
	IDs *storage.StreamIDs
	// From is a position of the stream read from the database before the process serves anything. Defaults to the start
	// of the stream.
	From replication.Position
	// PushRules answers for m.push_rules. Without it there are none.
	PushRules PushRules
	// Log is silent by default.
	Log zerolog.Logger
}

// Service is account data in one process. It is safe for concurrent use.
type Service struct {
	cfg      Config
	follower *replication.Follower[streams.AccountDataRow]
	writer   *streams.Writer[streams.AccountDataRow] // nil unless this process writes the stream
	ignored  memo.Loading[string, map[string]bool]
}

// stream is the stream's name.
const stream = "account_data"

// MaxIDSQL is for the storage.StreamIDsConfig of the stream.
const MaxIDSQL = `SELECT coalesce(max(stream_id), 0) FROM account_data`

// change is one change of one piece of data, as it travels to the stream's writer.
type change struct {
	UserID  string          `json:"user_id"`
	UserNID storage.UserNID `json:"user_nid"`
	RoomID  string          `json:"room_id,omitempty"`
	Type    string          `json:"type"`
	// Op is what is done: "put" Content, "tag" or "untag" Tag, move the read marker to Content's event ("fully_read") if
	// the current one is not at or behind EventNID.
	Op       string           `json:"op"`
	Content  json.RawMessage  `json:"content,omitempty"`
	Tag      string           `json:"tag,omitempty"`
	EventNID storage.EventNID `json:"event_nid,omitempty"`
}

const (
	opPut       = "put"
	opTag       = "tag"
	opUntag     = "untag"
	opFullyRead = "fully_read"
)

var changeMethod = rpc.Method[change, struct{}]{
	Name: "change_account_data", Args: func(c change) []string { return []string{c.UserID, c.Op} },
}

// New makes the service, has cfg.Client follow the stream (and publish it where this process is its writer), and
// registers its method with cfg.RPC. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.Client == nil || cfg.Writers == nil || cfg.RPC == nil {
		return nil, errors.New("accountdata: Config.DB, Client, Writers and RPC are required")
	}
	s := &Service{cfg: cfg, ignored: memo.NewLoading[string, map[string]bool](maxIgnored)}
	var err error
	s.follower, err = replication.Follow(cfg.Client, streams.AccountData(), replication.FollowConfig[streams.AccountDataRow]{
		Source: s.source,
		From:   cfg.From,
		OnGap:  func(context.Context, string, int64, int64) { s.ignored.InvalidateAll() },
	})
	if err != nil {
		return nil, fmt.Errorf("accountdata: %w", err)
	}
	s.follower.Handle(s.forgetIgnored)
	if !cfg.Writers.Writes(stream) {
		return s, nil
	}
	s.writer, err = streams.NewWriter(streams.WriterConfig[streams.AccountDataRow]{
		DB: cfg.DB, IDs: cfg.IDs, Client: cfg.Client, Stream: streams.AccountData(), Source: s.source,
	})
	if err != nil {
		return nil, fmt.Errorf("accountdata: %w", err)
	}
	mxrpc.Register(cfg.RPC, changeMethod, func(ctx context.Context, c change) (struct{}, error) {
		return struct{}{}, s.apply(ctx, c)
	})
	return s, nil
}

// Get returns the content of one piece of data, M_NOT_FOUND where there is none. roomID is "" for global data.
func (s *Service) Get(ctx context.Context, userID, roomID, dataType string) (json.RawMessage, error) {
	if err := check(roomID, dataType); err != nil {
		return nil, err
	}
	if dataType == TypePushRules && roomID == "" && s.cfg.PushRules != nil {
		return s.cfg.PushRules.PushRules(ctx, userID)
	}
	user, err := s.user(ctx, userID)
	if err != nil {
		return nil, err
	}
	d, err := storage.GetAccountData(ctx, s.cfg.DB, user, roomID, dataType)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.WithMessage("Account data not found")
	}
	if err != nil {
		return nil, err
	}
	return d.Content, nil
}

// Put stores a JSON object in place of what was there; {} removes the data. roomID is "" for global data. Types the
// server manages are M_BAD_JSON with status 405.
func (s *Service) Put(ctx context.Context, userID, roomID, dataType string, content json.RawMessage) error {
	if err := check(roomID, dataType); err != nil {
		return err
	}
	if dataType == TypeFullyRead || dataType == TypePushRules {
		return mxerr.BadJSON.WithStatus(405).WithMessage("Cannot set " + dataType + " through this API")
	}
	return s.change(ctx, userID, change{RoomID: roomID, Type: dataType, Op: opPut, Content: content})
}

// Delete removes data. Data that is not there is passed over.
func (s *Service) Delete(ctx context.Context, userID, roomID, dataType string) error {
	return s.Put(ctx, userID, roomID, dataType, json.RawMessage("{}"))
}

// SetFullyRead moves a user's read marker of a room to an event, unless it stands there or further on. The caller has
// checked that the event belongs to the room.
func (s *Service) SetFullyRead(ctx context.Context, userID, roomID, eventID string, event storage.EventNID) error {
	content, err := json.Marshal(map[string]string{"event_id": eventID})
	if err != nil {
		return err
	}
	return s.change(ctx, userID, change{RoomID: roomID, Type: TypeFullyRead, Op: opFullyRead, Content: content, EventNID: event})
}

// Position is how far this process has followed the stream.
func (s *Service) Position() replication.Position { return s.follower.Position() }

// Handle has fn called with each update of the stream.
func (s *Service) Handle(fn func(ctx context.Context, u replication.Update[streams.AccountDataRow])) {
	s.follower.Handle(fn)
}

func check(roomID, dataType string) error {
	if roomID != "" && !id.IsRoom(roomID) {
		return mxerr.InvalidParam.WithMessage(roomID + " is not a valid room ID")
	}
	if dataType == "" || len(dataType) > maxTypeLen || strings.IndexByte(dataType, 0) >= 0 {
		return mxerr.InvalidParam.WithMessage("Invalid account data type")
	}
	return nil
}

func (s *Service) user(ctx context.Context, userID string) (storage.UserNID, error) {
	users, err := storage.LookupUsers(ctx, s.cfg.DB, []string{userID})
	if err != nil {
		return 0, err
	}
	if len(users) == 0 {
		return 0, mxerr.NotFound.WithMessage("User not found")
	}
	return users[0].NID, nil
}

// change makes a change on the process that writes the stream.
func (s *Service) change(ctx context.Context, userID string, c change) error {
	user, err := s.user(ctx, userID)
	if err != nil {
		return err
	}
	c.UserID, c.UserNID = userID, user
	owner := s.cfg.Writers.Owner(stream, userID)
	if owner == s.cfg.Client.Instance() {
		return s.apply(ctx, c)
	}
	_, err = mxrpc.Call(ctx, s.cfg.RPC, owner, changeMethod, c)
	return err
}

// apply makes a change here.
func (s *Service) apply(ctx context.Context, c change) error {
	return s.writer.Write(ctx, 1, func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]replication.Row[streams.AccountDataRow], error) {
		d := &storage.AccountData{UserNID: c.UserNID, RoomID: c.RoomID, Type: c.Type, Content: c.Content}
		if c.Op != opPut {
			var err error
			if d, err = storage.LockAccountData(ctx, tx, c.UserNID, c.RoomID, c.Type); err != nil {
				return nil, err
			}
			changed, err := c.edit(ctx, tx, d)
			if err != nil || !changed {
				return nil, err
			}
		}
		d.StreamID, d.WriterNID, d.Deleted = ids[0], writer, isEmpty(d.Content)
		if d.Deleted {
			d.Content = json.RawMessage("{}")
		}
		if err := storage.PutAccountData(ctx, tx, []storage.AccountData{*d}); err != nil {
			return nil, err
		}
		return []replication.Row[streams.AccountDataRow]{{Token: ids[0], Value: rowOf(c.UserID, c.RoomID, c.Type)}}, nil
	})
}

// edit changes data that is locked. It reports false where nothing is to be done.
func (c *change) edit(ctx context.Context, tx *storage.Tx, d *storage.AccountData) (bool, error) {
	switch c.Op {
	case opTag, opUntag:
		content, changed, err := editTags(d.Content, c.Tag, c.Content, c.Op == opTag)
		d.Content = content
		return changed, err
	case opFullyRead:
		var old struct {
			EventID string `json:"event_id"`
		}
		if json.Unmarshal(d.Content, &old) == nil && old.EventID != "" {
			found, err := storage.LookupEvents(ctx, tx, []string{old.EventID})
			if err != nil {
				return false, err
			}
			if len(found) > 0 && found[0].NID >= c.EventNID {
				return false, nil
			}
		}
		d.Content = c.Content
		return true, nil
	}
	return false, fmt.Errorf("unknown change %q of account data", c.Op)
}

func rowOf(userID, roomID, dataType string) streams.AccountDataRow {
	row := streams.AccountDataRow{UserID: userID, DataType: dataType}
	if roomID != "" {
		row.RoomID = &roomID
	}
	return row
}

// isEmpty reports whether content is an object without keys.
func isEmpty(content json.RawMessage) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(content, &m) == nil && len(m) == 0
}

func (s *Service) source(ctx context.Context, writer string, after, upTo int64, limit int) ([]replication.Row[streams.AccountDataRow], int64, error) {
	found, err := storage.AccountDataUpdates(ctx, s.cfg.DB, writer, after, upTo, limit)
	if err != nil {
		return nil, 0, err
	}
	reached := upTo
	if len(found) >= limit {
		reached = found[len(found)-1].StreamID
	}
	rows := make([]replication.Row[streams.AccountDataRow], len(found))
	for i, f := range found {
		rows[i] = replication.Row[streams.AccountDataRow]{Token: f.StreamID, Value: rowOf(f.UserID, f.RoomID, f.Type)}
	}
	return rows, reached, nil
}
