package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Account is an account of this server.
type Account struct {
	NID    UserNID `db:"user_nid"`
	UserID string  `db:"user_id"`
	// PasswordHash is nil where no password is set.
	PasswordHash *string `db:"password_hash"`
	// CreatedTS is in milliseconds since the epoch.
	CreatedTS int64 `db:"created_ts"`
	IsGuest   bool  `db:"is_guest"`
	Admin     bool  `db:"admin"`
	// UserType is "bot", "support" or nil.
	UserType *string `db:"user_type"`
	// AppserviceID is the application service that made the account, or nil.
	AppserviceID *string `db:"appservice_id"`
	Deactivated  bool    `db:"deactivated"`
	Erased       bool    `db:"erased"`
	Locked       bool    `db:"locked"`
	Suspended    bool    `db:"suspended"`
	ShadowBanned bool    `db:"shadow_banned"`
	Approved     bool    `db:"approved"`
}

const insertAccountSQL = `
INSERT INTO users (user_nid, password_hash, created_ts, is_guest, admin, user_type, appservice_id, approved)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// InsertAccount makes an account of the user a.NID. It is a [*ConflictError] where there is one, be it deactivated.
func InsertAccount(ctx context.Context, q Querier, a Account) error {
	_, err := q.Exec(ctx, insertAccountSQL, a.NID, a.PasswordHash, a.CreatedTS, a.IsGuest, a.Admin, a.UserType, a.AppserviceID, a.Approved)
	if err != nil {
		return fmt.Errorf("insert account %d: %w", a.NID, TranslateError(err))
	}
	return nil
}

const accountColumns = `user_nid, user_id, password_hash, created_ts, is_guest, admin, user_type, appservice_id,
       deactivated, erased, locked, suspended, shadow_banned, approved`

// By the unique index of user_ids and the primary key of users; as many rows as there are ids at most.
const getAccountsSQL = `SELECT ` + accountColumns + ` FROM user_ids JOIN users USING (user_nid) WHERE user_id = ANY ($1)`

// GetAccounts returns the accounts among the user ids, in no order.
func GetAccounts(ctx context.Context, q Querier, userIDs []string) ([]Account, error) {
	rows, err := q.Query(ctx, getAccountsSQL, userIDs)
	if err != nil {
		return nil, fmt.Errorf("get accounts: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[Account])
	if err != nil {
		return nil, fmt.Errorf("get accounts: %w", TranslateError(err))
	}
	return out, nil
}

// GetAccount returns one account, or [ErrNotFound].
func GetAccount(ctx context.Context, q Querier, userID string) (*Account, error) {
	out, err := GetAccounts(ctx, q, []string{userID})
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("get account %s: %w", userID, ErrNotFound)
	}
	return &out[0], nil
}

// By the indexes named above, at most two rows: user ids that differ from the given one only in case.
const findAccountSQL = `SELECT ` + accountColumns + ` FROM user_ids JOIN users USING (user_nid)
WHERE user_id = ANY ($1) ORDER BY user_id = $2 DESC LIMIT 1`

// FindAccount returns the account of a user id or, failing that, of the other one (the id in small letters), or
// [ErrNotFound].
func FindAccount(ctx context.Context, q Querier, userID, other string) (*Account, error) {
	rows, err := q.Query(ctx, findAccountSQL, []string{userID, other}, userID)
	if err != nil {
		return nil, fmt.Errorf("find account %s: %w", userID, TranslateError(err))
	}
	a, err := pgx.CollectOneRow(rows, pgx.RowToStructByName[Account])
	if err != nil {
		return nil, fmt.Errorf("find account %s: %w", userID, TranslateError(err))
	}
	return &a, nil
}

// AccountChange is what [UpdateAccount] changes; nil fields stay as they are.
type AccountChange struct {
	// PasswordHash is the new hash; "" takes the password away.
	PasswordHash *string
	Admin        *bool
	IsGuest      *bool
	Deactivated  *bool
	Erased       *bool
	Locked       *bool
	Suspended    *bool
	ShadowBanned *bool
}

const updateAccountSQL = `
UPDATE users SET
    password_hash = CASE WHEN $2::text IS NULL THEN password_hash ELSE nullif($2, '') END,
    admin         = coalesce($3, admin),
    is_guest      = coalesce($4, is_guest),
    deactivated   = coalesce($5, deactivated),
    erased        = coalesce($6, erased),
    locked        = coalesce($7, locked),
    suspended     = coalesce($8, suspended),
    shadow_banned = coalesce($9, shadow_banned)
WHERE user_nid = $1`

// UpdateAccount changes an account, or returns [ErrNotFound].
func UpdateAccount(ctx context.Context, q Querier, user UserNID, c AccountChange) error {
	tag, err := q.Exec(ctx, updateAccountSQL, user, c.PasswordHash, c.Admin, c.IsGuest, c.Deactivated, c.Erased, c.Locked, c.Suspended, c.ShadowBanned)
	if err != nil {
		return fmt.Errorf("update account %d: %w", user, TranslateError(err))
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("update account %d: %w", user, ErrNotFound)
	}
	return nil
}

// NextGuest returns the number that names the next guest.
func NextGuest(ctx context.Context, q Querier) (int64, error) {
	var n int64
	if err := q.QueryRow(ctx, `SELECT nextval('guest_users_seq')`).Scan(&n); err != nil {
		return 0, fmt.Errorf("number a guest: %w", TranslateError(err))
	}
	return n, nil
}

// Threepid is a third-party identifier of an account.
type Threepid struct {
	Medium      string `db:"medium"`
	Address     string `db:"address"`
	ValidatedTS int64  `db:"validated_ts"`
	AddedTS     int64  `db:"added_ts"`
}

// By the index on user_nid.
const getThreepidsSQL = `SELECT medium, address, validated_ts, added_ts FROM user_threepids WHERE user_nid = $1 ORDER BY added_ts, medium, address`

// GetThreepids returns the third-party identifiers of an account.
func GetThreepids(ctx context.Context, q Querier, user UserNID) ([]Threepid, error) {
	rows, err := q.Query(ctx, getThreepidsSQL, user)
	if err != nil {
		return nil, fmt.Errorf("get threepids: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[Threepid])
	if err != nil {
		return nil, fmt.Errorf("get threepids: %w", TranslateError(err))
	}
	return out, nil
}

// By the primary key; one row.
const findThreepidSQL = `SELECT u.user_id FROM user_threepids t JOIN user_ids u USING (user_nid) WHERE medium = $1 AND address = $2`

// FindThreepid returns the user a third-party identifier belongs to, or [ErrNotFound].
func FindThreepid(ctx context.Context, q Querier, medium, address string) (string, error) {
	var userID string
	if err := q.QueryRow(ctx, findThreepidSQL, medium, address).Scan(&userID); err != nil {
		return "", fmt.Errorf("find threepid: %w", TranslateError(err))
	}
	return userID, nil
}

// InsertThreepid gives an account a third-party identifier; it is a [*ConflictError] where another has it.
func InsertThreepid(ctx context.Context, q Querier, user UserNID, t Threepid) error {
	_, err := q.Exec(ctx, `INSERT INTO user_threepids (user_nid, medium, address, validated_ts, added_ts) VALUES ($1, $2, $3, $4, $5)`,
		user, t.Medium, t.Address, t.ValidatedTS, t.AddedTS)
	if err != nil {
		return fmt.Errorf("insert threepid: %w", TranslateError(err))
	}
	return nil
}

// DeleteThreepids takes third-party identifiers from an account: the given one, or all where medium is "".
func DeleteThreepids(ctx context.Context, q Querier, user UserNID, medium, address string) error {
	_, err := q.Exec(ctx, `DELETE FROM user_threepids WHERE user_nid = $1 AND ($2 = '' OR medium = $2 AND address = $3)`, user, medium, address)
	if err != nil {
		return fmt.Errorf("delete threepids: %w", TranslateError(err))
	}
	return nil
}
