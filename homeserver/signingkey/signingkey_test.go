package signingkey_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weft-im/weft/homeserver/signingkey"
)

func TestLoadOrCreateGivesEveryProcessTheSameKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "example.com.signing.key")
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			keys, err := signingkey.LoadOrCreate(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = keys[0].ID + " " + keys[0].Public()
		})
	}
	wg.Wait()
	for _, got := range ids {
		if got != ids[0] || !strings.HasPrefix(got, "ed25519:a_") {
			t.Fatalf("keys differ or are misnamed: %q and %q", got, ids[0])
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("key file has mode %v, want 0600", info.Mode().Perm())
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("directory holds %v (%v), want the key alone", left, err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	// The seed of the specification's appendix "Cryptographic Test Vectors".
	const line = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n"
	keys, err := signingkey.Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if keys[0].ID != "ed25519:1" || keys[0].Public() != "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI" {
		t.Errorf("got %s %s", keys[0].ID, keys[0].Public())
	}
	// The two bits base64 leaves over at the end of a seed are set in the test vector and are not in ours.
	if got, want := string(signingkey.Format(keys...)), strings.Replace(line, "XA1", "XA0", 1); got != want {
		t.Errorf("Format gave %q, want %q", got, want)
	}
	if two, err := signingkey.Parse([]byte(line + "\n" + strings.Replace(line, " 1 ", " a_old ", 1))); err != nil || len(two) != 2 {
		t.Errorf("two keys: %v, %v", two, err)
	}
	for name, in := range map[string]string{
		"empty":         "",
		"other type":    "rsa 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1",
		"two fields":    "ed25519 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1",
		"bad version":   "ed25519 a:b YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1",
		"short seed":    "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW",
		"not base64":    "ed25519 1 !!!!",
		"standing text": "not a key",
	} {
		if keys, err := signingkey.Parse([]byte(in)); err == nil {
			t.Errorf("%s: got %v, want an error", name, keys)
		} else if strings.Contains(err.Error(), "YJDBA") {
			t.Errorf("%s: the error repeats the secret: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("ed25519 a_AbCd " + base64.RawStdEncoding.EncodeToString(make([]byte, 32))))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := signingkey.Parse(data)
		if err != nil {
			return
		}
		again, err := signingkey.Parse(signingkey.Format(keys...))
		if err != nil || len(again) != len(keys) {
			t.Fatalf("formatted keys do not parse: %v", err)
		}
	})
}
