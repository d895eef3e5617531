// Command event_persister writes streams and serves no public endpoint: the events of its share of the rooms, as
// stream_writers.events says. It needs a listener with the replication resource.
package main

import (
	"github.com/weft-im/weft/examples/internal/assembly"
	"github.com/weft-im/weft/federation/node"
	"github.com/weft-im/weft/homeserver"
)

func main() {
	assembly.Main(func(c *homeserver.Core, _ *node.Node) homeserver.Config {
		return c.Process(nil)
	}, "event_persister", "generic_worker")
}
