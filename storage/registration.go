package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// RegistrationToken allows registration to those who know it.
type RegistrationToken struct {
	Token string `db:"token"`
	// UsesAllowed is how many accounts it makes, nil for any number.
	UsesAllowed *int32 `db:"uses_allowed"`
	// Pending counts registrations that have begun with it, Completed those that are done.
	Pending   int32 `db:"pending"`
	Completed int32 `db:"completed"`
	// ExpiryTS is in milliseconds since the epoch, nil for never.
	ExpiryTS *int64 `db:"expiry_ts"`
}

// Usable reports whether another registration may begin with the token at nowTS.
func (t *RegistrationToken) Usable(nowTS int64) bool {
	return (t.UsesAllowed == nil || t.Pending+t.Completed < *t.UsesAllowed) && (t.ExpiryTS == nil || *t.ExpiryTS > nowTS)
}

// InsertRegistrationToken stores a token; it is a [*ConflictError] where it is there.
func InsertRegistrationToken(ctx context.Context, q Querier, t RegistrationToken) error {
	_, err := q.Exec(ctx, `INSERT INTO registration_tokens (token, uses_allowed, expiry_ts) VALUES ($1, $2, $3)`, t.Token, t.UsesAllowed, t.ExpiryTS)
	if err != nil {
		return fmt.Errorf("insert registration token: %w", TranslateError(err))
	}
	return nil
}

// GetRegistrationToken returns a token, or [ErrNotFound].
func GetRegistrationToken(ctx context.Context, q Querier, token string) (*RegistrationToken, error) {
	rows, err := q.Query(ctx, `SELECT token, uses_allowed, pending, completed, expiry_ts FROM registration_tokens WHERE token = $1`, token)
	if err != nil {
		return nil, fmt.Errorf("get registration token: %w", TranslateError(err))
	}
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[RegistrationToken])
	if err != nil {
		return nil, fmt.Errorf("get registration token: %w", TranslateError(err))
	}
	return &t, nil
}

const useRegistrationTokenSQL = `
UPDATE registration_tokens SET pending = pending + 1
WHERE token = $1 AND (uses_allowed IS NULL OR pending + completed < uses_allowed) AND (expiry_ts IS NULL OR expiry_ts > $2)`

// UseRegistrationToken counts a registration that begins with a token, and reports false where the token does not allow
// it.
func UseRegistrationToken(ctx context.Context, q Querier, token string, nowTS int64) (bool, error) {
	tag, err := q.Exec(ctx, useRegistrationTokenSQL, token, nowTS)
	if err != nil {
		return false, fmt.Errorf("use registration token: %w", TranslateError(err))
	}
	return tag.RowsAffected() == 1, nil
}

// CompleteRegistrationToken turns one pending registration of a token into a completed one.
func CompleteRegistrationToken(ctx context.Context, q Querier, token string) error {
	_, err := q.Exec(ctx, `UPDATE registration_tokens SET pending = greatest(pending - 1, 0), completed = completed + 1 WHERE token = $1`, token)
	if err != nil {
		return fmt.Errorf("complete registration token: %w", TranslateError(err))
	}
	return nil
}

// InsertRegistrationNonce stores a nonce of shared-secret registration.
func InsertRegistrationNonce(ctx context.Context, q Querier, nonce string, expiryTS int64) error {
	if _, err := q.Exec(ctx, `INSERT INTO registration_nonces (nonce, expiry_ts) VALUES ($1, $2)`, nonce, expiryTS); err != nil {
		return fmt.Errorf("insert registration nonce: %w", TranslateError(err))
	}
	return nil
}

// TakeRegistrationNonce deletes a nonce and reports whether it was there and had not expired at nowTS.
func TakeRegistrationNonce(ctx context.Context, q Querier, nonce string, nowTS int64) (bool, error) {
	tag, err := q.Exec(ctx, `DELETE FROM registration_nonces WHERE nonce = $1 AND expiry_ts > $2`, nonce, nowTS)
	if err != nil {
		return false, fmt.Errorf("take registration nonce: %w", TranslateError(err))
	}
	return tag.RowsAffected() == 1, nil
}
