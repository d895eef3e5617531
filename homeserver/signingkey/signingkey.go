// Package signingkey loads and creates the ed25519 key a homeserver signs its events and requests with, in the file
// format Synapse uses, so that a server keeps its key when it moves.
//
// A file has one key a line, "ed25519 <version> <seed in unpadded base64>". The first is the one that signs; all of them
// are published.
package signingkey

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Key is a signing key and its name.
type Key struct {
	// ID is the key's full name, "ed25519:a_AbCd".
	ID string
	// Private is the key itself. Its public half is Private.Public().
	Private ed25519.PrivateKey
}

// Public returns the public half in unpadded base64, as it is published.
func (k Key) Public() string {
	return base64.RawStdEncoding.EncodeToString(k.Private[ed25519.SeedSize:])
}

// String returns the key's name; the key itself never reaches a log by accident.
func (k Key) String() string { return k.ID }

// GoString returns the key's name.
func (k Key) GoString() string { return k.ID }

// Generate makes a new key, with a random version of the form "a_AbCd".
func Generate() Key {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the system's random source cannot fail
	}
	return Key{ID: "ed25519:a_" + randomVersion(), Private: private}
}

// randomVersion returns four random letters.
func randomVersion() string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	out := make([]byte, 0, 4)
	var b [16]byte
	for len(out) < 4 {
		rand.Read(b[:]) // never fails
		for _, c := range b {
			if c < 4*52 && len(out) < 4 {
				out = append(out, letters[c%52])
			}
		}
	}
	return string(out)
}

// Parse reads the content of a key file. Empty lines are skipped; at least one key must be there.
func Parse(data []byte) ([]Key, error) {
	var keys []Key
	sc := bufio.NewScanner(bytes.NewReader(data))
	for line := 1; sc.Scan(); line++ {
		fields := strings.Fields(sc.Text())
		if len(fields) == 0 {
			continue
		}
		// The text never goes into an error: it is the secret.
		if len(fields) != 3 || fields[0] != "ed25519" {
			return nil, fmt.Errorf("line %d is not \"ed25519 <version> <seed>\"", line)
		}
		if !validVersion(fields[1]) {
			return nil, fmt.Errorf("line %d: the version must be letters, digits and underscores", line)
		}
		seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
		if err != nil || len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("line %d: the seed is not %d bytes in base64", line, ed25519.SeedSize)
		}
		keys = append(keys, Key{ID: "ed25519:" + fields[1], Private: ed25519.NewKeyFromSeed(seed)})
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it")
	}
	return keys, nil
}

// Format returns keys as the content of a key file.
func Format(keys ...Key) []byte {
	var b bytes.Buffer
	for _, k := range keys {
		fmt.Fprintf(&b, "ed25519 %s %s\n", strings.TrimPrefix(k.ID, "ed25519:"), base64.RawStdEncoding.EncodeToString(k.Private.Seed()))
	}
	return b.Bytes()
}

// Load reads a key file.
func Load(path string) ([]Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	keys, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("signing key file %s: %w", path, err)
	}
	return keys, nil
}

// LoadOrCreate reads a key file and makes one, readable by its owner only, where there is none. Several processes may do
// so at once: they all end up with the same key.
func LoadOrCreate(path string) ([]Key, error) {
	keys, err := Load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	f, err := os.CreateTemp(dir, ".signing-key-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(Format(Generate()))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	// A link appears whole or not at all, and never replaces the key another process has made in the meantime.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	return Load(path)
}

func validVersion(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return s != ""
}
