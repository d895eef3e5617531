package writer_test

import (
	"context"
	"crypto/ed25519"

	"github.com/weft-im/weft/homeserver/event"
)

// keyRing knows the key of the test's server, and of those that use the same.
type keyRing struct{}

func (keyRing) VerifyKey(_ context.Context, _, keyID string, _ int64) (ed25519.PublicKey, error) {
	if keyID != signer().KeyID {
		return nil, event.ErrKeyNotFound
	}
	return signer().Key.Public().(ed25519.PublicKey), nil
}
