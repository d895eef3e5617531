package node

import (
	"github.com/weft-im/weft/federation/outbox"
	"github.com/weft-im/weft/federation/sender"
	"github.com/weft-im/weft/homeserver"
)

// openSender makes what EDUs are handed to in every process, and the part that tells other servers what happens in a
// process that is to have one.
func (n *Node) openSender(c *homeserver.Core) (_ []homeserver.Component, err error) {
	if n.Outbox, err = outbox.New(outbox.Config{Client: c.Replication, Writers: c.Writers, RPC: c.RPC}); err != nil {
		return nil, err
	}
	if !c.Config.SendsFederation() {
		return nil, nil
	}
	s, err := sender.New(sender.Config{
		ServerName: c.Config.ServerName, Instance: c.Config.InstanceName(), DB: c.DB, Store: c.Store, Replication: c.Replication,
		WriterIDs: c.WriterIDs, Transport: n.Client, MissedEDUs: n.Outbox.Source,
		ReceiptsPerSecond: c.Config.FederationRRTransactionsPerRoomPerSecond, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	n.sender = s
	return []homeserver.Component{s}, nil
}

// up says that a server that was thought to be down has made itself heard, here or elsewhere.
func (n *Node) up(server string) {
	if n.sender != nil {
		n.sender.Wake(server)
	}
}
