package event

import (
	"context"
	"crypto/ed25519"
)

// SignJSON returns the canonical JSON of an object with the signer's signature added to signatures (appendices, "Signing
// Details"). signatures and unsigned are kept and not signed.
func SignJSON(object []byte, s Signer) ([]byte, error) { panic("not yet") }

// VerifyJSON checks the signature that server made with the key keyID over a JSON object (appendices, "Checking for a
// Signature"). It returns a *SignatureError, or what is wrong with the JSON.
func VerifyJSON(object []byte, server, keyID string, key ed25519.PublicKey) error { panic("not yet") }

// JSONSignatures returns the ids of the keys with which server signed a JSON object, sorted.
func JSONSignatures(object []byte, server string) ([]string, error) { panic("not yet") }

// KeyRing finds the public keys of servers.
type KeyRing interface {
	// VerifyKey returns the public key keyID of a server. validAt is a time in milliseconds since the Unix epoch at
	// which the key must have been valid (room versions 5 and later: the lesser of valid_until_ts and 7 days from now
	// must reach it), or 0 if any time will do. An unknown key, or one not valid then, is ErrKeyNotFound.
	VerifyKey(ctx context.Context, server, keyID string, validAt int64) (ed25519.PublicKey, error)
}

// RequiredSigners returns the names of the servers that must have signed the event: the sender's (unless it is a third
// party invite), the event id's in room versions 1 and 2, and that of the user who vouches for a restricted join.
func RequiredSigners(e *Event) []string { panic("not yet") }

// VerifySignatures checks the signatures of RequiredSigners: each server must have signed with at least one key that keys
// finds, and each signature with such a key must be good. The error is a *SignatureError.
func (e *Event) VerifySignatures(ctx context.Context, keys KeyRing) error { panic("not yet") }

// VerifySignedBy checks that one server signed the event, by the rules of VerifySignatures.
func (e *Event) VerifySignedBy(ctx context.Context, keys KeyRing, server string) error {
	panic("not yet")
}

// SignedKeys returns the ids of the keys with which server signed the event, sorted, for fetching them ahead.
func (e *Event) SignedKeys(server string) []string { panic("not yet") }
