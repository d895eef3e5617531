package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// waitReady asks each process whether it is ready until all are, or readyTimeout is over.
func (s *Supervisor) waitReady(ctx context.Context, plan *plan, failed <-chan error) error {
	done := make(chan error, 1)
	pollCtx, stop := context.WithTimeout(ctx, s.cfg.ReadyTimeout)
	defer stop()
	errs := make([]error, len(plan.commands))
	var wg sync.WaitGroup
	for i, c := range plan.commands {
		wg.Go(func() {
			if last := pollReady(pollCtx, c.address); last != "" {
				errs[i] = fmt.Errorf("%s is not ready after %s: %s", c.process.Name, s.cfg.ReadyTimeout, last)
			}
		})
	}
	go func() { wg.Wait(); done <- errors.Join(errs...) }()
	select {
	case err := <-done:
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	case err := <-failed:
		return err
	}
}

// pollReady returns "" when the process at address answers /ready with 200, and the last answer when ctx is done first.
// It asks again after a while because another process's start gives no other sign.
func pollReady(ctx context.Context, address string) (last string) {
	client, url := HTTPClient(address)
	defer client.CloseIdleConnections()
	last = "it has not been asked"
	for wait := 10 * time.Millisecond; ctx.Err() == nil; wait = min(wait*3/2, 200*time.Millisecond) {
		if reason, err := askReady(ctx, client, url+"/ready"); ctx.Err() == nil {
			if err == nil && reason == "" {
				return ""
			}
			if last = reason; err != nil {
				last = err.Error()
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return last
}

// askReady returns why a process is not ready, "" when it is.
func askReady(ctx context.Context, client *http.Client, url string) (reason string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK {
		return "", nil
	}
	var status struct {
		Components []struct {
			Name   string `json:"name"`
			Ready  bool   `json:"ready"`
			Reason string `json:"reason"`
		} `json:"components"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err == nil {
		for _, c := range status.Components {
			if !c.Ready {
				return strings.TrimSuffix(c.Name+": "+c.Reason, ": "), nil
			}
		}
	}
	return resp.Status, nil
}

// HTTPClient returns a client for a process's address ("unix:PATH" or a URL) and the URL to use with it.
func HTTPClient(address string) (*http.Client, string) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}, address
	}
	var d net.Dialer
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
	}}, "http://unix"
}
