// Package pushers keeps where users have their notifications sent. Changes travel on the pushers stream, which has one
// writer; any other process hands them on to it.
//
// Spec: client-server API, "Push Notifications", "Client behaviour" (v1.19).
package pushers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// Bounds of what is stored, in bytes; the first two are the specification's.
const (
	maxAppID   = 64
	maxPushkey = 512
	maxText    = 1024
	maxData    = 16 << 10
)

// The kinds of pushers.
const (
	// KindHTTP sends to a push gateway.
	KindHTTP = "http"
	// KindEmail writes to an e-mail address of the user's, which is the pushkey.
	KindEmail = "email"
)

// emailAppID is the app id of all e-mail pushers.
const emailAppID = "m.email"

// gatewayPath is the path of every push gateway's URL.
const gatewayPath = "/_matrix/push/v1/notify"

// Pusher is a pusher as its user sees it.
type Pusher struct {
	AppID             string          `json:"app_id"`
	Pushkey           string          `json:"pushkey"`
	Kind              string          `json:"kind"`
	AppDisplayName    string          `json:"app_display_name"`
	DeviceDisplayName string          `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag,omitempty"`
	Lang              string          `json:"lang"`
	Data              json.RawMessage `json:"data"`
}

// Config holds what a Service needs.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Store knows users. Required.
	Store *store.Store
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
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Service is pushers in one process. It is safe for concurrent use.
type Service struct {
	cfg    Config
	writer *streams.Writer[streams.PushersRow] // nil unless this process writes the stream
}

const stream = "pushers"

// MaxIDSQL is for the storage.StreamIDsConfig of the stream.
const MaxIDSQL = `SELECT coalesce(max(stream_id), 0) FROM pushers`

// change is one change, as it travels to the stream's writer.
type change struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Pusher   Pusher `json:"pusher"`
	// Delete takes the pusher away; Append leaves those of other users with the same app id and pushkey.
	Delete bool `json:"delete,omitempty"`
	Append bool `json:"append,omitempty"`
	// TS is when, in milliseconds since the epoch.
	TS int64 `json:"ts,omitempty"`
}

var changeMethod = rpc.Method[change, struct{}]{
	Name: "change_pusher", Args: func(c change) []string { return []string{c.UserID} },
}

// New makes the service, has cfg.Client follow the stream (and publish it where this process is its writer), and
// registers its method with cfg.RPC. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.Store == nil || cfg.Client == nil || cfg.Writers == nil || cfg.RPC == nil {
		return nil, errors.New("pushers: Config.DB, Store, Client, Writers and RPC are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg}
	_, err := replication.Follow(cfg.Client, streams.Pushers(), replication.FollowConfig[streams.PushersRow]{Source: s.source, From: cfg.From})
	if err != nil {
		return nil, fmt.Errorf("pushers: %w", err)
	}
	if !cfg.Writers.Writes(stream) {
		return s, nil
	}
	s.writer, err = streams.NewWriter(streams.WriterConfig[streams.PushersRow]{
		DB: cfg.DB, IDs: cfg.IDs, Client: cfg.Client, Stream: streams.Pushers(), Source: s.source,
	})
	if err != nil {
		return nil, fmt.Errorf("pushers: %w", err)
	}
	mxrpc.Register(cfg.RPC, changeMethod, func(ctx context.Context, c change) (struct{}, error) { return struct{}{}, s.apply(ctx, c) })
	return s, nil
}

// List returns a user's pushers.
func (s *Service) List(ctx context.Context, userID string) ([]Pusher, error) {
	user, err := s.cfg.Store.UserNID(ctx, userID)
	if err != nil {
		return nil, err
	}
	rows, err := storage.GetPushers(ctx, s.cfg.DB, user)
	if err != nil {
		return nil, err
	}
	out := make([]Pusher, len(rows))
	for i, r := range rows {
		out[i] = Pusher{r.AppID, r.Pushkey, r.Kind, r.AppDisplayName, r.DeviceDisplayName, r.ProfileTag, r.Lang, r.Data}
	}
	return out, nil
}

// Set stores a pusher for the requester's device, in place of the one of the same app id and pushkey. Unless append is
// set, other users' pushers of that app id and pushkey are taken away: the app has changed hands. Errors are
// M_INVALID_PARAM and M_MISSING_PARAM for what cannot be one, M_THREEPID_NOT_FOUND for an e-mail address that is not the
// user's.
func (s *Service) Set(ctx context.Context, who *requester.Requester, p Pusher, append bool) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.Kind == KindEmail {
		owner, err := storage.FindThreepid(ctx, s.cfg.DB, "email", p.Pushkey)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if owner != who.UserID {
			return mxerr.ThreepidNotFound.WithMessage("The e-mail address is not one of the account's")
		}
	}
	return s.change(ctx, change{UserID: who.UserID, DeviceID: who.DeviceID, Pusher: p, Append: append, TS: s.cfg.Now().UnixMilli()})
}

// Delete takes a pusher away. One that is not there is passed over.
func (s *Service) Delete(ctx context.Context, userID, appID, pushkey string) error {
	return s.change(ctx, change{UserID: userID, Pusher: Pusher{AppID: appID, Pushkey: pushkey}, Delete: true})
}

func (p *Pusher) check() error {
	invalid := func(msg string) error { return mxerr.InvalidParam.WithMessage(msg) }
	if p.AppID == "" || len(p.AppID) > maxAppID {
		return invalid("app_id must have 1 to 64 bytes")
	}
	if p.Pushkey == "" || len(p.Pushkey) > maxPushkey {
		return invalid("pushkey must have 1 to 512 bytes")
	}
	for _, s := range []string{p.AppID, p.Pushkey, p.AppDisplayName, p.DeviceDisplayName, p.ProfileTag, p.Lang} {
		if len(s) > maxText || strings.IndexByte(s, 0) >= 0 {
			return invalid("The values of a pusher must be short and without NUL characters")
		}
	}
	data := gjson.ParseBytes(p.Data)
	if !data.IsObject() || len(p.Data) > maxData {
		return invalid("data must be an object of moderate size")
	}
	switch p.Kind {
	case KindHTTP:
		return checkGateway(data.Get("url"))
	case KindEmail:
		if p.AppID != emailAppID {
			return invalid("The app_id of an e-mail pusher must be " + emailAppID)
		}
		return nil
	}
	return invalid("kind must be 'http', 'email' or null")
}

// checkGateway refuses what is no URL of a push gateway: https and the fixed path. In the server's own network, where
// tests and gateways beside the server live, http will do.
func checkGateway(target gjson.Result) error {
	if target.Type != gjson.String {
		return mxerr.MissingParam.WithMessage("'url' must be provided in data")
	}
	u, err := url.Parse(target.Str)
	if err != nil || u.Host == "" || u.Path != gatewayPath || u.User != nil {
		return mxerr.InvalidParam.WithMessage("'url' must be an HTTPS URL with the path " + gatewayPath)
	}
	if u.Scheme == "https" || u.Scheme == "http" && isNear(u.Hostname()) {
		return nil
	}
	return mxerr.InvalidParam.WithMessage("'url' must be an HTTPS URL")
}

// isNear reports whether a host is one of the server's own network, by its address or by a name that means nothing
// elsewhere.
func isNear(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
	}
	_, domain, dotted := strings.Cut(strings.ToLower(host), ".")
	if i := strings.LastIndexByte(domain, '.'); i >= 0 {
		domain = domain[i+1:]
	}
	return !dotted || domain == "localhost" || domain == "internal" || domain == "local"
}

// change makes a change on the process that writes the stream.
func (s *Service) change(ctx context.Context, c change) error {
	owner := s.cfg.Writers.Owner(stream, c.UserID)
	if owner == s.cfg.Client.Instance() {
		return s.apply(ctx, c)
	}
	_, err := mxrpc.Call(ctx, s.cfg.RPC, owner, changeMethod, c)
	return err
}

// apply makes a change here.
func (s *Service) apply(ctx context.Context, c change) error {
	users, err := s.cfg.Store.InternUsers(ctx, []string{c.UserID})
	if err != nil {
		return err
	}
	p := &c.Pusher
	return s.writer.Write(ctx, 1, func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]replication.Row[streams.PushersRow], error) {
		var rows []replication.Row[streams.PushersRow]
		if c.Delete || !c.Append {
			gone, err := storage.DeletePushers(ctx, tx, p.AppID, p.Pushkey, users[0], c.Delete, ids[0], writer)
			if err != nil {
				return nil, err
			}
			for _, u := range gone {
				rows = append(rows, replication.Row[streams.PushersRow]{Token: ids[0], Value: streams.PushersRow{UserID: u, AppID: p.AppID, Pushkey: p.Pushkey, Deleted: true}})
			}
		}
		if c.Delete {
			return rows, nil
		}
		err := storage.PutPusher(ctx, tx, storage.Pusher{
			UserNID: users[0], AppID: p.AppID, Pushkey: p.Pushkey, StreamID: ids[0], WriterNID: writer, DeviceID: c.DeviceID, SetTS: c.TS, Kind: p.Kind,
			AppDisplayName: p.AppDisplayName, DeviceDisplayName: p.DeviceDisplayName, ProfileTag: p.ProfileTag, Lang: p.Lang, Data: p.Data,
		})
		return append(rows, replication.Row[streams.PushersRow]{Token: ids[0], Value: streams.PushersRow{UserID: c.UserID, AppID: p.AppID, Pushkey: p.Pushkey}}), err
	})
}

func (s *Service) source(ctx context.Context, writer string, after, upTo int64, limit int) ([]replication.Row[streams.PushersRow], int64, error) {
	found, err := storage.PusherUpdates(ctx, s.cfg.DB, writer, after, upTo, limit)
	if err != nil {
		return nil, 0, err
	}
	reached := upTo
	if len(found) >= limit {
		reached = found[len(found)-1].StreamID
	}
	rows := make([]replication.Row[streams.PushersRow], len(found))
	for i, f := range found {
		rows[i] = replication.Row[streams.PushersRow]{Token: f.StreamID, Value: streams.PushersRow{UserID: f.UserID, AppID: f.AppID, Pushkey: f.Pushkey, Deleted: f.Deleted}}
	}
	return rows, reached, nil
}
