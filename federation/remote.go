package federation

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/storage"
)

// MemberWriter is what joins and their like write with. *writer.Writer is one.
type MemberWriter interface {
	EventWriter
	// PrepareRoom makes a room of other servers ready for the first event in it.
	PrepareRoom(ctx context.Context, version *event.Version, roomID string) error
	// ReceiveOutOfBand writes an event about a user of this server in a room that this server is not in.
	ReceiveOutOfBand(ctx context.Context, o writer.OutOfBand) (writer.Result, error)
}

// RemoteRoomsConfig holds what a RemoteRooms needs.
type RemoteRoomsConfig struct {
	// Client calls the other servers. Required.
	Client *Client
	// Ingest checks and stores what they tell. Required.
	Ingest *Ingest
	// DB is the database. Required.
	DB *storage.DB
	// Store reads rooms and events. Required.
	Store *store.Store
	// Writer writes events. Required.
	Writer MemberWriter
	// Signer is the server's signing key. Required.
	Signer event.Signer
	// Follower makes a join visible to the requests that come after it on this process. Without it they may not see it
	// yet.
	Follower room.Follower
	// OnPartial, if not nil, is called after a room was entered without its members, and has them fetched (a Resync does).
	// Without it rooms are entered with all that they have.
	OnPartial func()
	// JoinTimeout bounds a join, over all the servers that are tried; a user who gives up earlier does not end it. Defaults
	// to 15 minutes.
	JoinTimeout time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

func (c RemoteRoomsConfig) withDefaults() RemoteRoomsConfig {
	c.JoinTimeout = cmp.Or(c.JoinTimeout, 15*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func (c RemoteRoomsConfig) validate() error {
	var errs []error
	require := func(ok bool, field string) {
		if !ok {
			errs = append(errs, errors.New("federation: RemoteRoomsConfig."+field+" is required"))
		}
	}
	require(c.Client != nil, "Client")
	require(c.Ingest != nil, "Ingest")
	require(c.DB != nil, "DB")
	require(c.Store != nil, "Store")
	require(c.Writer != nil, "Writer")
	require(len(c.Signer.Key) > 0, "Signer")
	if c.JoinTimeout < 0 {
		errs = append(errs, errors.New("federation: RemoteRoomsConfig.JoinTimeout must not be negative"))
	}
	return errors.Join(errs...)
}

// RemoteRooms does for this server's users what takes other servers: it joins, leaves and knocks on rooms that this
// server is not in, has invites signed, and fetches the history of rooms. It is a room.Remote and safe for concurrent use.
//
// Spec: server-server API, "Joining Rooms" and what follows (v1.19).
type RemoteRooms struct {
	cfg    RemoteRoomsConfig
	store  *store.Store
	ingest *Ingest
	log    zerolog.Logger
	// flight makes identical requests once.
	flight singleflight.Group
	// gaps are events that nobody could tell, with the time until which they are not asked for again.
	gaps memo.Cache[string, time.Time]
}

var _ room.Remote = (*RemoteRooms)(nil)

// NewRemoteRooms checks the configuration. It does no I/O.
func NewRemoteRooms(cfg RemoteRoomsConfig) (*RemoteRooms, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &RemoteRooms{
		cfg: cfg, store: cfg.Store, ingest: cfg.Ingest, gaps: memo.New[string, time.Time](gapsPaused),
		log: cfg.Log.With().Str("component", "remote_rooms").Logger(),
	}, nil
}

// once runs fn, or waits for the one that runs already under the same key. fn goes on when its callers have given up:
// what was begun with another server is better ended.
func once[T any](ctx context.Context, m *RemoteRooms, key string, fn func(ctx context.Context) (T, error)) (out T, err error) {
	ch := m.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.JoinTimeout)
		defer cancel()
		return fn(ctx)
	})
	select {
	case res := <-ch:
		out, _ = res.Val.(T)
		return out, res.Err
	case <-ctx.Done():
		return out, ctx.Err()
	}
}

// maxTried bounds the servers that are tried for one request: lists come from clients and from events.
const maxTried = 20

// attempt tries servers in their order until one has done what is asked, or says what no other will see otherwise. The
// error is a Matrix error: that one, or else the first that a server gave, or M_NOT_FOUND where none gave any.
func (m *RemoteRooms) attempt(ctx context.Context, what, roomID string, servers []string, try func(server string) error) error {
	var first *mxerr.Error
	tried := make(map[string]bool, len(servers))
	for _, server := range servers {
		if server == m.cfg.Signer.ServerName || tried[server] || len(tried) == maxTried {
			continue
		}
		tried[server] = true
		err := try(server)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.log.Info().Err(err).Str("request", what).Str("room_id", roomID).Str("destination", server).Msg("server did not help with a room")
		var local *localError
		if errors.As(err, &local) {
			return local.err
		}
		mx := answered(err)
		if mx == nil {
			continue
		}
		if final(mx) {
			return passOn(mx)
		}
		if first == nil {
			first = mx
		}
	}
	if first != nil {
		return passOn(first)
	}
	return mxerr.NotFound.WithMessage("None of the servers that may be in the room could be reached")
}

// localError is a failure of this server, for which no other need be tried.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// ours marks an error as one of this server.
func ours(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}

// answered returns the Matrix error that another server gave, nil where it gave none.
func answered(err error) *mxerr.Error {
	var lost *ConnectionError
	if errors.As(err, &lost) {
		return nil
	}
	mx, _ := mxerr.As(err)
	return mx
}

// final reports whether all servers would answer alike.
func final(mx *mxerr.Error) bool {
	if mx.Status < 400 || mx.Status >= 500 {
		return false
	}
	switch mx.Code {
	case mxerr.NotFound.Code, mxerr.UnableToAuthoriseJoin.Code, mxerr.UnableToGrantJoin.Code, mxerr.Unrecognized.Code,
		mxerr.LimitExceeded.Code, mxerr.Unknown.Code, mxerr.Unauthorized.Code:
		return false
	}
	return true
}

// passOn makes of another server's error one for the client. Where it says that the request was not as it should be, that
// was no fault of the client.
func passOn(mx *mxerr.Error) error {
	switch mx.Code {
	case mxerr.MissingParam.Code, mxerr.InvalidParam.Code, mxerr.BadJSON.Code, mxerr.NotJSON.Code, mxerr.Unauthorized.Code,
		mxerr.Unrecognized.Code, mxerr.UnknownToken.Code, mxerr.MissingToken.Code:
		return mxerr.Unknown.WithStatus(http.StatusBadGateway).WithMessage("Another server refused the request").Wrap(mx)
	}
	if mx.Status >= 500 {
		return mx.WithStatus(http.StatusBadGateway)
	}
	return mx
}

// seen waits until requests on this process see what was written.
func (m *RemoteRooms) seen(ctx context.Context, res writer.Result) error {
	if m.cfg.Follower == nil || res.NID <= 0 {
		return nil
	}
	return m.cfg.Follower.WaitForEvent(ctx, res.Writer, res.NID)
}
