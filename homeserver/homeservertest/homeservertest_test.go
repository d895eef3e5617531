package homeservertest_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/homeservertest"
	"github.com/weft-im/weft/homeserver/task"
)

func group(name string) homeserver.Group {
	return homeserver.Group{Name: "who", Endpoints: []homeserver.Endpoint{{
		Method: http.MethodPost, Path: "/_matrix/client/{v}/who", Versions: []string{"v3"},
		Handle: func(_ context.Context, r *homeserver.Request) (any, error) {
			var in struct {
				A int `json:"a"`
			}
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			return map[string]any{"name": name, "a": in.A}, nil
		},
	}}}
}

func TestStart(t *testing.T) {
	t.Parallel()
	p := homeservertest.Start(t, homeserver.Config{Groups: []homeserver.Group{group("me")}})
	var out struct {
		Name string `json:"name"`
		A    int    `json:"a"`
	}
	p.Call(t, "POST", "/_matrix/client/v3/who", "", map[string]int{"a": 5}, &out)
	if out.Name != "me" || out.A != 5 {
		t.Errorf("got %+v", out)
	}
	if status, body := p.Do(t, "POST", "/_matrix/client/v3/who", "", []byte("[")); status != 400 {
		t.Errorf("%d %s", status, body)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	var ran atomic.Int32
	c := homeservertest.NewCluster(t, homeservertest.ClusterConfig{
		Workers: []homeservertest.Worker{{Name: "worker1", Streams: []string{"typing"}}, {Name: "persister1", App: "event_persister", Streams: []string{"events"}}},
		Parts: func(core *homeserver.Core) homeserver.Config {
			return core.Process([]homeserver.Group{group(core.Config.InstanceName())},
				task.Durable{Name: "job", Work: func(context.Context, *task.Job) error { ran.Add(1); return nil }})
		},
	})
	for _, name := range c.Names() {
		var out struct {
			Name string `json:"name"`
		}
		c.Process(name).Call(t, "POST", "/_matrix/client/v3/who", "", map[string]int{}, &out)
		if out.Name != name {
			t.Errorf("%s answers as %s", name, out.Name)
		}
		if s := c.Process(name).Status(t.Context()); !s.Ready {
			b, _ := json.Marshal(s)
			t.Errorf("%s: %s", name, b)
		}
	}
	// Queued by a worker, done by main.
	id, err := c.Process("worker1").Tasks().Enqueue(t.Context(), "job", nil, task.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := c.Main().Tasks().Status(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if s.State == task.Completed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("job %+v", s)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if ran.Load() != 1 {
		t.Errorf("ran %d times", ran.Load())
	}
	p := c.Restart(t, "worker1")
	p.Call(t, "POST", "/_matrix/client/v3/who", "", map[string]int{}, nil)
}

func TestFailedProcessFailsTheTest(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	fail := make(chan struct{})
	p := homeservertest.Start(t, homeserver.Config{Components: []homeserver.Component{homeserver.ComponentFunc("c", func(ctx context.Context) error {
		select {
		case <-fail:
			return boom
		case <-ctx.Done():
			return nil
		}
	})}})
	if err := p.Stop(); err != nil {
		t.Errorf("a clean stop: %v", err)
	}
	close(fail)
}
