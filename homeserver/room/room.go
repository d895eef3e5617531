// Package room holds what people do in rooms: create, enter, leave and upgrade them, send to them, read them, and find
// them by alias, directory or space.
//
// A [Service] checks what can be checked before the room's writer is asked (shape, aliases, whom the requester may act
// for) and leaves every question of permission to the authorisation rules, which the writer applies to the exact state.
// So a stale cache here can make a request slower to fail, never wrongly succeed.
//
// What needs another server goes through [Remote] and [RemoteDirectory]. Without them the service answers as if no other
// server could be reached.
//
// Spec: client-server API, "Rooms" and "Events" (v1.19).
package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/ratelimit"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// Requester is who makes a request.
type Requester = requester.Requester

// Config holds what a Service needs.
type Config struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// DB is the database. Required.
	DB *storage.DB
	// Store reads rooms and events. Required.
	Store *store.Store
	// Writer writes events. Required.
	Writer Writer
	// WriterIDs numbers the writers in tokens. Required.
	WriterIDs replication.WriterIDs
	// Profiles gives the name and picture of local users for their membership events. Without it they have none.
	Profiles Profiles
	// Follower makes what a request has written visible to those that follow it on this process. Without it they may
	// read what was before.
	Follower Follower
	// Personal carries over what users have set for a room that is replaced. Without it nothing is.
	Personal Personal
	// Ignores knows whom users ignore. Without it nobody is ignored.
	Ignores Ignores
	// NoticesFrom is the user whose invites to rooms for the server's notices nobody may turn down; "" if there is none.
	NoticesFrom string
	// Positions gives the token of the deprecated /initialSync. Without it the token starts over.
	Positions Positions
	// Whole waits for the members of rooms that were entered without them. Without it all states are taken to be whole.
	Whole Whole
	// Remote and RemoteDirectory reach other servers. Without them no other server can be reached.
	Remote          Remote
	RemoteDirectory RemoteDirectory
	// Identity resolves third-party identifiers. Without it, invites by them answer M_SERVER_NOT_TRUSTED.
	Identity Identity
	// DefaultVersion is the version of rooms that name none. Defaults to event.DefaultVersion.
	DefaultVersion string
	// Limits holds the limits by room and by invited user, beside those the endpoints name. Without it there are none.
	Limits *ratelimit.Limiter
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Writer writes events to rooms. *writer.Writer is one.
type Writer interface {
	// Send writes drafts to a room in their order, all of them or none.
	Send(ctx context.Context, roomID string, drafts ...writer.Draft) ([]writer.Result, error)
	// CreateRoom makes a room and writes its first events, all of them or none.
	CreateRoom(ctx context.Context, version *event.Version, create writer.Draft, drafts ...writer.Draft) (*writer.Created, error)
}

// Profiles gives the profiles of local users.
type Profiles interface {
	// Profile returns the display name and the avatar URL of a local user, each "" where there is none.
	Profile(ctx context.Context, userID string) (displayName, avatarURL string, err error)
}

// Follower waits for this process to have seen events in the events stream.
type Follower interface {
	// WaitForEvent returns when the process has applied the event that writer wrote with the given number.
	WaitForEvent(ctx context.Context, writer string, nid storage.EventNID) error
}

// Whole waits for the states of rooms to be known whole. *fullstate.Service does.
type Whole interface {
	// Wait returns once the whole state of a room is known.
	Wait(ctx context.Context, room storage.RoomNID) error
}

// Personal keeps what users have set for rooms: tags, push rules, direct chats.
type Personal interface {
	// CopyRoomSettings carries a local user's settings for one room over to the room that replaces it. It may be called
	// more than once.
	CopyRoomSettings(ctx context.Context, userID, fromRoomID, toRoomID string) error
}

// Ignores knows whom users ignore.
type Ignores interface {
	// IgnoredUsers returns the users whose messages a user does not want to see. The map must not be changed.
	IgnoredUsers(ctx context.Context, userID string) (map[string]bool, error)
}

// RemoteJoin is a join, knock or leave that another server has to help with.
type RemoteJoin struct {
	// RoomID is the room, UserID the local user.
	RoomID, UserID string
	// Servers are servers that may be in the room, the likeliest first.
	Servers []string
	// Content is the content of the m.room.member event, membership included. The remote may add to it.
	Content json.RawMessage
}

// Remote reaches the servers of rooms that this server is not in, and of people in those that it is in.
//
// Errors are Matrix errors: those the other server gave, or M_NOT_FOUND where none could be reached.
type Remote interface {
	// Join joins a local user to a room through another server and returns when the room can be read here.
	Join(ctx context.Context, j RemoteJoin) error
	// Knock knocks for a local user.
	Knock(ctx context.Context, j RemoteJoin) error
	// Leave declines an invite, withdraws a knock or leaves a room in the name of a local user.
	Leave(ctx context.Context, j RemoteJoin) error
	// Invite has the invited user's server sign an invite to a room this server is in, and writes it.
	Invite(ctx context.Context, roomID string, invite writer.Draft) (writer.Result, error)
	// Backfill asks for events that are missing and for those before them, about limit of them, and returns how many were
	// written. Without from it begins with those missing behind the earliest events that are known.
	Backfill(ctx context.Context, roomID string, from []string, limit int) (int, error)
	// EventAt returns the event nearest to a time, in a direction, as the servers of the room know it, once it can be read
	// here.
	EventAt(ctx context.Context, roomID string, ts int64, forwards bool) (*EventAt, error)
}

// RemoteDirectory asks other servers about rooms. Errors are as with Remote.
type RemoteDirectory interface {
	// ResolveAlias returns the room of another server's alias, and servers that know the room.
	ResolveAlias(ctx context.Context, alias string) (roomID string, servers []string, err error)
	// PublicRooms returns another server's published rooms.
	PublicRooms(ctx context.Context, server string, q PublicRoomsQuery) (*PublicRoomsPage, error)
	// Hierarchy returns the summary of a room and of its children, as far as one of the servers tells.
	Hierarchy(ctx context.Context, roomID string, servers []string, suggestedOnly bool) (*RemoteHierarchy, error)
}

// Identity resolves third-party identifiers at identity servers.
type Identity interface {
	// Invite looks up the owner of an identifier. It returns the user id of whoever has bound it, or else stores the
	// invite at the identity server and returns the content of the m.room.third_party_invite event and its token.
	Invite(ctx context.Context, who *Requester, roomID string, in Invite3PID) (userID, token string, content json.RawMessage, err error)
}

// Service does what people do in rooms. It is safe for concurrent use.
type Service struct {
	cfg   Config
	store *store.Store
	views *view.Views
	log   zerolog.Logger
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Service, error) {
	var errs []error
	require := func(ok bool, field string) {
		if !ok {
			errs = append(errs, errors.New("room: Config."+field+" is required"))
		}
	}
	require(cfg.ServerName != "", "ServerName")
	require(cfg.DB != nil, "DB")
	require(cfg.Store != nil, "Store")
	require(cfg.Writer != nil, "Writer")
	require(cfg.WriterIDs != nil, "WriterIDs")
	if cfg.DefaultVersion == "" {
		cfg.DefaultVersion = event.DefaultVersion
	}
	if _, ok := event.LookupVersion(cfg.DefaultVersion); !ok {
		errs = append(errs, errors.New("room: Config.DefaultVersion is not a known room version"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{
		cfg:   cfg,
		store: cfg.Store,
		views: view.New(cfg.Store),
		log:   cfg.Log.With().Str("component", "room").Logger(),
	}, nil
}

// Views returns the views of events the service reads with.
func (s *Service) Views() *view.Views { return s.views }

// DefaultVersion returns the version of rooms that name none, as /capabilities tells it.
func (s *Service) DefaultVersion() string { return s.cfg.DefaultVersion }

func (s *Service) now() int64 { return s.cfg.Now().UnixMilli() }

func (s *Service) viewer(who *Requester) view.Viewer {
	return view.Viewer{UserID: who.UserID, DeviceID: who.DeviceID}
}

// reader is viewer with what decides whether events are shown at all.
func (s *Service) reader(ctx context.Context, who *Requester) (view.Viewer, error) {
	v := s.viewer(who)
	if s.cfg.Ignores == nil {
		return v, nil
	}
	var err error
	if v.Ignored, err = s.cfg.Ignores.IgnoredUsers(ctx, who.UserID); err != nil {
		return v, fmt.Errorf("read whom %s ignores: %w", who.UserID, err)
	}
	return v, nil
}

// active refuses what accounts must not do that an administrator has suspended.
//
// Spec: client-server API, "Account suspension" (v1.19).
func active(who *Requester) error {
	if who.Suspended {
		return mxerr.UserSuspended.WithMessage("You cannot perform this action while suspended")
	}
	return nil
}

func (s *Service) format() view.Format { return view.Format{NowTS: s.now()} }

// limit takes a token of a rate limit that is not the endpoint's own.
func (s *Service) limit(who *Requester, class, key string) error {
	if who.RateLimitExempt {
		return nil
	}
	return s.cfg.Limits.Allow(class, key)
}

// isLocal reports whether an id ends in this server's name.
func (s *Service) isLocal(id string) bool {
	n := len(id) - len(s.cfg.ServerName)
	return n > 1 && id[n-1] == ':' && id[n:] == s.cfg.ServerName
}
