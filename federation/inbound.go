package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// Writer is what inbound requests write with. *writer.Writer is one.
type Writer interface {
	EventWriter
	// Send writes events of this server's users.
	Send(ctx context.Context, roomID string, drafts ...writer.Draft) ([]writer.Result, error)
	// ReceiveOutOfBand writes an event about a user of this server in a room that this server is not in.
	ReceiveOutOfBand(ctx context.Context, o writer.OutOfBand) (writer.Result, error)
}

// Rooms is what other servers ask about rooms. *room.Service answers.
type Rooms interface {
	// NearestEvent returns the event of a room nearest to a time.
	NearestEvent(ctx context.Context, r *store.Room, ts int64, forwards bool) (*room.EventAt, error)
	// Authoriser returns a local user who may let somebody join a restricted room.
	Authoriser(ctx context.Context, r *store.Room, userID string) (string, error)
}

// InviteRules says who may invite this server's users.
type InviteRules interface {
	// CheckInvite returns a Matrix error where the user wants no invites of the sender.
	CheckInvite(ctx context.Context, sender, userID, roomID string) error
}

// InboundConfig holds what an Inbound needs.
type InboundConfig struct {
	// ServerName is the name of this server, Instance that of this process. Required.
	ServerName, Instance string
	// DB is the database. Required.
	DB *storage.DB
	// Store reads rooms and events. Required.
	Store *store.Store
	// Writer writes events. Required.
	Writer Writer
	// Signer is the server's signing key. Required.
	Signer event.Signer
	// Ingest takes in events. Required.
	Ingest *Ingest
	// Rooms answers questions about rooms. Required.
	Rooms Rooms
	// EDUs takes what is no event.
	EDUs EDUHandlers
	// Invites says whether a user may be invited. Without it, anybody may be.
	Invites InviteRules
	// Limits bounds the requests of one server. The zero value sets no bounds.
	Limits config.FederationRates
	// ClaimTTL is how long a room stays with a process that has died. Defaults to 15 seconds.
	ClaimTTL time.Duration
	// Workers bounds the rooms that are worked on at once. Defaults to 50.
	Workers int
	// MaxStagedPerOrigin and MaxStagedPerRoom bound the events that wait; a server that sends more is told to come later.
	// Default to 20,000 and 5,000.
	MaxStagedPerOrigin, MaxStagedPerRoom int
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

func (c InboundConfig) withDefaults() InboundConfig {
	c.ClaimTTL = cmp.Or(c.ClaimTTL, 15*time.Second)
	c.Workers = cmp.Or(c.Workers, 50)
	c.MaxStagedPerOrigin = cmp.Or(c.MaxStagedPerOrigin, 20_000)
	c.MaxStagedPerRoom = cmp.Or(c.MaxStagedPerRoom, 5_000)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func (c InboundConfig) validate() error {
	var errs []error
	require := func(ok bool, field string) {
		if !ok {
			errs = append(errs, errors.New("federation: InboundConfig."+field+" is required"))
		}
	}
	require(c.ServerName != "", "ServerName")
	require(c.Instance != "", "Instance")
	require(c.DB != nil, "DB")
	require(c.Store != nil, "Store")
	require(c.Writer != nil, "Writer")
	require(len(c.Signer.Key) > 0, "Signer")
	require(c.Ingest != nil, "Ingest")
	require(c.Rooms != nil, "Rooms")
	if c.ClaimTTL < 0 || c.Workers < 1 || c.MaxStagedPerOrigin < 1 || c.MaxStagedPerRoom < 1 {
		errs = append(errs, errors.New("federation: InboundConfig: ClaimTTL, Workers and the limits must be positive"))
	}
	return errors.Join(errs...)
}

// Inbound answers what other servers ask and takes what they send. Its endpoints are those of Transactions and
// RoomServer; Run writes what was taken to the rooms. It is safe for concurrent use.
type Inbound struct {
	cfg     InboundConfig
	store   *store.Store
	ingest  *Ingest
	log     zerolog.Logger
	queue   *queue
	origins *originLimits
	flight  singleflight.Group // transactions, so that one that comes twice at once is processed once
}

// NewInbound checks the configuration. It does no I/O.
func NewInbound(cfg InboundConfig) (*Inbound, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	in := &Inbound{
		cfg: cfg, store: cfg.Store, ingest: cfg.Ingest,
		log:     cfg.Log.With().Str("component", "federation_inbound").Logger(),
		origins: newOriginLimits(cfg.Limits),
	}
	in.queue = newQueue(in)
	return in, nil
}

// Name is the component's name in logs and errors.
func (in *Inbound) Name() string { return "federation_inbound" }

// Run writes the events that were taken to their rooms until ctx is done.
func (in *Inbound) Run(ctx context.Context) error { return in.queue.run(ctx) }

// endpoint is one that other servers call, with their signature.
func (in *Inbound) endpoint(method, path string, h homeserver.Handler, versions ...string) homeserver.Endpoint {
	e := homeserver.Endpoint{
		Method: method, Path: "/_matrix/federation/{v}" + path, Versions: versions, Auth: homeserver.AuthServer,
		Handle: func(ctx context.Context, r *homeserver.Request) (any, error) {
			leave, err := in.origins.enter(ctx, r.Origin())
			if err != nil {
				return nil, err
			}
			defer leave()
			return h(ctx, r)
		},
	}
	if method != http.MethodGet {
		e.MaxBody = maxRequestBody
	}
	return e
}

// maxRequestBody bounds what another server sends that is no transaction: an event, with the state that goes with it.
const maxRequestBody = 1 << 20

// openRoom finds a room that this server is in and that its access control list does not keep origin out of.
//
// Errors: M_NOT_FOUND for others, M_FORBIDDEN for servers that are kept out.
func (in *Inbound) openRoom(ctx context.Context, origin, roomID string) (*store.Room, error) {
	if !id.IsRoom(roomID) {
		return nil, mxerr.InvalidParam.WithMessage("Invalid room ID")
	}
	r, err := in.store.Room(ctx, roomID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errUnknownRoom
	}
	if err != nil {
		return nil, fmt.Errorf("find room %s: %w", roomID, err)
	}
	here, err := in.store.HasServer(ctx, r.NID, in.cfg.ServerName)
	if err != nil {
		return nil, err
	}
	if !here {
		return nil, errUnknownRoom
	}
	return r, in.checkACL(ctx, r, origin)
}

// wholeRoom is openRoom of a room whose members are all known, for what rests on them.
//
// Errors: also M_NOT_FOUND for rooms that this server has entered just now.
func (in *Inbound) wholeRoom(ctx context.Context, origin, roomID string) (*store.Room, error) {
	r, err := in.openRoom(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	return r, in.checkWhole(ctx, r)
}

// checkWhole checks that all members of a room are known.
func (in *Inbound) checkWhole(ctx context.Context, r *store.Room) error {
	head, err := in.store.Head(ctx, r.NID)
	if err != nil {
		return fmt.Errorf("read head of %s: %w", r.ID, err)
	}
	if head.Partial {
		return mxerr.NotFound.WithMessage("This server has not fully entered the room yet; ask another one")
	}
	return nil
}

var errUnknownRoom = mxerr.NotFound.WithMessage("This server is not in the room")

// checkACL applies the room's access control list.
//
// Spec: server-server API, "Server Access Control Lists (ACLs)" (v1.19).
func (in *Inbound) checkACL(ctx context.Context, r *store.Room, server string) error {
	e, err := in.store.CurrentStateEvent(ctx, r.NID, "m.room.server_acl", "")
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read access control list of %s: %w", r.ID, err)
	}
	if e == nil {
		return nil
	}
	acl, err := room.ParseServerACL(e.Content())
	if err != nil {
		return nil // a list that cannot be read is none
	}
	if !acl.Allows(server) {
		return mxerr.Forbidden.WithMessage("Server is banned from room")
	}
	return nil
}

// memberRoom is openRoom for questions that only a server in the room may ask.
//
// Errors: also M_FORBIDDEN for other servers.
func (in *Inbound) memberRoom(ctx context.Context, origin, roomID string) (*store.Room, error) {
	r, err := in.openRoom(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	there, err := in.store.HasServer(ctx, r.NID, origin)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, mxerr.Forbidden.WithMessage("Host not in room.")
	}
	return r, nil
}

// eventIn finds an event of a room that has its place there.
//
// Errors: M_NOT_FOUND for others.
func (in *Inbound) eventIn(ctx context.Context, r *store.Room, eventID string) (*store.Event, error) {
	es, err := in.store.PlacedByID(ctx, []string{eventID})
	if err != nil {
		return nil, fmt.Errorf("find event %s: %w", eventID, err)
	}
	e := es[0]
	if e == nil || e.RoomNID != r.NID || e.Flags&(store.Outlier|store.Rejected) != 0 {
		return nil, mxerr.NotFound.WithMessage("Could not find event " + eventID)
	}
	return e, nil
}

// RoomServer is the group of what servers in a room ask each other about it.
//
// Spec: server-server API, "PDUs", "Joining Rooms" and what follows (v1.19).
func RoomServer(in *Inbound) homeserver.Group {
	return homeserver.Group{
		Name:     "federation_rooms",
		Affinity: homeserver.ByRoom,
		Resource: homeserver.ResourceFederation,
		Endpoints: slices.Concat(
			in.graphEndpoints(), in.joinEndpoints(), in.leaveEndpoints(), in.knockEndpoints(), in.inviteEndpoints(),
		),
	}
}
