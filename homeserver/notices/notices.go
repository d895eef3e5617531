// Package notices sends users what the server has to tell them, in a room of each user's own.
//
// Spec: client-server API, "Server Notices" (v1.19).
package notices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/storage"
)

// tag marks the room for clients.
const tag = "m.server_notice"

// Rooms makes the rooms and sends to them. *room.Service does.
type Rooms interface {
	Create(ctx context.Context, who *requester.Requester, req room.CreateRequest) (string, error)
	Invite(ctx context.Context, who *requester.Requester, roomID, target, reason string) error
	Join(ctx context.Context, who *requester.Requester, roomIDOrAlias string, req room.JoinRequest) (string, error)
	Send(ctx context.Context, who *requester.Requester, roomID string, req room.SendRequest) (string, error)
	SendState(ctx context.Context, who *requester.Requester, roomID, stateKey string, req room.SendRequest) (string, error)
}

// Accounts has the account that the notices come from. *account.Service does.
type Accounts interface {
	Account(ctx context.Context, userID string) (*storage.Account, error)
	Create(ctx context.Context, n account.NewAccount) (storage.UserNID, string, error)
	SetProfileField(ctx context.Context, by *requester.Requester, userID, field string, value json.RawMessage) error
}

// Tags marks rooms. *accountdata.Service does.
type Tags interface {
	SetTag(ctx context.Context, userID, roomID, tag string, content json.RawMessage) error
}

// Config configures a Service.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// ServerName is the name of this server. Required.
	ServerName string
	// Rooms, Accounts and Tags do what their types say. Required.
	Rooms    Rooms
	Accounts Accounts
	Tags     Tags
	// Options are the server's choices (server_notices). Without SystemMXIDLocalpart there are no notices.
	Options config.ServerNotices
	// Log is silent by default.
	Log zerolog.Logger
}

// Service sends notices. It is safe for concurrent use.
type Service struct {
	cfg    Config
	sender *requester.Requester
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.ServerName == "" || cfg.Rooms == nil || cfg.Accounts == nil || cfg.Tags == nil {
		return nil, errors.New("notices: Config.DB, ServerName, Rooms, Accounts and Tags are required")
	}
	sender := &requester.Requester{UserID: cfg.Options.Sender(cfg.ServerName), DeviceID: "server_notices", RateLimitExempt: true}
	return &Service{cfg: cfg, sender: sender}, nil
}

// Notice is what a user is told.
type Notice struct {
	// UserID is a user of this server. Required.
	UserID string
	// Type is the event type. Defaults to m.room.message.
	Type string
	// StateKey makes it a state event.
	StateKey *string
	// Content is a JSON object. Required.
	Content json.RawMessage
	// TxnID makes the request idempotent; "" for none.
	TxnID string
}

// Send tells a user something, in the room made for it the first time, and returns the event id. A user who has left the
// room is invited again.
//
// Errors: M_UNKNOWN with status 400 on servers without notices, M_NOT_FOUND for users that this server does not have,
// those of room.Service.Send.
func (s *Service) Send(ctx context.Context, n Notice) (string, error) {
	if s.sender.UserID == "" {
		return "", mxerr.Unknown.WithStatus(400).WithMessage("Server notices are not enabled on this server")
	}
	if !id.IsUser(n.UserID) || strings.ContainsRune(n.UserID, 0) {
		return "", mxerr.NotFound.WithMessage("User not found")
	}
	a, err := s.cfg.Accounts.Account(ctx, n.UserID)
	if err != nil {
		return "", err
	}
	if a.Deactivated {
		return "", mxerr.NotFound.WithMessage("User not found")
	}
	if n.Type == "" {
		n.Type = "m.room.message"
	}
	roomID, err := s.room(ctx, a)
	if err != nil {
		return "", fmt.Errorf("room for notices to %s: %w", n.UserID, err)
	}
	req := room.SendRequest{Type: n.Type, Content: n.Content, TxnID: n.TxnID}
	if n.StateKey != nil {
		return s.cfg.Rooms.SendState(ctx, s.sender, roomID, *n.StateKey, req)
	}
	return s.cfg.Rooms.Send(ctx, s.sender, roomID, req)
}

// room returns the room of a user, made if need be, with the user invited or in it.
func (s *Service) room(ctx context.Context, a *storage.Account) (string, error) {
	var roomID string
	err := storage.InTx(ctx, s.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
		var err error
		if roomID, err = storage.LockNoticeRoom(ctx, tx, a.NID); err != nil || roomID != "" {
			return err
		}
		if roomID, err = s.create(ctx); err != nil {
			return err
		}
		return storage.SetNoticeRoom(ctx, tx, a.NID, roomID)
	})
	if err != nil {
		return "", err
	}
	m, err := s.membership(ctx, roomID, a.NID)
	if err != nil || m == storage.MembershipJoin || m == storage.MembershipInvite {
		return roomID, err
	}
	if err := s.cfg.Tags.SetTag(ctx, a.UserID, roomID, tag, json.RawMessage(`{}`)); err != nil {
		return "", err
	}
	if err := s.cfg.Rooms.Invite(ctx, s.sender, roomID, a.UserID, ""); err != nil {
		return "", err
	}
	if s.cfg.Options.AutoJoin {
		if _, err := s.cfg.Rooms.Join(ctx, &requester.Requester{UserID: a.UserID, RateLimitExempt: true}, roomID, room.JoinRequest{}); err != nil {
			return "", err
		}
	}
	return roomID, nil
}

func (s *Service) membership(ctx context.Context, roomID string, user storage.UserNID) (storage.Membership, error) {
	rooms, err := storage.LookupRooms(ctx, s.cfg.DB, []string{roomID})
	if err != nil || len(rooms) == 0 {
		return 0, err
	}
	members, err := storage.GetMembers(ctx, s.cfg.DB, rooms[0].NID, []storage.UserNID{user})
	if err != nil || len(members) == 0 {
		return 0, err
	}
	return members[0].Membership, nil
}

// create makes a room whose guest may only read it.
func (s *Service) create(ctx context.Context) (string, error) {
	if err := s.ensureSender(ctx); err != nil {
		return "", err
	}
	o := &s.cfg.Options
	name := o.RoomName
	if name == "" {
		name = "Server Notices"
	}
	req := room.CreateRequest{
		Preset: room.PresetPrivateChat, Name: name, Topic: o.RoomTopic,
		CreationContent:           map[string]json.RawMessage{"m.federate": json.RawMessage("false")},
		PowerLevelContentOverride: map[string]json.RawMessage{"users_default": json.RawMessage("-10")},
	}
	if o.RoomAvatarURL != "" {
		content, err := json.Marshal(map[string]string{"url": o.RoomAvatarURL})
		if err != nil {
			return "", err
		}
		req.InitialState = append(req.InitialState, room.InitialState{Type: "m.room.avatar", Content: content})
	}
	return s.cfg.Rooms.Create(ctx, s.sender, req)
}

// ensureSender makes the account that the notices come from, to which nobody can log in.
func (s *Service) ensureSender(ctx context.Context) error {
	o := &s.cfg.Options
	_, err := s.cfg.Accounts.Account(ctx, s.sender.UserID)
	if !errors.Is(err, mxerr.NotFound) {
		return err
	}
	name := o.SystemMXIDDisplayName
	if name == "" {
		name = o.SystemMXIDLocalpart
	}
	_, _, err = s.cfg.Accounts.Create(ctx, account.NewAccount{Localpart: o.SystemMXIDLocalpart, DisplayName: name, UserType: "support"})
	if err != nil && !errors.Is(err, mxerr.UserInUse) {
		return err
	}
	if o.SystemMXIDAvatarURL == "" {
		return nil
	}
	avatar, err := json.Marshal(o.SystemMXIDAvatarURL)
	if err != nil {
		return err
	}
	by := &requester.Requester{UserID: s.sender.UserID, IsAdmin: true} // also where users may not set avatars
	return s.cfg.Accounts.SetProfileField(ctx, by, s.sender.UserID, account.FieldAvatarURL, avatar)
}
