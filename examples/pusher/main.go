// Command pusher sends notifications to push gateways. Run one or several, and set start_pushers to false: they share the
// work, and may come and go. It serves no public endpoint.
package main

import (
	"github.com/weft-im/weft/examples/internal/assembly"
	"github.com/weft-im/weft/federation/node"
	"github.com/weft-im/weft/homeserver"
)

func main() {
	assembly.Main(func(c *homeserver.Core, _ *node.Node) homeserver.Config {
		return c.Process(nil)
	}, "pusher", "generic_worker")
}
