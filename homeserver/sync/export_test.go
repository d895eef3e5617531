package sync

import (
	"testing"
	"time"
)

// AwaitWaiting returns once n requests of a user wait.
func (s *Service) AwaitWaiting(t testing.TB, userID string, n int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		s.hub.mu.RLock()
		got := 0
		if v := s.hub.views[userID]; v != nil {
			got = v.waiters
		}
		s.hub.mu.RUnlock()
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests of %s wait, want %d", got, userID, n)
		}
		time.Sleep(time.Millisecond)
	}
}
