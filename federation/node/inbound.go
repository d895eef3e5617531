package node

import (
	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver"
)

// openIngest makes what checks the events of other servers and fetches what they refer to.
func (n *Node) openIngest(c *homeserver.Core) (err error) {
	n.Ingest, err = federation.NewIngest(federation.IngestConfig{
		Store: c.Store, Writer: c.Writer, Keys: n.Keys, Servers: n.Client, Log: c.Log,
	})
	return err
}

// openInbound makes what answers other servers, on top of the whole core.
func (n *Node) openInbound(c *homeserver.Core) (err error) {
	n.inbound, err = federation.NewInbound(federation.InboundConfig{
		ServerName: c.Config.ServerName, Instance: c.Config.InstanceName(), DB: c.DB, Store: c.Store, Writer: c.Writer,
		Signer: c.Signer, Ingest: n.Ingest, Rooms: c.Rooms, Limits: c.Config.RCFederation, Log: c.Log,
		EDUs: federation.EDUHandlers{Typing: c.Typing, Receipts: c.Receipts, Presence: c.Presence},
	})
	return err
}

// openDevices notes what answers questions about the devices of this server's users.
func (n *Node) openDevices(c *homeserver.Core) {
	n.devices = federation.DevicesConfig{
		ServerName: c.Config.ServerName, Devices: c.Accounts, Names: c.Config.AllowDeviceNameLookupOverFederation,
	}
}

// inboundGroups are the endpoint groups for what other servers push and ask.
func (n *Node) inboundGroups() []homeserver.Group {
	return []homeserver.Group{
		federation.Transactions(n.inbound),
		federation.RoomServer(n.inbound),
		federation.Devices(n.inbound, n.devices),
	}
}
