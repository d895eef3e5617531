package node

import (
	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver"
)

// openQueries makes what answers questions of other servers about users and rooms.
func (n *Node) openQueries(c *homeserver.Core) {
	n.queries = federation.QueriesConfig{
		ServerName: c.Config.ServerName, Rooms: c.Rooms, Users: c.Accounts,
		ShowProfiles: c.Config.AllowProfileLookupOverFederation, ShowPublicRooms: c.Config.AllowPublicRoomsOverFederation,
	}
}

// queryGroups are the endpoint groups of these questions.
func (n *Node) queryGroups() []homeserver.Group {
	return []homeserver.Group{federation.Queries(n.inbound, n.queries), federation.OpenID(n.queries.Users)}
}
