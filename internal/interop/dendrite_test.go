package interop

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-im/weft/federation/federationtest"
)

const (
	dendriteModule  = "github.com/element-hq/dendrite"
	dendriteVersion = "v0.15.2"
)

// dendriteBinary builds Dendrite out of the module proxy, in a module of its own, and keeps the program in the user's
// cache.
var dendriteBinary = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "weft", "dendrite-"+dendriteVersion)
	bin := filepath.Join(dir, "dendrite")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"mod", "init", "dendrite.invalid"},
		{"get", dendriteModule + "/cmd/dendrite@" + dendriteVersion},
		{"build", "-o", filepath.Join(tmp, "dendrite"), dendriteModule + "/cmd/dendrite"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = tmp
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return bin, os.Rename(filepath.Join(tmp, "dendrite"), bin)
})

// dendrite is a Dendrite server that runs beside the test.
type dendrite struct {
	name, url string
	dir       string
	ca        string
	addresses [2]string // HTTP, HTTPS
	cmd       *exec.Cmd
	exited    chan error
}

// startDendrite starts a Dendrite in a network, with a new database. It skips the test where there is none to be had.
func startDendrite(t *testing.T, n *federationtest.Network) *dendrite {
	t.Helper()
	if testing.Short() {
		t.Skip("Dendrite takes a while")
	}
	if _, err := dendriteBinary(); err != nil {
		t.Skipf("Dendrite %s cannot be built here: %v", dendriteVersion, err)
	}
	d := &dendrite{dir: t.TempDir(), ca: n.CAFile, addresses: [2]string{freeAddress(t), freeAddress(t)}}
	d.url = "http://" + d.addresses[0]
	d.name = strings.Replace(d.addresses[1], "127.0.0.1", "localhost", 1)
	cert := n.Certificate(t, "localhost")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed)
	for name, block := range map[string]*pem.Block{
		"server.crt": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		"server.key": {Type: "PRIVATE KEY", Bytes: key},
		"matrix.pem": {Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": "ed25519:dendrite"}, Bytes: seed},
	} {
		if err := os.WriteFile(filepath.Join(d.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(d.dir, "dendrite.yaml"), []byte(d.config()), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	t.Cleanup(func() { d.stop(t) })
	return d
}

func (d *dendrite) config() string {
	database := func(name string) string {
		return fmt.Sprintf("{connection_string: \"file:%s/%s.db\", max_open_conns: 10}", d.dir, name)
	}
	return fmt.Sprintf(`
version: 2
global:
  server_name: %q
  private_key: matrix.pem
  key_validity_period: 168h
  cache: {max_size_estimated: 64mb, max_age: 1h}
  disable_federation: false
  jetstream: {storage_path: ./jetstream, in_memory: false, topic_prefix: Dendrite}
  presence: {enable_inbound: true, enable_outbound: true}
client_api: {registration_disabled: false, guests_disabled: true, rate_limiting: {enabled: false}}
federation_api:
  send_max_retries: 16
  key_perspectives: []
  prefer_direct_fetch: true
  deny_networks: []
  allow_networks: ["0.0.0.0/0", "::/0"]
  database: %s
key_server: {database: %s}
media_api: {base_path: ./media, database: %s}
room_server: {database: %s}
sync_api: {database: %s}
user_api: {bcrypt_cost: 4, account_database: %s, device_database: %s}
relay_api: {database: %s}
mscs: {database: %s}
logging: [{type: std, level: warn}]
`, d.name, database("federation"), database("keys"), database("media"), database("rooms"), database("sync"), database("accounts"),
		database("devices"), database("relay"), database("mscs"))
}

// start starts the program and waits until it answers.
func (d *dendrite) start(t *testing.T) {
	t.Helper()
	bin, err := dendriteBinary()
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	d.cmd = exec.Command(bin, "-config", "dendrite.yaml", "-http-bind-address", d.addresses[0], "-https-bind-address", d.addresses[1],
		"-tls-cert", "server.crt", "-tls-key", "server.key", "-really-enable-open-registration")
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = d.dir, log, log
	d.cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+d.ca)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- d.cmd.Wait() }()
	d.exited = exited
	t.Cleanup(func() {
		if t.Failed() {
			b := log.Bytes()
			t.Logf("Dendrite said:\n%s", b[max(0, len(b)-16<<10):])
		}
	})
	until(t, "Dendrite starts", func() bool {
		select {
		case err := <-exited:
			t.Fatalf("Dendrite ended: %v\n%s", err, log)
		default:
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/_matrix/client/versions", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// stop ends the program.
func (d *dendrite) stop(t *testing.T) {
	t.Helper()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(os.Interrupt)
	select {
	case <-d.exited:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.exited
		t.Log("Dendrite had to be killed")
	}
	d.cmd = nil
}

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// until waits until something is so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		if err := t.Context().Err(); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}
