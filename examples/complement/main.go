// Command complement is the entry point of a Complement container: one homeserver, named by SERVER_NAME, on
// ports 8008 (HTTP) and 8448 (HTTPS). With WEFT_WORKERS=1 it is the default cluster of workers behind the
// router, otherwise a single process. All data is in /data, so that a committed container goes on from it.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/examples/internal/unlimited"
	"github.com/weft-im/weft/homeserver/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "complement:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	const dir, ca = "/data", "/complement/ca"
	serverName := os.Getenv("SERVER_NAME")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	cert, key, err := issueCertificate(dir, ca, serverName)
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	topology := cluster.Default()
	if os.Getenv("WEFT_WORKERS") == "" {
		topology.Processes = []cluster.Process{{Name: "master", App: cluster.AppHomeserver}}
	} else {
		topology.Processes = append(topology.Processes,
			cluster.Process{Name: "sender1", App: cluster.AppFederationSender}, cluster.Process{Name: "sender2", App: cluster.AppFederationSender})
	}
	topology.ServerName = serverName
	topology.Options = options(ca)
	s, err := cluster.New(cluster.Config{
		Dir: dir, Topology: topology, BinDir: filepath.Dir(executable),
		Listen: []string{"0.0.0.0:8008"}, ListenTLS: []string{"0.0.0.0:8448"},
		TLSCertificatePath: cert, TLSPrivateKeyPath: key,
		LogToStderr: true,
	}, zerolog.New(os.Stderr).With().Timestamp().Logger())
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// options open what a test suite needs open: registration, no rate limits, private addresses.
func options(ca string) map[string]any {
	options := unlimited.Options()
	maps.Copy(options, map[string]any{
		// The tests of power levels name the creator among the users, as room versions before 12 do.
		"default_room_version":               "10",
		"registration_shared_secret":         "complement",
		"allow_guest_access":                 true,
		"max_event_delay_duration":           "24h",
		"server_notices":                     map[string]any{"system_mxid_localpart": "_server", "system_mxid_display_name": "Server Alert", "room_name": "Server Alert"},
		"federation_custom_ca_list":          []string{filepath.Join(ca, "ca.crt")},
		"federation_ip_range_blacklist":      []string{},
		"ip_range_blacklist":                 []string{},
		"url_preview_enabled":                true,
		"url_preview_ip_range_blacklist":     []string{},
		"allow_public_rooms_over_federation": true,
		"allow_public_rooms_without_auth":    true,
	})
	if files, _ := filepath.Glob("/complement/appservice/*.yaml"); len(files) > 0 {
		options["app_service_config_files"] = files
	}
	return options
}
