package node_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/federation/federationtest"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// TestRemoteServerUp has one process find that a server is down, and another hear of it again.
func TestRemoteServerUp(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	s := n.Start(t, federationtest.Config{Workers: []homeservertest.Worker{{Name: "worker1"}}})
	f := n.Fake(t)
	f.Answer(t, "GET /_matrix/federation/v1/version", http.StatusOK, map[string]any{"server": map[string]string{"name": "Fake"}})
	main, worker := s.Node(config.MainName).Client, s.Node("worker1").Client

	f.Cut()
	var lost *federation.ConnectionError
	if _, err := worker.Version(t.Context(), f.Name); !errors.As(err, &lost) {
		t.Fatalf("a server that was cut off: %v", err)
	}
	var down *federation.BackoffError
	for _, c := range []*federation.Client{worker, main} {
		if _, err := c.Version(t.Context(), f.Name); !errors.As(err, &down) {
			t.Fatalf("a server that is down: %v", err)
		}
	}

	f.Mend(t)
	s.Via(config.MainName)
	f.Do(t, s.Name, "GET", "/_matrix/federation/v1/query/profile?user_id=@x:"+s.Name, nil)
	deadline := time.Now().Add(20 * time.Second)
	for _, c := range []*federation.Client{main, worker} {
		for {
			at, err := c.RetryAt(t.Context(), f.Name)
			if err != nil {
				t.Fatal(err)
			}
			if at.IsZero() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not tried before %s", at)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := c.Version(t.Context(), f.Name); err != nil {
			t.Errorf("a server that is up: %v", err)
		}
	}
}
