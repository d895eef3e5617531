package account

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/semaphore"
	"golang.org/x/text/unicode/norm"
)

// MaxPasswordBytes is the longest password accepted, in bytes.
const MaxPasswordBytes = 512

// bcryptBytes is how much of a password bcrypt looks at.
const bcryptBytes = 72

// DefaultBcryptRounds is the cost of bcrypt where none is configured, as Synapse's bcrypt_rounds.
const DefaultBcryptRounds = 12

// Hasher hashes and checks passwords with bcrypt in the form Synapse stores them, so that accounts can be moved either
// way. Hashing is slow by design: a Hasher lets only half of the processors do it at a time, so that a wave of logins
// leaves the other half to everything else. It is safe for concurrent use.
type Hasher struct {
	pepper string
	rounds int
	slots  *semaphore.Weighted
	// dummy is compared with where there is no account, so that the answer takes as long as where there is one.
	dummy []byte
}

// NewHasher returns a Hasher. rounds is the cost of new hashes, DefaultBcryptRounds where 0; pepper is appended to every
// password and must never change.
func NewHasher(rounds int, pepper string) (*Hasher, error) {
	if rounds == 0 {
		rounds = DefaultBcryptRounds
	}
	if rounds < bcrypt.MinCost || rounds > bcrypt.MaxCost {
		return nil, fmt.Errorf("bcrypt rounds are %d, must be between %d and %d", rounds, bcrypt.MinCost, bcrypt.MaxCost)
	}
	// A hash of the configured cost that no password matches: the salt and hash are made-up letters.
	dummy := fmt.Appendf(nil, "$2b$%02d$%s", rounds, strings.Repeat(".", 53))
	return &Hasher{
		pepper: pepper,
		rounds: rounds,
		slots:  semaphore.NewWeighted(int64(max(runtime.GOMAXPROCS(0)/2, 1))),
		dummy:  dummy,
	}, nil
}

// Hash returns the hash of a password, waiting for its turn.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.slots.Acquire(ctx, 1); err != nil {
		return "", fmt.Errorf("wait to hash a password: %w", err)
	}
	defer h.slots.Release(1)
	hash, err := bcrypt.GenerateFromPassword(h.prepare(password), h.rounds)
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	// Go's bcrypt has the fix that 2b marks and still writes the older mark; Synapse writes 2b.
	return "$2b$" + strings.TrimPrefix(string(hash), "$2a$"), nil
}

// Check reports whether password is the one hash was made of. An empty hash matches nothing, in the time a real one
// would take.
func (h *Hasher) Check(ctx context.Context, hash, password string) (bool, error) {
	if err := h.slots.Acquire(ctx, 1); err != nil {
		return false, fmt.Errorf("wait to check a password: %w", err)
	}
	defer h.slots.Release(1)
	if hash == "" {
		_ = bcrypt.CompareHashAndPassword(h.dummy, h.prepare(password))
		return false, nil
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), h.prepare(password)) == nil, nil
}

// prepare brings a password into the bytes bcrypt hashes: one form for all ways to type the same characters, the
// pepper, and no more than bcrypt reads.
func (h *Hasher) prepare(password string) []byte {
	b := []byte(norm.NFKC.String(password) + h.pepper)
	return b[:min(len(b), bcryptBytes)]
}
