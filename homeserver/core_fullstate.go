package homeserver

import (
	"context"

	"github.com/weft-im/weft/homeserver/fullstate"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
)

// openFullState makes what knows which rooms' states are whole.
func (c *Core) openFullState(ctx context.Context, from replication.Position) error {
	ids, err := c.streamIDs(ctx, streams.UnPartialStatedRoom().Info(), fullstate.MaxIDSQL)
	if err != nil {
		return err
	}
	c.FullState, err = fullstate.New(fullstate.Config{
		DB: c.DB, Store: c.Store, Client: c.Replication, IDs: ids, From: from, Log: c.Log,
	})
	return err
}

// fullStateToSync has /sync show rooms whose state has become whole to clients that were not shown them before.
func (c *Core) fullStateToSync() {
	c.FullState.Handle(func(_ context.Context, u replication.Update[streams.UnPartialStatedRoomRow]) {
		rooms := make([]string, len(u.Rows))
		for i, r := range u.Rows {
			rooms[i] = r.Value.RoomID
		}
		if err := c.Sync.AdvanceIn("un_partial_stated_room", u.Writer, u.Token, nil, rooms); err != nil {
			c.Log.Error().Err(err).Msg("rooms whose state is whole could not be announced to /sync")
		}
	})
}
