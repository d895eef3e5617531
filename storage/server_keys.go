package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ServerKey is a public key of another server. Times are in milliseconds since the epoch.
type ServerKey struct {
	Server string `db:"server"`
	// KeyID is its full name, "ed25519:a".
	KeyID     string `db:"key_id"`
	PublicKey []byte `db:"public_key"`
	// ValidUntilTS is up to when the key may be used, for an old one when it was last used.
	ValidUntilTS int64 `db:"valid_until_ts"`
	IsOld        bool  `db:"is_old"`
	// FetchedTS is when the response was fetched.
	FetchedTS int64 `db:"fetched_ts"`
	// Response is where the server published the key, as it signed it.
	Response []byte `db:"response"`
}

const getServerKeysSQL = `
SELECT server, key_id, public_key, valid_until_ts, is_old, fetched_ts, response FROM server_keys WHERE server = ANY($1)`

// GetServerKeys returns all that is known of the keys of servers.
func GetServerKeys(ctx context.Context, q Querier, servers []string) ([]ServerKey, error) {
	rows, err := q.Query(ctx, getServerKeysSQL, servers)
	if err == nil {
		var keys []ServerKey
		if keys, err = pgx.CollectRows(rows, pgx.RowToStructByName[ServerKey]); err == nil {
			return keys, nil
		}
	}
	return nil, fmt.Errorf("get server keys: %w", TranslateError(err))
}

// What the server itself said last counts. A notary may hand on what is out of date: it can neither bring back a key that
// is known to be retired nor shorten one's life.
const putServerKeysSQL = `
INSERT INTO server_keys AS k (server, key_id, public_key, valid_until_ts, is_old, fetched_ts, response)
SELECT r.server, r.key_id, r.public_key, r.valid_until_ts, r.is_old, r.fetched_ts, r.response
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::boolean[], $6::bigint[], $7::bytea[])
     AS r (server, key_id, public_key, valid_until_ts, is_old, fetched_ts, response)
ORDER BY 1, 2
ON CONFLICT (server, key_id) DO UPDATE
SET public_key = excluded.public_key, valid_until_ts = excluded.valid_until_ts, is_old = excluded.is_old,
    fetched_ts = excluded.fetched_ts, response = excluded.response
WHERE $8 AND k.fetched_ts <= excluded.fetched_ts
   OR NOT $8 AND NOT k.is_old AND (excluded.is_old OR k.valid_until_ts < excluded.valid_until_ts)`

// PutServerKeys stores keys of other servers. direct says that they were fetched from their servers, not from a notary.
// No two of keys may have the same server and id.
func PutServerKeys(ctx context.Context, q Querier, keys []ServerKey, direct bool) error {
	n := len(keys)
	servers, ids, public := make([]string, n), make([]string, n), make([][]byte, n)
	until, old, fetched, responses := make([]int64, n), make([]bool, n), make([]int64, n), make([][]byte, n)
	for i, k := range keys {
		servers[i], ids[i], public[i] = k.Server, k.KeyID, k.PublicKey
		until[i], old[i], fetched[i], responses[i] = k.ValidUntilTS, k.IsOld, k.FetchedTS, k.Response
	}
	if _, err := q.Exec(ctx, putServerKeysSQL, servers, ids, public, until, old, fetched, responses, direct); err != nil {
		return fmt.Errorf("put server keys: %w", TranslateError(err))
	}
	return nil
}
