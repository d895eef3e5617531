package node

import (
	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver"
)

// openRooms makes what reaches the rooms of other servers.
func (n *Node) openRooms(c *homeserver.Core) (err error) {
	if c.FullState.Completes() {
		n.resync, err = federation.NewResync(federation.ResyncConfig{
			Client: n.Client, Ingest: n.Ingest, DB: c.DB, Store: c.Store, States: c.FullState, Leases: c.Leases, Log: c.Log,
		})
		if err != nil {
			return err
		}
	}
	n.Rooms, err = federation.NewRemoteRooms(federation.RemoteRoomsConfig{
		Client: n.Client, Ingest: n.Ingest, DB: c.DB, Store: c.Store, Writer: c.Writer, Signer: c.Signer,
		Follower: homeserver.EventFollower{Client: c.Replication}, OnPartial: n.wakeResync, Log: c.Log,
	})
	return err
}

// wakeResync has the members of a room fetched that was entered on this process. Where that is another process's work, it
// looks for such rooms every few seconds.
func (n *Node) wakeResync() {
	if n.resync != nil {
		n.resync.Wake()
	}
}

// roomComponents run with the process.
func (n *Node) roomComponents() []homeserver.Component {
	if n.resync == nil {
		return nil
	}
	return []homeserver.Component{n.resync}
}
