package homeserver

import (
	"context"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/presence"
	"github.com/weft-im/weft/homeserver/sync"
)

// openPresence makes the presence service, unless presence is switched off: then nothing is followed, kept or written.
func (c *Core) openPresence() error {
	mode := c.Config.PresenceEnabled()
	if mode == config.PresenceOff {
		return nil
	}
	var err error
	c.Presence, err = presence.New(presence.Config{
		ServerName: c.Config.ServerName, DB: c.DB, Client: c.Replication, Writers: c.Writers, RPC: c.RPC, Limits: c.Limits,
		Untracked: mode == config.PresenceUntracked, Log: c.Log,
	})
	return err
}

// presenceForSync is what /sync reads presence from, nil where it is switched off.
func (c *Core) presenceForSync() sync.Presence {
	if c.Presence == nil {
		return nil
	}
	return c.Presence
}

// addPresence has presence run with the process, and waiting syncs hear of changes of it in their rooms.
func (c *Core) addPresence() {
	if c.Presence == nil {
		return
	}
	c.components = append(c.components, named{"presence", c.Presence})
	c.Presence.HandleChanges(func(ctx context.Context, ch presence.Changes) {
		var rooms []string
		if len(ch.Users) > 0 && c.Sync.Waiting() {
			var err error
			if rooms, err = c.presenceRooms(ctx, ch.Users); err != nil && ctx.Err() == nil {
				c.Log.Warn().Err(err).Msg("changes of presence may reach some clients late")
			}
		}
		if err := c.Sync.AdvanceIn("presence", ch.Writer, ch.Token, ch.Users, rooms); err != nil {
			c.Log.Error().Err(err).Msg("presence could not be announced to /sync")
		}
	})
}

// presenceRooms returns the ids of the rooms that any of the users is joined to.
func (c *Core) presenceRooms(ctx context.Context, users []string) ([]string, error) {
	nids, err := c.Presence.Rooms(ctx, users)
	if err != nil {
		return nil, err
	}
	rooms, err := c.Store.RoomsByNID(ctx, nids)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(rooms))
	for _, r := range rooms {
		if r != nil {
			ids = append(ids, r.ID)
		}
	}
	return ids, nil
}
