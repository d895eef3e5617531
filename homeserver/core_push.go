package homeserver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/weft-im/weft/homeserver/accountdata"
	"github.com/weft-im/weft/homeserver/push"
	"github.com/weft-im/weft/homeserver/pushers"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/internal/iprange"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// openPush makes the services of push rules and of pushers.
func (c *Core) openPush(ctx context.Context, starts map[string]replication.Position) error {
	ids, err := c.streamIDs(ctx, streams.PushRules().Info(), push.MaxIDSQL)
	if err != nil {
		return err
	}
	c.Push, err = push.New(push.Config{
		DB: c.DB, Store: c.Store, Client: c.Replication, Writers: c.Writers, RPC: c.RPC, IDs: ids, From: starts["push_rules"],
		Evaluator: c.evaluator,
	})
	if err != nil {
		return err
	}
	c.Unread = push.NewUnread(c.DB, c.Store)
	if ids, err = c.streamIDs(ctx, streams.Pushers().Info(), pushers.MaxIDSQL); err != nil {
		return err
	}
	c.Pushers, err = pushers.New(pushers.Config{
		DB: c.DB, Store: c.Store, Client: c.Replication, Writers: c.Writers, RPC: c.RPC, IDs: ids, From: starts["pushers"],
	})
	return err
}

// openEvaluator has the event writer say whom events notify.
func (c *Core) openEvaluator(wc *writer.Config) error {
	if !c.Writers.Writes("events") {
		return nil
	}
	var err error
	if c.evaluator, err = push.NewEvaluator(push.EvaluatorConfig{DB: c.DB, ServerName: c.Config.ServerName, Log: c.Log}); err != nil {
		return err
	}
	wc.Notifier = c.evaluator
	return nil
}

// openPusherRunner sends push notifications, where that is this process's to do.
func (c *Core) openPusherRunner() error {
	if !c.Config.RunsPushers() {
		return nil
	}
	addresses, err := iprange.Parse(c.Config.IPRangeBlacklist, c.Config.IPRangeWhitelist)
	if err != nil {
		return fmt.Errorf("ip_range_blacklist: %w", err)
	}
	var last atomic.Int64 // the last event heard of
	runner, err := pushers.NewRunner(pushers.RunnerConfig{
		DB: c.DB, Store: c.Store, Pushers: c.Pushers, Unread: c.Unread, Addresses: addresses, Log: c.Log,
		Committed: func() (storage.EventNID, bool) {
			floor := c.Replication.Position("events").Floor()
			return storage.EventNID(floor), last.Load() > floor
		},
	})
	if err != nil {
		return err
	}
	events, err := replication.Follow(c.Replication, streams.Events(), replication.FollowConfig[*streams.EventRow]{})
	if err != nil {
		return fmt.Errorf("follow events for pushers: %w", err)
	}
	events.Handle(func(_ context.Context, u replication.Update[*streams.EventRow]) {
		if len(u.Rows) > 0 {
			last.Store(max(last.Load(), u.Token))
			runner.Wake()
		}
	})
	c.Receipts.Handle(func(_ context.Context, u replication.Update[streams.ReceiptsRow]) {
		for _, r := range u.Rows {
			if c.Store.IsLocal(r.Value.UserID) {
				runner.Read(r.Value.UserID)
			}
		}
	})
	c.components = append(c.components, named{"pushers", runner})
	return nil
}

// pushToSync has changed rules wake the /sync requests of their users.
func (c *Core) pushToSync() {
	c.Push.Handle(func(_ context.Context, u replication.Update[streams.PushRulesRow]) {
		users := make([]string, len(u.Rows))
		for i, r := range u.Rows {
			users[i] = r.Value.UserID
		}
		if err := c.Sync.Advance("push_rules", u.Writer, u.Token, users); err != nil {
			c.Log.Error().Err(err).Msg("Push rules could not be announced to /sync")
		}
	})
}

// personal carries a user's settings for a room over to the one that replaces it.
type personal struct {
	accountData *accountdata.Service
	push        *push.Service
}

// CopyRoomSettings implements room.Personal.
func (p personal) CopyRoomSettings(ctx context.Context, userID, fromRoomID, toRoomID string) error {
	return errors.Join(
		p.accountData.CopyRoomSettings(ctx, userID, fromRoomID, toRoomID),
		p.push.CopyRoomSettings(ctx, userID, fromRoomID, toRoomID),
	)
}
