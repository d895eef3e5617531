package homeserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/accountdata"
	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/delayed"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/fullstate"
	"github.com/weft-im/weft/homeserver/lease"
	"github.com/weft-im/weft/homeserver/notices"
	"github.com/weft-im/weft/homeserver/presence"
	"github.com/weft-im/weft/homeserver/push"
	"github.com/weft-im/weft/homeserver/pushers"
	"github.com/weft-im/weft/homeserver/ratelimit"
	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/signingkey"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/homeserver/typing"
	"github.com/weft-im/weft/homeserver/userdir"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// Core is the parts of one process, open and wired to each other: what the endpoint groups of package clientapi and
// others are made of. It is a bundle for assembly. A constructor asks for the few services it uses, never for the Core,
// so that each can be built alone.
type Core struct {
	// Config is the configuration it was opened with.
	Config *config.Config
	// Log is the process's log.
	Log zerolog.Logger

	// DB is the database.
	DB *storage.DB
	// Replication follows and publishes the streams. Streams of your own are declared on it before the process runs.
	Replication *replication.Client
	// Writers says which process writes what.
	Writers *replication.Writers
	// WriterIDs numbers the writers in tokens.
	WriterIDs replication.WriterIDs
	// RPC calls the other processes. Methods of your own are registered on it before the process runs.
	RPC *rpc.Node
	// Leases gives work to one process of all.
	Leases *lease.Manager
	// Limits limits request rates.
	Limits *ratelimit.Limiter
	// SigningKeys are the server's keys, the one it signs with first.
	SigningKeys []signingkey.Key
	// Signer signs events with the first of SigningKeys.
	Signer event.Signer

	Caches      *cache.Group
	Store       *store.Store
	Writer      *writer.Writer
	Accounts    *account.Service
	AccountData *accountdata.Service
	Push        *push.Service
	Unread      *push.Unread
	Pushers     *pushers.Service
	Receipts    *receipts.Service
	Typing      *typing.Service
	FullState   *fullstate.Service
	// Presence is nil where presence is switched off.
	Presence *presence.Service
	Rooms    *room.Service
	Sync     *sync.Service
	// Delayed sends events later.
	Delayed *delayed.Service
	// Notices tells users what the server has to say.
	Notices *notices.Service
	// UserDirectory finds people.
	UserDirectory *userdir.Service

	evaluator  *push.Evaluator // nil in a process that writes no events
	components []Component
	servers    ServerAuthenticator
	database   *database
	claim      *instanceClaim
	bus        io.Closer
	log        io.Closer
}

// Remotes reach other servers on behalf of the core. Package federation has an implementation; without one the server
// stands alone.
type Remotes struct {
	Rooms     room.Remote
	Directory room.RemoteDirectory
	Profiles  account.RemoteProfiles
	// Servers checks the signatures of their requests.
	Servers ServerAuthenticator
	// Attach, which may be nil, is called once the whole core is open, with what needs all its services. It returns the
	// components that run with the process, beside those of the core.
	Attach func(c *Core) ([]Component, error)
}

// Federate makes the Remotes of a process out of the parts of its core that are open by then: all up to and including
// Writer.
type Federate func(ctx context.Context, c *Core) (Remotes, error)

// OpenCore opens the log, the database and everything on top of it. It waits, saying so on the process's private
// listeners under /ready, while the database cannot be reached or has not been migrated. Close what it returns.
//
// federate, which may be nil, connects the server with others.
func OpenCore(ctx context.Context, cfg *config.Config, federate Federate) (*Core, error) {
	log, logCloser, err := OpenLog(cfg)
	if err != nil {
		return nil, err
	}
	c := &Core{Config: cfg, Log: log, log: logCloser}
	if err := c.open(ctx, federate); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Core) open(ctx context.Context, federate Federate) error {
	cfg := c.Config
	waiting := serveWaiting(ctx, cfg, c.Log)
	defer waiting.stop()
	var err error
	if c.database, err = openDatabase(ctx, cfg, c.Log, waiting.report); err != nil {
		return err
	}
	c.DB = c.database.DB
	if c.claim, err = claimInstance(ctx, c.DB, cfg.InstanceName(), c.Log); err != nil {
		return cfg.ErrorAt("worker_name", err)
	}
	if err := c.openKeys(); err != nil {
		return err
	}
	if err := c.openReplication(ctx); err != nil {
		return err
	}
	if c.Leases, err = lease.New(lease.Config{Store: leaseStore{c.DB}, Holder: cfg.InstanceName(), Log: c.Log}); err != nil {
		return err
	}
	c.Limits = ratelimit.New(ratelimit.Config{Limits: ratelimit.Limits(&cfg.RateLimitsOptions)})
	return c.openServices(ctx, federate)
}

// openKeys reads the signing keys, or makes the first one.
func (c *Core) openKeys() error {
	var err error
	if c.Config.SigningKey != "" {
		c.SigningKeys, err = signingkey.Parse([]byte(c.Config.SigningKey.Reveal()))
	} else {
		c.SigningKeys, err = signingkey.LoadOrCreate(c.Config.SigningKeyPath)
	}
	if err != nil {
		return c.Config.ErrorAt("signing_key_path", err)
	}
	k := c.SigningKeys[0]
	c.Signer = event.Signer{ServerName: c.Config.ServerName, KeyID: k.ID, Key: k.Private}
	return nil
}

// openServices makes the services, each on top of those before it. The order of the handlers of a stream follows from
// it: the store first, then who reads through the store.
func (c *Core) openServices(ctx context.Context, federate Federate) error {
	cfg := c.Config
	starts, err := streamStarts(ctx, c.DB, []string{"events", "caches", "account_data", "push_rules", "pushers", "receipts", "un_partial_stated_room"})
	if err != nil {
		return err
	}
	cacheIDs, err := c.streamIDs(ctx, streams.Caches().Info(), "")
	if err != nil {
		return err
	}
	if c.Caches, err = cache.NewGroup(cache.GroupConfig{DB: c.DB, Client: c.Replication, IDs: cacheIDs, From: starts["caches"], Log: c.Log}); err != nil {
		return err
	}
	if c.Store, err = store.New(store.Config{DB: c.DB, ServerName: cfg.ServerName}); err != nil {
		return err
	}
	if err := c.openWriter(ctx, starts["events"]); err != nil {
		return err
	}
	if err := c.openFullState(ctx, starts["un_partial_stated_room"]); err != nil {
		return err
	}
	var remotes Remotes
	if federate != nil {
		if remotes, err = federate(ctx, c); err != nil {
			return err
		}
	}
	c.Accounts, err = account.New(account.Config{
		ServerName: cfg.ServerName, DB: c.DB, Caches: c.Caches, Registration: cfg.RegistrationOptions, Login: cfg.LoginOptions,
		Limits: c.Limits, UserIPsMaxAge: cfg.UserIPsMaxAge, RemoteProfiles: remotes.Profiles, Log: c.Log,
	})
	if err != nil {
		return err
	}
	if err := c.openEdgeStreams(ctx, starts); err != nil {
		return err
	}
	c.Rooms, err = room.New(room.Config{
		ServerName: cfg.ServerName, DB: c.DB, Store: c.Store, Writer: c.Writer, WriterIDs: c.WriterIDs, Profiles: c.Accounts,
		Follower: EventFollower{c.Replication}, Personal: personal{c.AccountData, c.Push}, Ignores: c.AccountData,
		NoticesFrom: cfg.ServerNotices.Sender(cfg.ServerName), DefaultVersion: cfg.DefaultRoomVersion, Limits: c.Limits,
		Whole: c.FullState, Remote: remotes.Rooms, RemoteDirectory: remotes.Directory, Positions: positions{c}, Log: c.Log,
	})
	if err != nil {
		return err
	}
	if err := c.openPresence(); err != nil {
		return err
	}
	c.Sync, err = sync.New(sync.Config{
		DB: c.DB, Store: c.Store, Replication: c.Replication, WriterIDs: c.WriterIDs,
		OnlyWriter: c.onlyWriter(), MaxTimelineLimit: cfg.FilterTimelineLimit,
		PushRules: push.ForSync{Service: c.Push}, Unread: c.Unread, Presence: c.presenceForSync(), Log: c.Log,
	})
	if err != nil {
		return err
	}
	c.pushToSync()
	c.fullStateToSync()
	c.components = []Component{c.claim, named{"replication", c.Replication}, named{"event_writer", c.Writer}, named{"accounts", c.Accounts}, named{"typing", c.Typing}}
	c.addPresence()
	if err := c.openPusherRunner(); err != nil {
		return err
	}
	roomWorker, err := account.NewRoomWorker(account.RoomWorkerConfig{Accounts: c.Accounts, Rooms: c.Rooms, Writer: c.Writer, Log: c.Log})
	if err != nil {
		return err
	}
	c.components = append(c.components, named{"account_rooms", roomWorker})
	if err := c.openUserDirectory(); err != nil {
		return err
	}
	if err := c.openDelayed(); err != nil {
		return err
	}
	if err := c.openNotices(); err != nil {
		return err
	}
	c.servers = remotes.Servers
	if remotes.Attach == nil {
		return nil
	}
	remote, err := remotes.Attach(c)
	c.components = append(c.components, remote...)
	return err
}

// openWriter makes the event writer, and has the store follow what all writers write.
func (c *Core) openWriter(ctx context.Context, from replication.Position) error {
	follower, err := replication.Follow(c.Replication, streams.Events(), replication.FollowConfig[*streams.EventRow]{
		Source: c.Store.EventRows, From: from,
		OnGap: func(context.Context, string, int64, int64) { c.Store.Forget() },
	})
	if err != nil {
		return fmt.Errorf("follow events: %w", err)
	}
	follower.Handle(func(_ context.Context, u replication.Update[*streams.EventRow]) {
		for _, r := range u.Rows {
			c.Store.Apply(r.Value)
		}
	})
	c.Store.Following()
	wc := writer.Config{DB: c.DB, Store: c.Store, Signer: c.Signer, Writers: c.Writers, RPC: c.RPC, Log: c.Log}
	if err := c.openEvaluator(&wc); err != nil {
		return err
	}
	// Any process may fetch what a join or a gap needs from other servers, whoever owns the room.
	wc.BackfillIDs, err = storage.OpenStreamIDs(ctx, storage.StreamIDsConfig{
		DB: c.DB, Stream: "backfill", Instance: c.Config.InstanceName(), MaxIDSQL: `SELECT coalesce(-min(event_nid), 0) FROM events`,
	})
	if err != nil {
		return err
	}
	if c.Writers.Writes("events") {
		if wc.IDs, err = c.streamIDs(ctx, streams.Events().Info(), `SELECT coalesce(max(event_nid), 0) FROM events`); err != nil {
			return err
		}
		wc.Publisher, err = replication.NewPublisher(c.Replication, streams.Events(), replication.PublisherConfig{
			Position: wc.IDs.Position(), OnForeignPosition: wc.IDs.Advance,
		})
		if err != nil {
			return fmt.Errorf("publish events: %w", err)
		}
	}
	c.Writer, err = writer.New(wc)
	return err
}

// openEdgeStreams makes the services of what surrounds events: account data, receipts, typing.
func (c *Core) openEdgeStreams(ctx context.Context, starts map[string]replication.Position) error {
	if err := c.openPush(ctx, starts); err != nil {
		return err
	}
	accountIDs, err := c.streamIDs(ctx, streams.AccountData().Info(), accountdata.MaxIDSQL)
	if err != nil {
		return err
	}
	c.AccountData, err = accountdata.New(accountdata.Config{
		DB: c.DB, Client: c.Replication, Writers: c.Writers, RPC: c.RPC, IDs: accountIDs, From: starts["account_data"],
		PushRules: c.Push, Log: c.Log,
	})
	if err != nil {
		return err
	}
	receiptIDs, err := c.streamIDs(ctx, streams.Receipts().Info(), receipts.MaxIDSQL)
	if err != nil {
		return err
	}
	c.Receipts, err = receipts.New(receipts.Config{
		DB: c.DB, Rooms: c.Store, Markers: c.AccountData, Client: c.Replication, Writers: c.Writers, RPC: c.RPC,
		IDs: receiptIDs, From: starts["receipts"], Log: c.Log,
	})
	if err != nil {
		return err
	}
	c.Typing, err = typing.New(typing.Config{Rooms: c.Store, Client: c.Replication, Writers: c.Writers, RPC: c.RPC, Log: c.Log})
	return err
}

// streamIDs takes over as a writer of a stream, and returns nil in a process that writes none of it.
func (c *Core) streamIDs(ctx context.Context, s replication.StreamInfo, maxIDSQL string) (*storage.StreamIDs, error) {
	if s.Mode != replication.EveryProcess && !c.Writers.Writes(s.Name) {
		return nil, nil
	}
	return storage.OpenStreamIDs(ctx, storage.StreamIDsConfig{
		DB: c.DB, Stream: s.Name, Instance: c.Config.InstanceName(), MaxIDSQL: maxIDSQL,
	})
}

// onlyWriter reports whether this process writes all streams, so that it knows by itself how far they have come.
func (c *Core) onlyWriter() bool { return len(c.Writers.Instances()) == 1 }

// Process returns the configuration of a process that serves groups and runs tasks on this core. Add to it what you
// like and hand it to New.
func (c *Core) Process(groups []Group, tasks ...task.Task) Config {
	pc := ProcessConfig(c.Config, c.Log)
	pc.Limits = c.Limits
	pc.Authenticator = c.Accounts
	pc.ServerAuthenticator = c.servers
	pc.Groups = append([]Group{c.replicationGroup()}, groups...)
	pc.Components = c.components
	pc.Tasks = append(c.tasks(), tasks...)
	pc.Background = &task.Config{Pool: c.DB.Pool, Leases: c.Leases, RunsBackground: c.Config.RunsBackgroundTasks()}
	return pc
}

// tasks keep house in the database; one process of all runs them.
func (c *Core) tasks() []task.Task {
	return []task.Task{
		task.Periodic{Name: "account_maintenance", Every: time.Hour, Run: c.Accounts.Maintain},
		task.Periodic{Name: "delayed_events", Every: time.Hour, Run: c.Delayed.Prune},
		task.Periodic{Name: "cache_invalidations", Every: time.Hour, Run: c.Caches.Prune},
		task.Periodic{Name: "state_garbage", Every: 12 * time.Hour, Run: c.collectStateGarbage},
		task.Periodic{Name: "sliding_sync_connections", Every: time.Hour, Run: c.Sync.PruneSliding},
	}
}

// collectStateGarbage deletes the parts of room states that nothing refers to any more.
func (c *Core) collectStateGarbage(ctx context.Context) error {
	began := time.Now()
	r, err := storage.CollectStateGarbage(ctx, c.DB, storage.StateGCConfig{})
	if errors.Is(err, storage.ErrCollecting) {
		return nil // by hand, from another program
	}
	if err != nil {
		return err
	}
	c.Log.Info().Str("component", "state_garbage").Int64("count", r.Deleted).Int64("reachable", r.Reachable).
		Int64("duration_ms", time.Since(began).Milliseconds()).Msg("collected unused parts of room states")
	return nil
}

// Close closes the database and the log, after the process has drained.
func (c *Core) Close() error {
	var errs []error
	if c.bus != nil {
		errs = append(errs, c.bus.Close())
	}
	if c.RPC != nil {
		errs = append(errs, c.RPC.Close())
	}
	c.claim.close()
	if c.database != nil {
		errs = append(errs, c.database.close())
	}
	return errors.Join(append(errs, c.log.Close())...)
}

// EventFollower waits for the events stream. It is a room.Follower.
type EventFollower struct {
	// Client follows the stream. Required.
	Client *replication.Client
}

// WaitForEvent implements room.Follower.
func (f EventFollower) WaitForEvent(ctx context.Context, writer string, nid storage.EventNID) error {
	return f.Client.WaitFor(ctx, "events", writer, int64(nid))
}

// positions tells where this process stands, for room.Positions: package sync knows, which is opened after the rooms.
type positions struct{ core *Core }

// Current implements room.Positions.
func (p positions) Current() token.Sync { return p.core.Sync.Current() }

// named makes a Component of a service.
type named struct {
	name string
	run  interface {
		Run(ctx context.Context) error
	}
}

func (n named) Name() string                  { return n.name }
func (n named) Run(ctx context.Context) error { return n.run.Run(ctx) }

// Ready implements Readier for those services that need time.
func (n named) Ready() <-chan struct{} {
	if r, ok := n.run.(Readier); ok {
		return r.Ready()
	}
	done := make(chan struct{})
	close(done)
	return done
}

// Check implements Checker for those services that can say why they do not work.
func (n named) Check(ctx context.Context) error {
	if k, ok := n.run.(Checker); ok {
		return k.Check(ctx)
	}
	return nil
}
