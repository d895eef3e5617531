package federation

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/weft-im/weft/federation/keyring"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/signingkey"
)

// KeysConfig is what this server publishes of its keys and those of others.
type KeysConfig struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// Signing are the keys in use, all of which sign what is published. Required.
	Signing []signingkey.Key
	// Old are keys of the past.
	Old []keyring.Own
	// Validity is how long what is published is valid. Defaults to 1 day.
	Validity time.Duration
	// NotarySigning are the keys that sign the keys of other servers. Defaults to Signing.
	NotarySigning []signingkey.Key
	// Ring finds the keys of other servers. Required.
	Ring *keyring.Ring
}

// defaultKeyValidity is KeysConfig.Validity where it is 0.
const defaultKeyValidity = 24 * time.Hour

// maxNotaryServers bounds the servers in one query to this server as a notary.
const maxNotaryServers = 500

// Keys is the group of server keys: those of this server, and as a notary those of others.
//
// Spec: server-server API, "Retrieving server keys" (v1.19).
func Keys(cfg KeysConfig) homeserver.Group {
	if cfg.Validity <= 0 {
		cfg.Validity = defaultKeyValidity
	}
	if len(cfg.NotarySigning) == 0 {
		cfg.NotarySigning = cfg.Signing
	}
	g := &keysGroup{cfg}
	return homeserver.Group{
		Name:     "server_keys",
		Resource: homeserver.ResourceKeys,
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodGet, Path: "/_matrix/key/v2/server", Handle: g.server},
			// Deprecated: the key id does not matter.
			{Method: http.MethodGet, Path: "/_matrix/key/v2/server/{keyId}", Handle: g.server},
			{Method: http.MethodPost, Path: "/_matrix/key/v2/query", Handle: g.query},
			{Method: http.MethodGet, Path: "/_matrix/key/v2/query/{serverName}", Handle: g.queryOne},
			{Method: http.MethodGet, Path: "/_matrix/key/v2/query/{serverName}/{keyId}", Handle: g.queryOne},
		},
	}
}

type keysGroup struct{ cfg KeysConfig }

// own returns the keys of this server, signed with all of them.
func (g *keysGroup) own() (json.RawMessage, error) {
	type key struct {
		Key       string `json:"key"`
		ExpiredTS int64  `json:"expired_ts,omitempty"`
	}
	verify, old := make(map[string]key, len(g.cfg.Signing)), make(map[string]key, len(g.cfg.Old))
	for _, k := range g.cfg.Signing {
		verify[k.ID] = key{Key: k.Public()}
	}
	for _, k := range g.cfg.Old {
		old[k.ID] = key{Key: base64.RawStdEncoding.EncodeToString(k.Key), ExpiredTS: k.ExpiredTS}
	}
	object, err := json.Marshal(map[string]any{
		"server_name": g.cfg.ServerName, "verify_keys": verify, "old_verify_keys": old,
		"valid_until_ts": time.Now().Add(g.cfg.Validity).UnixMilli(),
	})
	if err != nil {
		return nil, err
	}
	return g.sign(object, g.cfg.Signing)
}

func (g *keysGroup) sign(object []byte, keys []signingkey.Key) (json.RawMessage, error) {
	var err error
	for _, k := range keys {
		if object, err = event.SignJSON(object, event.Signer{ServerName: g.cfg.ServerName, KeyID: k.ID, Key: k.Private}); err != nil {
			return nil, err
		}
	}
	return object, nil
}

func (g *keysGroup) server(context.Context, *homeserver.Request) (any, error) { return g.own() }

func (g *keysGroup) query(ctx context.Context, r *homeserver.Request) (any, error) {
	var in struct {
		ServerKeys map[string]map[string]struct {
			MinimumValidUntilTS int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	if in.ServerKeys == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing server_keys")
	}
	if len(in.ServerKeys) > maxNotaryServers {
		return nil, mxerr.TooLarge.WithMessage("Too many servers in one query")
	}
	wanted := make(map[string]map[string]int64, len(in.ServerKeys))
	for server, keys := range in.ServerKeys {
		wanted[server] = make(map[string]int64, len(keys))
		for id, k := range keys {
			wanted[server][id] = k.MinimumValidUntilTS
		}
	}
	return g.notary(ctx, wanted)
}

func (g *keysGroup) queryOne(ctx context.Context, r *homeserver.Request) (any, error) {
	keys := map[string]int64{}
	validAt, err := r.QueryInt("minimum_valid_until_ts", 0)
	if err != nil {
		return nil, err
	}
	if id := r.Param("keyId"); id != "" {
		keys[id] = validAt
	}
	return g.notary(ctx, map[string]map[string]int64{r.Param("serverName"): keys})
}

// notary returns the keys of servers, signed by them and by this one.
func (g *keysGroup) notary(ctx context.Context, wanted map[string]map[string]int64) (any, error) {
	now := time.Now().UnixMilli()
	for _, keys := range wanted {
		for id, validAt := range keys {
			if validAt <= 0 {
				keys[id] = now
			}
		}
	}
	out := struct {
		ServerKeys []json.RawMessage `json:"server_keys"`
	}{[]json.RawMessage{}}
	responses, err := g.cfg.Ring.Responses(ctx, wanted)
	if err != nil {
		return nil, err
	}
	if _, ok := wanted[g.cfg.ServerName]; ok {
		own, err := g.own()
		if err != nil {
			return nil, err
		}
		responses = append(responses, own)
	}
	for _, response := range responses {
		signed, err := g.sign(response, g.cfg.NotarySigning)
		if err != nil {
			return nil, err
		}
		out.ServerKeys = append(out.ServerKeys, signed)
	}
	return out, nil
}
