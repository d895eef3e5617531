package node

import (
	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver"
)

// openRooms makes what reaches the rooms of other servers.
func (n *Node) openRooms(c *homeserver.Core) (err error) {
	n.Rooms, err = federation.NewRemoteRooms(federation.RemoteRoomsConfig{
		Client: n.Client, Ingest: n.Ingest, DB: c.DB, Store: c.Store, Writer: c.Writer, Signer: c.Signer,
		Follower: homeserver.EventFollower{Client: c.Replication}, Log: c.Log,
	})
	return err
}
