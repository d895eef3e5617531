package federationtest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/federation/federationtest"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// who answers with the origin of the request and the process that took it.
func who(core *homeserver.Core) []homeserver.Group {
	return []homeserver.Group{{Name: "who", Resource: homeserver.ResourceFederation, Endpoints: []homeserver.Endpoint{{
		Method: http.MethodPut, Path: "/_matrix/federation/v1/who/{word}", Auth: homeserver.AuthServer,
		Handle: func(_ context.Context, r *homeserver.Request) (any, error) {
			var in map[string]any
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			return map[string]any{"origin": r.Origin(), "process": core.Config.InstanceName(), "word": r.Param("word"), "body": in}, nil
		},
	}}}}
}

func TestServersAndFakes(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	a := n.Start(t, federationtest.Config{Groups: who, Workers: []homeservertest.Worker{{Name: "worker1"}}})
	b := n.Start(t, federationtest.Config{Groups: who})
	f := n.Fake(t)

	for _, process := range a.Names() {
		a.Via(process)
		var got struct {
			Origin, Process, Word string
			Body                  json.RawMessage
		}
		f.Call(t, a.Name, http.MethodPut, "/_matrix/federation/v1/who/%2F%21?a=b%2Fc", map[string]any{"x": "<é>"}, &got)
		if got.Origin != f.Name || got.Process != process || got.Word != "/!" || string(got.Body) != `{"x":"<é>"}` {
			t.Errorf("got %+v with %s", got, got.Body)
		}
	}
	for _, uri := range []string{"/_matrix/federation/v1/who/x", "/_matrix/federation/v1/version"} {
		method := http.MethodPut
		if uri == "/_matrix/federation/v1/version" {
			method = http.MethodGet
		}
		if status, body := f.Do(t, b.Name, method, uri, []byte(`{}`)); status != http.StatusOK {
			t.Errorf("%s: %d %s", uri, status, body)
		}
	}

	// Each finds the other, and the fake.
	f.Answer(t, "GET /_matrix/federation/v1/version", http.StatusOK, map[string]any{"server": map[string]string{"name": "Fake"}})
	v, err := a.Node("worker1").Client.Version(t.Context(), f.Name)
	if err != nil || v.Name != "Fake" {
		t.Errorf("got %+v, %v", v, err)
	}
	if v, err = a.Node(config.MainName).Client.Version(t.Context(), b.Name); err != nil || v.Name != "Weft" {
		t.Errorf("got %+v, %v", v, err)
	}
	b.Cut()
	if _, err := a.Node(config.MainName).Client.Version(t.Context(), b.Name); err == nil {
		t.Error("a server that was cut off answers")
	}
	b.Mend(t)
}
