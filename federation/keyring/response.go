package keyring

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

const (
	// maxResponse and maxKeys bound what one server can have stored: each key keeps the response it came with.
	maxResponse = 64 << 10
	maxKeys     = 64
	maxKeyID    = 255
)

// algorithm is the prefix of the ids of keys that can be used.
const algorithm = "ed25519:"

// errResponse says that a server published nothing that can be used.
var errResponse = errors.New("unusable server keys")

// verifyKey is a public key as servers publish it.
type verifyKey struct {
	Key string `json:"key"`
	// ExpiredTS is set in old_verify_keys.
	ExpiredTS int64 `json:"expired_ts,omitempty"`
}

// published is the response of /_matrix/key/v2/server.
type published struct {
	ServerName    string               `json:"server_name"`
	VerifyKeys    map[string]verifyKey `json:"verify_keys"`
	OldVerifyKeys map[string]verifyKey `json:"old_verify_keys"`
	ValidUntilTS  int64                `json:"valid_until_ts"`
}

// parseResponse returns the keys of a response, which must carry a good signature by one of its own verify_keys and no bad
// one. Keys that cannot be used are left out.
func parseResponse(response []byte, fetched int64) (server string, keys []storage.ServerKey, err error) {
	if len(response) > maxResponse {
		return "", nil, fmt.Errorf("%w: above %d bytes", errResponse, maxResponse)
	}
	// Signatures are over canonical JSON, which has no two members of one name: what is read below is what was signed.
	canonical, err := event.Canonical(response)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", errResponse, err)
	}
	var p published
	if err := json.Unmarshal(canonical, &p); err != nil {
		return "", nil, fmt.Errorf("%w: %w", errResponse, err)
	}
	if p.ServerName == "" || len(p.VerifyKeys)+len(p.OldVerifyKeys) > maxKeys {
		return "", nil, fmt.Errorf("%w: no server name, or above %d keys", errResponse, maxKeys)
	}
	signed := false
	add := func(id string, k verifyKey, until int64, old bool) error {
		public, ok := decodeKey(id, k.Key)
		if !ok {
			return nil
		}
		if !old {
			if err := event.VerifyJSON(canonical, p.ServerName, id, public); err == nil {
				signed = true
			} else if ids, _ := event.JSONSignatures(canonical, p.ServerName); slices.Contains(ids, id) {
				return fmt.Errorf("%w: %w", errResponse, err)
			}
		}
		keys = append(keys, storage.ServerKey{
			Server: p.ServerName, KeyID: id, PublicKey: public, ValidUntilTS: until, IsOld: old, FetchedTS: fetched, Response: response,
		})
		return nil
	}
	for id, k := range p.VerifyKeys {
		if err := add(id, k, p.ValidUntilTS, false); err != nil {
			return "", nil, err
		}
	}
	for id, k := range p.OldVerifyKeys {
		if _, inUse := p.VerifyKeys[id]; inUse {
			continue
		}
		if err := add(id, k, k.ExpiredTS, true); err != nil {
			return "", nil, err
		}
	}
	if !signed {
		return "", nil, fmt.Errorf("%w: not signed with any of the keys", errResponse)
	}
	return p.ServerName, keys, nil
}

// decodeKey decodes a public key in base64, padded or not.
func decodeKey(id, key string) (ed25519.PublicKey, bool) {
	if !strings.HasPrefix(id, algorithm) || len(id) > maxKeyID || strings.ContainsRune(id, 0) {
		return nil, false
	}
	public, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(key, "="))
	return public, err == nil && len(public) == ed25519.PublicKeySize
}
