package event

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
)

// SignJSON returns the canonical JSON of an object with the signer's signature added to signatures (appendices, "Signing
// Details"). signatures and unsigned are kept and not signed.
func SignJSON(object []byte, s Signer) ([]byte, error) {
	canonical, err := Canonical(object)
	if err != nil {
		return nil, err
	}
	if !isObject(canonical) {
		return nil, &FormatError{Reason: "not a JSON object", Err: ErrBadJSON}
	}
	sig := ed25519.Sign(s.Key, signedPart(canonical))
	return appendWith(nil, canonical, "signatures", withSignature(lookup(canonical, "signatures"), s, sig)), nil
}

// VerifyJSON checks the signature that server made with the key keyID over a JSON object (appendices, "Checking for a
// Signature"). It returns a *SignatureError, or what is wrong with the JSON.
func VerifyJSON(object []byte, server, keyID string, key ed25519.PublicKey) error {
	canonical, err := Canonical(object)
	if err != nil {
		return err
	}
	raw := lookupAny(lookupAny(lookup(canonical, "signatures"), server), keyID)
	if raw == nil {
		return &SignatureError{Server: server, Reason: "none with key " + keyID}
	}
	return verify(raw, server, keyID, key, signedPart(canonical))
}

// JSONSignatures returns the ids of the keys with which server signed a JSON object, sorted.
func JSONSignatures(object []byte, server string) ([]string, error) {
	canonical, err := Canonical(object)
	if err != nil {
		return nil, err
	}
	return signedKeys(lookup(canonical, "signatures"), server), nil
}

// signedPart returns a canonical object without signatures and unsigned.
func signedPart(object []byte) []byte { return without(object, "signatures", "unsigned") }

// without returns a canonical object without some of its members.
func without(object []byte, keys ...string) []byte {
	var cuts []span
	for it := iterObject(object); it.next(); {
		if slices.Contains(keys, string(it.key)) {
			cuts = append(cuts, span{int32(it.memStart), int32(it.i)})
		}
	}
	return appendCut(make([]byte, 0, len(object)), object, cuts...)
}

// verify checks one raw signature over a message.
func verify(raw []byte, server, keyID string, key ed25519.PublicKey, message []byte) error {
	var buf [ed25519.SignatureSize + 8]byte
	sig, ok := appendBase64(buf[:0], raw)
	if !ok || len(sig) != ed25519.SignatureSize {
		return &SignatureError{Server: server, Reason: "with key " + keyID + " is not base64 of 64 bytes"}
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, message, sig) {
		return &SignatureError{Server: server, Reason: "with key " + keyID + " does not verify"}
	}
	return nil
}

// signedKeys lists the ed25519 keys of a server in a signatures object.
func signedKeys(signatures []byte, server string) []string {
	var ids []string
	for it := iterObject(lookupAny(signatures, server)); it.next(); {
		if id := unescape(it.key); strings.HasPrefix(id, "ed25519:") {
			ids = append(ids, id)
		}
	}
	return ids
}

// KeyRing finds the public keys of servers.
type KeyRing interface {
	// VerifyKey returns the public key keyID of a server. validAt is a time in milliseconds since the Unix epoch at
	// which the key must have been valid (room versions 5 and later: the lesser of valid_until_ts and 7 days from now
	// must reach it), or 0 if any time will do. An unknown key, or one not valid then, is ErrKeyNotFound.
	VerifyKey(ctx context.Context, server, keyID string, validAt int64) (ed25519.PublicKey, error)
}

// RequiredSigners returns the names of the servers that must have signed the event: the sender's (unless it is a third
// party invite, which another server may have sent), the event id's in room versions 1 and 2, and that of the user who
// vouches for a restricted join.
func RequiredSigners(e *Event) []string {
	signers := make([]string, 0, 2)
	add := func(server string) {
		if !slices.Contains(signers, server) {
			signers = append(signers, server)
		}
	}
	if !isThirdPartyInvite(e) {
		add(ServerName(e.sender))
	}
	if e.version.EventIDFormat == EventIDRandom {
		add(ServerName(e.id))
	}
	if e.version.Restricted && e.typ == TypeMember {
		if raw := lookup(e.Content(), "join_authorised_via_users_server"); raw != nil {
			// Anything but a user id gives a name that no server has, so that the event fails as the rule demands.
			user, _ := decodeString(raw)
			add(ServerName(user))
		}
	}
	return signers
}

func isThirdPartyInvite(e *Event) bool {
	return e.typ == TypeMember && e.Membership() == MembershipInvite && isObject(lookup(e.Content(), "third_party_invite"))
}

// VerifySignatures checks the signatures of RequiredSigners: each server must have signed with at least one key that keys
// finds, and each signature with such a key must be good. The error is a *SignatureError.
func (e *Event) VerifySignatures(ctx context.Context, keys KeyRing) error {
	message := e.appendRedacted(make([]byte, 0, len(e.raw)), false)
	for _, server := range RequiredSigners(e) {
		if err := e.verifyServer(ctx, keys, server, message); err != nil {
			return err
		}
	}
	return nil
}

// VerifySignedBy checks that one server signed the event, by the rules of VerifySignatures.
func (e *Event) VerifySignedBy(ctx context.Context, keys KeyRing, server string) error {
	return e.verifyServer(ctx, keys, server, e.appendRedacted(make([]byte, 0, len(e.raw)), false))
}

// SignedKeys returns the ids of the keys with which server signed the event, sorted, for fetching them ahead.
func (e *Event) SignedKeys(server string) []string {
	return signedKeys(e.bytes(e.signatures), server)
}

func (e *Event) verifyServer(ctx context.Context, keys KeyRing, server string, message []byte) error {
	var validAt int64
	if e.version.EnforceKeyValidity {
		validAt = e.originServerTS
	}
	good := false
	var cause error
	for it := iterObject(lookupAny(e.bytes(e.signatures), server)); it.next(); {
		keyID := unescape(it.key)
		if !strings.HasPrefix(keyID, "ed25519:") {
			continue
		}
		key, err := keys.VerifyKey(ctx, server, keyID, validAt)
		if errors.Is(err, ErrKeyNotFound) {
			cause = err
			continue
		}
		if err != nil {
			return &SignatureError{Server: server, Reason: "look up key " + keyID, Err: err}
		}
		if err := verify(it.val, server, keyID, key, message); err != nil {
			return err
		}
		good = true
	}
	if !good {
		return &SignatureError{Server: server, Reason: "none with a known key", Err: cause}
	}
	return nil
}
