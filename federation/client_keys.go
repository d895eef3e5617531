package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

const (
	keysTimeout     = 20 * time.Second
	maxKeysResponse = 1 << 20
	// maxNotaryResponse is for the keys of many servers.
	maxNotaryResponse = 16 << 20
)

// QueryKeys asks a notary for the keys of servers: for each the key ids wanted, with the time in milliseconds since the
// epoch at which they should still be valid. It returns what the servers published, signed by them and the notary.
func (c *Client) QueryKeys(ctx context.Context, notary string, wanted map[string]map[string]int64) ([]json.RawMessage, error) {
	type criteria struct {
		MinimumValidUntilTS int64 `json:"minimum_valid_until_ts"`
	}
	var body struct {
		ServerKeys map[string]map[string]criteria `json:"server_keys"`
	}
	body.ServerKeys = make(map[string]map[string]criteria, len(wanted))
	for server, keys := range wanted {
		body.ServerKeys[server] = make(map[string]criteria, len(keys))
		for id, ts := range keys {
			body.ServerKeys[server][id] = criteria{ts}
		}
	}
	var out struct {
		ServerKeys []json.RawMessage `json:"server_keys"`
	}
	err := c.do(ctx, call{
		method: http.MethodPost, server: notary, path: "/_matrix/key/v2/query", body: body, maxBytes: maxNotaryResponse, timeout: keysTimeout,
	}, &out)
	return out.ServerKeys, err
}

// UserDevices decodes a user's devices with their keys into out.
func (c *Client) UserDevices(ctx context.Context, server, userID string, out any) error {
	return c.do(ctx, call{method: http.MethodGet, server: server, path: joinPath(v1+"/user/devices", userID)}, out)
}

// QueryUserKeys decodes the device and cross-signing keys of users into out. devices are the device ids wanted of each
// user, none for all.
func (c *Client) QueryUserKeys(ctx context.Context, server string, devices map[string][]string, out any) error {
	body := struct {
		DeviceKeys map[string][]string `json:"device_keys"`
	}{make(map[string][]string, len(devices))}
	for user, ids := range devices {
		body.DeviceKeys[user] = append([]string{}, ids...)
	}
	return c.do(ctx, call{method: http.MethodPost, server: server, path: v1 + "/user/keys/query", body: body, maxBytes: maxNotaryResponse}, out)
}

// ClaimUserKeys decodes one-time keys into out: one for each device, of the algorithm named for it.
func (c *Client) ClaimUserKeys(ctx context.Context, server string, wanted map[string]map[string]string, out any) error {
	return c.do(ctx, call{
		method: http.MethodPost, server: server, path: v1 + "/user/keys/claim", body: map[string]any{"one_time_keys": wanted}, maxBytes: maxNotaryResponse,
	}, out)
}
