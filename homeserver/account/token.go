package account

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash/crc32"
	"strings"
)

// TokenKind is the prefix that says what a token is for.
type TokenKind string

// The kinds of tokens, with Synapse's prefixes.
const (
	// AccessTokenKind is "syt".
	AccessTokenKind TokenKind = "syt"
	// RefreshTokenKind is "syr".
	RefreshTokenKind TokenKind = "syr"
	// LoginTokenKind is "syl".
	LoginTokenKind TokenKind = "syl"
)

const (
	tokenRandomLen = 20
	letters        = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	base62         = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	checksumLen    = 6
)

// NewToken makes a token: "<kind>_<localpart, unpadded base64>_<20 random letters>_<CRC-32 of what precedes, base 62>".
// The localpart lets a load balancer route by user without asking anybody; the checksum tells a secret scanner (and us)
// a token from a word that looks like one. The letters alone are the secret: 114 bits.
func NewToken(kind TokenKind, localpart string) string {
	var b strings.Builder
	b.WriteString(string(kind))
	b.WriteByte('_')
	b.WriteString(base64.RawStdEncoding.EncodeToString([]byte(localpart)))
	b.WriteByte('_')
	b.WriteString(RandomLetters(tokenRandomLen))
	sum := checksum(b.String())
	b.WriteByte('_')
	b.WriteString(sum)
	return b.String()
}

// ParseToken reads the kind and the localpart out of a token of NewToken's form. ok is false for any other string, also
// for one whose checksum is wrong. It says nothing about whether the token is valid.
func ParseToken(token string) (kind TokenKind, localpart string, ok bool) {
	head, sum, ok := cutLast(token, '_')
	if !ok || len(sum) < checksumLen || checksum(head) != sum {
		return "", "", false
	}
	rest, random, ok := cutLast(head, '_')
	if !ok || len(random) != tokenRandomLen {
		return "", "", false
	}
	k, encoded, ok := strings.Cut(rest, "_")
	if !ok {
		return "", "", false
	}
	switch kind = TokenKind(k); kind {
	case AccessTokenKind, RefreshTokenKind, LoginTokenKind:
	default:
		return "", "", false
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	return kind, string(raw), true
}

// HashToken returns what storage keeps of a token.
func HashToken(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// RandomLetters returns n random ASCII letters from the system's secure source.
func RandomLetters(n int) string { return randomString(n, letters) }

func randomString(n int, alphabet string) string {
	// Bytes at or above the largest multiple of the alphabet's size are dropped, so that each letter is as likely.
	limit := 256 / len(alphabet) * len(alphabet)
	out := make([]byte, 0, n)
	buf := make([]byte, n+n/2+8)
	for len(out) < n {
		rand.Read(buf) // never fails
		for _, c := range buf {
			if int(c) < limit && len(out) < n {
				out = append(out, alphabet[int(c)%len(alphabet)])
			}
		}
	}
	return string(out)
}

func checksum(s string) string {
	n := crc32.ChecksumIEEE([]byte(s))
	var buf [checksumLen]byte
	for i := len(buf) - 1; i >= 0; i-- {
		buf[i] = base62[n%62]
		n /= 62
	}
	return string(buf[:])
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
