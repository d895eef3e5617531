// Command generic_worker serves the client and federation APIs beside the main process. Run as many as you like behind
// a reverse proxy; streams that stream_writers gives to one of them are written there.
package main

import (
	"github.com/weft-im/weft/examples/internal/assembly"
	"github.com/weft-im/weft/federation/node"
	"github.com/weft-im/weft/homeserver"
)

func main() {
	assembly.Main(func(c *homeserver.Core, federation *node.Node) homeserver.Config {
		return c.Process(assembly.Groups(c, federation))
	}, "generic_worker")
}
