// Command homeserver is a whole homeserver in one process, and the main process of one that has workers: it carries
// what the configuration gives to nobody else.
package main

import (
	"github.com/weft-im/weft/examples/internal/assembly"
	"github.com/weft-im/weft/federation/node"
	"github.com/weft-im/weft/homeserver"
)

func main() {
	assembly.Main(func(c *homeserver.Core, federation *node.Node) homeserver.Config {
		return c.Process(assembly.Groups(c, federation))
	}, "homeserver")
}
