package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// AccessToken is an access token of an account of this server.
type AccessToken struct {
	TokenID int64   `db:"token_id"`
	Hash    []byte  `db:"token_hash"`
	UserNID UserNID `db:"user_nid"`
	// DeviceID is nil for tokens without a device.
	DeviceID  *string `db:"device_id"`
	CreatedTS int64   `db:"created_ts"`
	// ValidUntilTS is nil for tokens that do not expire.
	ValidUntilTS *int64 `db:"valid_until_ts"`
	// PuppetOfNID is the administrator who acts as the user, or nil.
	PuppetOfNID *UserNID `db:"puppet_of_nid"`
	// RefreshTokenID is the refresh token handed out beside this token, or nil.
	RefreshTokenID *int64 `db:"refresh_token_id"`
	// Used says that a request has been made with it.
	Used bool `db:"used"`
	// ValidatedTS is when the owner last passed user-interactive authentication with it, or nil.
	ValidatedTS *int64 `db:"validated_ts"`
}

const insertAccessTokenSQL = `
INSERT INTO access_tokens (token_hash, user_nid, device_id, created_ts, valid_until_ts, puppet_of_nid, refresh_token_id)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING token_id`

// InsertAccessToken stores a token and returns its number.
func InsertAccessToken(ctx context.Context, q Querier, t AccessToken) (int64, error) {
	var id int64
	err := q.QueryRow(ctx, insertAccessTokenSQL, t.Hash, t.UserNID, t.DeviceID, t.CreatedTS, t.ValidUntilTS, t.PuppetOfNID, t.RefreshTokenID).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("insert access token: %w", TranslateError(err))
	}
	return id, nil
}

// TokenOwner is an access token with what a request needs to know of the account it belongs to.
type TokenOwner struct {
	AccessToken
	UserID       string  `db:"user_id"`
	IsGuest      bool    `db:"is_guest"`
	Admin        bool    `db:"admin"`
	ShadowBanned bool    `db:"shadow_banned"`
	Locked       bool    `db:"locked"`
	Suspended    bool    `db:"suspended"`
	Deactivated  bool    `db:"deactivated"`
	AppserviceID *string `db:"appservice_id"`
}

// By the unique index on token_hash and two primary keys; one row.
const getTokenOwnerSQL = `
SELECT t.token_id, t.token_hash, t.user_nid, t.device_id, t.created_ts, t.valid_until_ts, t.puppet_of_nid, t.refresh_token_id, t.used, t.validated_ts,
       n.user_id, u.is_guest, u.admin, u.shadow_banned, u.locked, u.suspended, u.deactivated, u.appservice_id
FROM access_tokens t JOIN users u USING (user_nid) JOIN user_ids n USING (user_nid)
WHERE t.token_hash = $1`

// GetTokenOwner returns the access token with a hash and its account, or [ErrNotFound].
func GetTokenOwner(ctx context.Context, q Querier, hash []byte) (*TokenOwner, error) {
	rows, err := q.Query(ctx, getTokenOwnerSQL, hash)
	if err != nil {
		return nil, fmt.Errorf("get access token: %w", TranslateError(err))
	}
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[TokenOwner])
	if err != nil {
		return nil, fmt.Errorf("get access token: %w", TranslateError(err))
	}
	return &t, nil
}

// GetAccessTokenHashes returns the hashes of all access tokens of a user.
func GetAccessTokenHashes(ctx context.Context, q Querier, user UserNID) ([][]byte, error) {
	rows, err := q.Query(ctx, `SELECT token_hash FROM access_tokens WHERE user_nid = $1`, user)
	if err != nil {
		return nil, fmt.Errorf("get access tokens of user %d: %w", user, TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("get access tokens of user %d: %w", user, TranslateError(err))
	}
	return out, nil
}

// GetTokenValidated returns when the owner of an access token last passed user-interactive authentication with it, 0 for
// never.
func GetTokenValidated(ctx context.Context, q Querier, tokenID int64) (int64, error) {
	var ts int64
	if err := q.QueryRow(ctx, `SELECT coalesce(max(validated_ts), 0) FROM access_tokens WHERE token_id = $1`, tokenID).Scan(&ts); err != nil {
		return 0, fmt.Errorf("get validation of access token: %w", TranslateError(err))
	}
	return ts, nil
}

// SetTokenValidated records that the owner of an access token has passed user-interactive authentication with it.
func SetTokenValidated(ctx context.Context, q Querier, tokenID, nowTS int64) error {
	if _, err := q.Exec(ctx, `UPDATE access_tokens SET validated_ts = $2 WHERE token_id = $1`, tokenID, nowTS); err != nil {
		return fmt.Errorf("record validation of access token: %w", TranslateError(err))
	}
	return nil
}

// DeleteAccessToken deletes one access token and returns its hash, nil where it is not there.
func DeleteAccessToken(ctx context.Context, q Querier, tokenID int64) ([]byte, error) {
	rows, err := q.Query(ctx, `DELETE FROM access_tokens WHERE token_id = $1 RETURNING token_hash`, tokenID)
	if err != nil {
		return nil, fmt.Errorf("delete access token: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("delete access token: %w", TranslateError(err))
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out[0], nil
}

// DeleteTokensOfDevice deletes the access and refresh tokens of a device that stays, and returns the hashes of the access
// tokens.
func DeleteTokensOfDevice(ctx context.Context, q Querier, user UserNID, deviceID string) (hashes [][]byte, err error) {
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM access_tokens WHERE user_nid = $1 AND device_id = $2 RETURNING token_hash`, user, deviceID).Query(func(rows pgx.Rows) (err error) {
		hashes, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
		return err
	})
	b.Queue(`DELETE FROM refresh_tokens WHERE user_nid = $1 AND device_id = $2`, user, deviceID)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("delete tokens of device: %w", TranslateError(err))
	}
	return hashes, nil
}

// By the primary key of access_tokens, and the indexes on next_token_id and refresh_token_id. What the used token was
// obtained with is spent now, and so is the access token that was handed out beside that.
const (
	markTokenUsedSQL = `UPDATE access_tokens SET used = true WHERE token_id = $1`
	spendTokensSQL   = `
WITH spent AS (DELETE FROM refresh_tokens WHERE next_token_id = $1 RETURNING token_id)
DELETE FROM access_tokens WHERE refresh_token_id IN (SELECT token_id FROM spent) RETURNING token_hash`
)

// MarkTokenUsed records the first use of an access token. The refresh token it was obtained with, if any, is deleted
// together with the access token of the login before; the hash of that is returned.
func MarkTokenUsed(ctx context.Context, q Querier, tokenID int64, refreshTokenID *int64) (hashes [][]byte, err error) {
	b := &pgx.Batch{}
	b.Queue(markTokenUsedSQL, tokenID)
	if refreshTokenID != nil {
		b.Queue(spendTokensSQL, *refreshTokenID).Query(func(rows pgx.Rows) (err error) {
			hashes, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
			return err
		})
	}
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("mark access token as used: %w", TranslateError(err))
	}
	return hashes, nil
}

// RefreshToken is a refresh token.
type RefreshToken struct {
	TokenID  int64   `db:"token_id"`
	Hash     []byte  `db:"token_hash"`
	UserNID  UserNID `db:"user_nid"`
	DeviceID string  `db:"device_id"`
	// ExpiryTS is when it is no longer accepted, SessionExpiryTS when the login ends however often it is refreshed; nil
	// means never.
	ExpiryTS        *int64 `db:"expiry_ts"`
	SessionExpiryTS *int64 `db:"session_expiry_ts"`
	// NextTokenID is the token this one was exchanged for, or nil.
	NextTokenID *int64 `db:"next_token_id"`
}

const insertRefreshTokenSQL = `
INSERT INTO refresh_tokens (token_hash, user_nid, device_id, expiry_ts, session_expiry_ts) VALUES ($1, $2, $3, $4, $5) RETURNING token_id`

// InsertRefreshToken stores a token and returns its number.
func InsertRefreshToken(ctx context.Context, q Querier, t RefreshToken) (int64, error) {
	var id int64
	err := q.QueryRow(ctx, insertRefreshTokenSQL, t.Hash, t.UserNID, t.DeviceID, t.ExpiryTS, t.SessionExpiryTS).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("insert refresh token: %w", TranslateError(err))
	}
	return id, nil
}

// By the unique index on token_hash; one row, locked so that two exchanges of one token come one after the other.
const lockRefreshTokenSQL = `
SELECT r.token_id, r.token_hash, r.user_nid, r.device_id, r.expiry_ts, r.session_expiry_ts, r.next_token_id, n.user_id
FROM refresh_tokens r JOIN user_ids n USING (user_nid) WHERE token_hash = $1 FOR UPDATE OF r`

// LockRefreshToken returns the refresh token with a hash and its user, locked until the transaction ends, or
// [ErrNotFound].
func LockRefreshToken(ctx context.Context, q Querier, hash []byte) (*RefreshToken, string, error) {
	type row struct {
		RefreshToken
		UserID string `db:"user_id"`
	}
	rows, err := q.Query(ctx, lockRefreshTokenSQL, hash)
	if err != nil {
		return nil, "", fmt.Errorf("lock refresh token: %w", TranslateError(err))
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, "", fmt.Errorf("lock refresh token: %w", TranslateError(err))
	}
	return &r.RefreshToken, r.UserID, nil
}

// By the indexes on next_token_id and refresh_token_id. The tokens of an earlier exchange that nobody used are dropped;
// so is what the exchanged token itself was obtained with.
const (
	dropRefreshTokenSQL = `
WITH gone AS (DELETE FROM refresh_tokens WHERE token_id = $1 RETURNING token_id)
DELETE FROM access_tokens WHERE refresh_token_id IN (SELECT token_id FROM gone) RETURNING token_hash`
	setNextRefreshTokenSQL = `UPDATE refresh_tokens SET next_token_id = $2 WHERE token_id = $1`
)

// ExchangeRefreshToken records that old was exchanged for the token with number next. Tokens that came of an earlier
// exchange of old, and what old itself was obtained with, are deleted; the hashes of access tokens among them are
// returned.
func ExchangeRefreshToken(ctx context.Context, q Querier, old *RefreshToken, next int64) (hashes [][]byte, err error) {
	collect := func(rows pgx.Rows) error {
		more, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		hashes = append(hashes, more...)
		return err
	}
	b := &pgx.Batch{}
	if old.NextTokenID != nil {
		b.Queue(dropRefreshTokenSQL, *old.NextTokenID).Query(collect)
	}
	b.Queue(spendTokensSQL, old.TokenID).Query(collect)
	b.Queue(setNextRefreshTokenSQL, old.TokenID, next)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("exchange refresh token: %w", TranslateError(err))
	}
	return hashes, nil
}

// InsertLoginToken stores a token for m.login.token.
func InsertLoginToken(ctx context.Context, q Querier, hash []byte, user UserNID, expiryTS int64) error {
	_, err := q.Exec(ctx, `INSERT INTO login_tokens (token_hash, user_nid, expiry_ts) VALUES ($1, $2, $3)`, hash, user, expiryTS)
	if err != nil {
		return fmt.Errorf("insert login token: %w", TranslateError(err))
	}
	return nil
}

// By the primary keys; one row.
const takeLoginTokenSQL = `
WITH taken AS (DELETE FROM login_tokens WHERE token_hash = $1 RETURNING user_nid, expiry_ts)
SELECT user_id, expiry_ts FROM taken JOIN user_ids USING (user_nid)`

// TakeLoginToken deletes a login token and returns whose it was and when it expires, or [ErrNotFound].
func TakeLoginToken(ctx context.Context, q Querier, hash []byte) (userID string, expiryTS int64, err error) {
	if err := q.QueryRow(ctx, takeLoginTokenSQL, hash).Scan(&userID, &expiryTS); err != nil {
		return "", 0, fmt.Errorf("take login token: %w", TranslateError(err))
	}
	return userID, expiryTS, nil
}

// InsertOpenIDToken stores a token that proves a user's identity to a third party.
func InsertOpenIDToken(ctx context.Context, q Querier, hash []byte, user UserNID, validUntilTS int64) error {
	_, err := q.Exec(ctx, `INSERT INTO openid_tokens (token_hash, user_nid, valid_until_ts) VALUES ($1, $2, $3)`, hash, user, validUntilTS)
	if err != nil {
		return fmt.Errorf("insert openid token: %w", TranslateError(err))
	}
	return nil
}

// By the primary keys; one row.
const getOpenIDTokenSQL = `SELECT user_id FROM openid_tokens JOIN user_ids USING (user_nid) WHERE token_hash = $1 AND valid_until_ts > $2`

// GetOpenIDToken returns the user an OpenID token stands for, [ErrNotFound] where it is unknown or has expired at nowTS.
func GetOpenIDToken(ctx context.Context, q Querier, hash []byte, nowTS int64) (userID string, err error) {
	if err := q.QueryRow(ctx, getOpenIDTokenSQL, hash, nowTS).Scan(&userID); err != nil {
		return "", fmt.Errorf("get openid token: %w", TranslateError(err))
	}
	return userID, nil
}

// PruneTokens deletes login tokens, OpenID tokens and registration nonces that have expired at a time, and sessions
// of interactive authentication that began before uiaBeforeTS; times are in milliseconds since the epoch.
func PruneTokens(ctx context.Context, q Querier, beforeTS, uiaBeforeTS int64) error {
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM login_tokens WHERE expiry_ts <= $1`, beforeTS)
	b.Queue(`DELETE FROM openid_tokens WHERE valid_until_ts <= $1`, beforeTS)
	b.Queue(`DELETE FROM registration_nonces WHERE expiry_ts <= $1`, beforeTS)
	b.Queue(`DELETE FROM ui_auth_sessions WHERE created_ts < $1`, uiaBeforeTS)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("prune tokens: %w", TranslateError(err))
	}
	return nil
}
