package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-im/weft/homeserver/config"
)

const deployDir = "../deploy"

var update = flag.Bool("update", false, "write the files of examples/deploy that are generated")

// The reverse proxies' configuration is what weftctl writes today.
func TestDeployedProxiesAreCurrent(t *testing.T) {
	t.Parallel()
	etc := deployed(t)
	args := []string{"-c", filepath.Join(etc, "homeserver.yaml"), "--server-name", "matrix.example.com"}
	for _, name := range []string{"master", "worker1", "worker2"} {
		args = append(args, "--upstream", name+"=unix:/run/weft/"+name+".sock")
	}
	for format, file := range map[string]string{"nginx": "nginx/weft.conf", "haproxy": "haproxy/weft.cfg"} {
		var want, stderr bytes.Buffer
		if status := run(t.Context(), append([]string{"routes", "--format", format}, args...), &want, &stderr); status != 0 {
			t.Fatalf("%s: status %d, %s", format, status, stderr.Bytes())
		}
		path := filepath.Join(deployDir, file)
		if *update {
			if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s is behind the routes: run go test ./examples/weftctl -run TestDeploy -update", file)
		}
	}
}

// Each unit starts a process with files that it can read, and that are warned of nothing.
func TestDeployedUnitsFindTheirConfiguration(t *testing.T) {
	t.Parallel()
	etc := deployed(t)
	workers, err := filepath.Glob(filepath.Join(etc, "workers", "*.yaml"))
	if err != nil || len(workers) != 4 {
		t.Fatalf("%d worker files, %v", len(workers), err)
	}
	units := map[string]string{ // by the program
		"homeserver": "weft-homeserver.service", "generic_worker": "weft-generic-worker@.service", "event_persister": "weft-event-persister@.service",
	}
	for _, own := range append(workers, "") {
		paths := []string{filepath.Join(etc, "homeserver.yaml")}
		if own != "" {
			paths = append(paths, own)
		}
		cfg, err := config.Load(paths...)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range cfg.Warnings() {
			if w.Message != "not yet served" {
				t.Errorf("%s:%d: %s: %s", w.File, w.Line, w.Option, w.Message)
			}
		}
		unit, err := os.ReadFile(filepath.Join(deployDir, "systemd", units[cfg.AppName()]))
		if err != nil {
			t.Fatalf("%s runs %s: %v", cfg.InstanceName(), cfg.AppName(), err)
		}
		command := "ExecStart=/usr/local/bin/" + cfg.AppName() + " -c /etc/weft/homeserver.yaml"
		if own != "" {
			command += " -c /etc/weft/workers/%i.yaml"
		}
		if !strings.Contains(string(unit), command+"\n") {
			t.Errorf("the unit of %s has no %s", cfg.InstanceName(), command)
		}
		if want := strings.TrimSuffix(filepath.Base(own), ".yaml"); own != "" && cfg.InstanceName() != want {
			t.Errorf("%s is the file of %s", own, cfg.InstanceName())
		}
	}
}

// deployed copies examples/deploy/etc to where it can be read as if it were /etc/weft, with the secrets it names.
func deployed(t *testing.T) string {
	t.Helper()
	etc := t.TempDir()
	if err := os.CopyFS(etc, os.DirFS(filepath.Join(deployDir, "etc"))); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"registration_shared_secret", "macaroon_secret_key"} {
		if err := os.WriteFile(filepath.Join(etc, secret), []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shared := filepath.Join(etc, "homeserver.yaml")
	src, err := os.ReadFile(shared)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shared, bytes.ReplaceAll(src, []byte("/etc/weft"), []byte(etc)), 0o600); err != nil {
		t.Fatal(err)
	}
	return etc
}
