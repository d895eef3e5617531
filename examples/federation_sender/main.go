// Command federation_sender tells other servers what happens here. Run one or several, and set send_federation to false:
// the destinations are divided among those that run, which may come and go. It serves no public endpoint.
package main

import (
	"github.com/weft-im/weft/examples/internal/assembly"
	"github.com/weft-im/weft/federation/node"
	"github.com/weft-im/weft/homeserver"
)

func main() {
	assembly.Main(func(c *homeserver.Core, _ *node.Node) homeserver.Config {
		return c.Process(nil)
	}, "federation_sender", "generic_worker")
}
