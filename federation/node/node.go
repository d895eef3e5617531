// Package node puts the parts of federation together for a process, from its configuration and its core: what
// homeserver.OpenCore wants to reach other servers with, and the endpoint groups that answer them.
//
//	var federation *node.Node
//	core, err := homeserver.OpenCore(ctx, cfg, func(ctx context.Context, c *homeserver.Core) (homeserver.Remotes, error) {
//		federation, err = node.New(ctx, c)
//		...
//		return federation.Remotes(), nil
//	})
//	core.Process(federation.Groups())
package node

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/federation/keyring"
	"github.com/weft-im/weft/federation/outbox"
	"github.com/weft-im/weft/federation/sender"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/signingkey"
	"github.com/weft-im/weft/internal/iprange"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/wire"
)

// Node is the federation of one process. Of the zero value there are only the routes of Groups.
type Node struct {
	// Client calls other servers.
	Client *federation.Client
	// Keys finds their keys.
	Keys *keyring.Ring
	// Ingest checks their events, and fetches what these refer to.
	Ingest *federation.Ingest
	// Rooms joins rooms of other servers, and fetches what was in them.
	Rooms *federation.RemoteRooms
	// Outbox sends EDUs to them.
	Outbox *outbox.Outbox

	resync  *federation.Resync
	servers *federation.ServerAuth
	inbound *federation.Inbound
	devices federation.DevicesConfig
	keys    federation.KeysConfig
	queries federation.QueriesConfig
	sender  *sender.Sender // nil in a process that does not send
}

// New makes the parts that the services of the core are built on. It reads the files the configuration names.
func New(_ context.Context, c *homeserver.Core) (*Node, error) {
	n := &Node{}
	if err := n.openClient(c); err != nil {
		return nil, err
	}
	if err := n.openKeys(c); err != nil {
		return nil, err
	}
	if err := n.openIngest(c); err != nil {
		return nil, err
	}
	if err := n.openRooms(c); err != nil {
		return nil, err
	}
	var err error
	n.servers, err = federation.NewServerAuth(federation.ServerAuthConfig{
		ServerName: c.Config.ServerName, Keys: n.Keys, Allowed: c.Config.FederationDomainWhitelist, Seen: n.Client.Seen, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Close ends the connections to other servers that are not in use, after the process has drained.
func (n *Node) Close() { n.Client.Close() }

// Remotes is what the services of the core reach other servers through.
func (n *Node) Remotes() homeserver.Remotes {
	return homeserver.Remotes{
		Directory: federation.NewDirectory(n.Client), Profiles: federation.NewProfiles(n.Client),
		Servers: n.servers, Rooms: n.Rooms, Attach: n.attach,
	}
}

// attach makes the parts that need the whole core, and returns what runs with the process.
func (n *Node) attach(c *homeserver.Core) ([]homeserver.Component, error) {
	if err := n.openInbound(c); err != nil {
		return nil, err
	}
	n.openQueries(c)
	n.openDevices(c)
	sender, err := n.openSender(c)
	return slices.Concat(n.roomComponents(), []homeserver.Component{n.inbound}, sender), err
}

// Groups returns the endpoint groups for other servers.
func (n *Node) Groups() []homeserver.Group {
	own := []homeserver.Group{federation.Keys(n.keys), federation.Version(version())}
	return slices.Concat(own, n.inboundGroups(), n.queryGroups())
}

func version() federation.ServerVersion {
	v := federation.ServerVersion{Name: "Weft", Version: "devel"}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	return v
}

// openClient makes the client, and has all processes know when one finds a server that was down to be up.
func (n *Node) openClient(c *homeserver.Core) error {
	cfg := c.Config
	cc := federation.ClientConfig{
		Signer: c.Signer, DB: c.DB, Allowed: cfg.FederationDomainWhitelist,
		Timeout: cfg.Federation.ClientTimeout, MaxRetries: cfg.Federation.MaxShortRetries, MaxRetryDelay: cfg.Federation.MaxShortRetryDelay,
		Backoff: federation.BackoffConfig{
			Min: cfg.Federation.DestinationMinRetryInterval, Max: cfg.Federation.DestinationMaxRetryInterval,
			Multiplier: cfg.Federation.DestinationRetryMultiplier,
		},
		OnUp: func(server string) {
			n.up(server)
			if err := c.Replication.Send(wire.RemoteServerUp{Server: server}); err != nil {
				c.Log.Warn().Err(err).Str("destination", server).Msg("Other processes could not be told that a server is up")
			}
		},
		Log: c.Log,
	}
	v := version()
	cc.UserAgent = v.Name + "/" + v.Version
	var err error
	if cc.Addresses, err = iprange.Parse(cfg.IPRangeBlacklist, cfg.IPRangeWhitelist); err != nil {
		return fmt.Errorf("ip_range_blacklist: %w", err)
	}
	if cc.TLS, err = tlsConfig(cfg); err != nil {
		return err
	}
	if n.Client, err = federation.NewClient(cc); err != nil {
		return err
	}
	return replication.OnCommand(c.Replication, func(_ context.Context, up wire.RemoteServerUp) {
		n.Client.ServerUp(up.Server)
		n.up(up.Server)
	})
}

func tlsConfig(cfg *config.Config) (federation.TLSConfig, error) {
	roots, err := federation.LoadRoots(cfg.FederationCustomCAList)
	if err != nil {
		return federation.TLSConfig{}, fmt.Errorf("federation_custom_ca_list: %w", err)
	}
	versions := map[config.StringOrInt]uint16{
		"1": tls.VersionTLS10, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13,
	}
	return federation.TLSConfig{
		Roots: roots, InsecureSkipVerify: !cfg.FederationVerifyCertificates,
		SkipVerifyFor: cfg.FederationCertificateVerificationWhitelist, MinVersion: versions[cfg.FederationClientMinimumTLSVersion],
	}, nil
}

// openKeys makes the key ring, and what this server publishes of its own keys.
func (n *Node) openKeys(c *homeserver.Core) error {
	cfg := c.Config
	n.keys = federation.KeysConfig{ServerName: cfg.ServerName, Signing: c.SigningKeys, Validity: cfg.KeyRefreshInterval}
	rc := keyring.Config{ServerName: cfg.ServerName, DB: c.DB, Fetcher: n.Client, Log: c.Log}
	for _, k := range c.SigningKeys {
		rc.Own = append(rc.Own, keyring.Own{ID: k.ID, Key: k.Private.Public().(ed25519.PublicKey)})
	}
	for id, k := range cfg.OldSigningKeys {
		key, err := publicKey(k.Key)
		if err != nil {
			return fmt.Errorf("old_signing_keys.%s: %w", id, err)
		}
		n.keys.Old = append(n.keys.Old, keyring.Own{ID: id, Key: key, ExpiredTS: k.ExpiredTS})
	}
	rc.Own = append(rc.Own, n.keys.Old...)
	for i, s := range cfg.TrustedKeyServers {
		notary := keyring.Notary{Server: s.ServerName, Keys: map[string]ed25519.PublicKey{}}
		for id, k := range s.VerifyKeys {
			key, err := publicKey(k)
			if err != nil {
				return fmt.Errorf("trusted_key_servers[%d].verify_keys.%s: %w", i, id, err)
			}
			notary.Keys[id] = key
		}
		if len(notary.Keys) == 0 && !cfg.FederationVerifyCertificates && !s.AcceptKeysInsecurely {
			return fmt.Errorf("trusted_key_servers[%d]: with federation_verify_certificates off it needs verify_keys, or accept_keys_insecurely", i)
		}
		rc.Notaries = append(rc.Notaries, notary)
	}
	if cfg.KeyServerSigningKeysPath != "" {
		var err error
		if n.keys.NotarySigning, err = signingkey.Load(cfg.KeyServerSigningKeysPath); err != nil {
			return fmt.Errorf("key_server_signing_keys_path: %w", err)
		}
	}
	var err error
	n.Keys, err = keyring.New(rc)
	n.keys.Ring = n.Keys
	return err
}

func publicKey(s string) (ed25519.PublicKey, error) {
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("not %d bytes in base64", ed25519.PublicKeySize)
	}
	return key, nil
}
