// Package redisbus is a replication bus over Redis publish/subscribe.
package redisbus

import (
	"crypto/tls"
	"time"

	"github.com/rs/zerolog"
)

// Config says how to reach Redis. The fields follow the options under redis.
type Config struct {
	// Addrs are host:port addresses, or paths of unix sockets. With Sentinel they are the
	// sentinels', with Cluster some of the nodes'. Defaults to localhost:6379.
	Addrs []string
	// Username and Password authenticate. Default to none.
	Username string
	Password string
	// DB is the number of the database. Publish/subscribe ignores it, but Redis refuses a
	// wrong one, which tells of a mistake early. Defaults to 0.
	DB int
	// TLS, if set, encrypts the connections.
	TLS *tls.Config
	// SentinelMaster is the name of the master that the sentinels watch; set, Addrs are
	// sentinels.
	SentinelMaster string
	// SentinelUsername and SentinelPassword authenticate to the sentinels. Default to none.
	SentinelUsername string
	SentinelPassword string
	// Cluster says that Addrs are nodes of a Redis Cluster.
	Cluster bool
	// DialTimeout bounds one attempt to connect. Defaults to 5 seconds.
	DialTimeout time.Duration
	// ClientName is shown by CLIENT LIST. Defaults to "weft".
	ClientName string
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}
