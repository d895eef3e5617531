package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// table is a Store in memory. Its clock is the test's.
type table struct {
	mu     sync.Mutex
	rows   map[string]row
	broken bool
}

type row struct {
	holder  string
	token   int64
	expires time.Time
}

var errBroken = errors.New("database is down")

func (t *table) AcquireLease(_ context.Context, name, holder string, ttl time.Duration) (int64, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken {
		return 0, false, errBroken
	}
	r := t.rows[name]
	if r.holder != "" && r.holder != holder && time.Now().Before(r.expires) {
		return 0, false, nil
	}
	t.rows[name] = row{holder, r.token + 1, time.Now().Add(ttl)}
	return r.token + 1, true, nil
}

func (t *table) RenewLease(_ context.Context, name, holder string, token int64, ttl time.Duration) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken {
		return false, errBroken
	}
	r := t.rows[name]
	if r.holder != holder || r.token != token {
		return false, nil
	}
	r.expires = time.Now().Add(ttl)
	t.rows[name] = r
	return true, nil
}

func (t *table) ReleaseLease(_ context.Context, name, holder string, token int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rows[name]; r.holder == holder && r.token == token {
		t.rows[name] = row{"", r.token, time.Time{}}
	}
	return nil
}

func (t *table) set(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

func manager(t *testing.T, store Store, holder string) *Manager {
	t.Helper()
	m, err := New(Config{Store: store, Holder: holder})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOneHolderAndTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &table{rows: map[string]row{}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		running := map[string]int64{}
		hold := func(ctx context.Context, who string) chan error {
			done := make(chan error, 1)
			m := manager(t, store, who)
			go func() {
				done <- m.Hold(ctx, "job", func(ctx context.Context, token int64) error {
					mu.Lock()
					if len(running) > 0 {
						t.Errorf("%s runs beside %v", who, running)
					}
					running[who] = token
					mu.Unlock()
					<-ctx.Done()
					mu.Lock()
					delete(running, who)
					mu.Unlock()
					return ctx.Err()
				})
			}()
			return done
		}
		aCtx, stopA := context.WithCancel(ctx)
		a := hold(aCtx, "a")
		synctest.Wait()
		b := hold(ctx, "b")
		time.Sleep(10 * DefaultTTL)
		mu.Lock()
		if running["a"] != 1 || len(running) != 1 {
			t.Errorf("after 10 TTLs: %v, want a alone with its first token", running)
		}
		mu.Unlock()
		stopA()
		if err := <-a; err != nil {
			t.Errorf("Hold of a = %v", err)
		}
		time.Sleep(DefaultTTL / 2)
		mu.Lock()
		if running["b"] != 2 {
			t.Errorf("after a released: %v, want b with token 2", running)
		}
		mu.Unlock()
		cancel()
		if err := <-b; err != nil {
			t.Errorf("Hold of b = %v", err)
		}
	})
}

func TestLostLeaseEndsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &table{rows: map[string]row{}}
		m := manager(t, store, "a")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		causes := make(chan error, 10)
		tokens := make(chan int64, 10)
		done := make(chan error, 1)
		go func() {
			done <- m.Hold(ctx, "job", func(ctx context.Context, token int64) error {
				tokens <- token
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return nil
			})
		}()
		<-tokens
		// Somebody else takes it: the work ends, and starts again with a higher token once it is free.
		store.set(func() { store.rows["job"] = row{"thief", 7, time.Now().Add(time.Minute)} })
		if err := <-causes; !errors.Is(err, ErrLost) {
			t.Errorf("cause %v, want ErrLost", err)
		}
		if got := <-tokens; got != 8 {
			t.Errorf("token %d, want 8", got)
		}
		// The database goes away: the holder gives up before its lease runs out there.
		began := time.Now()
		store.set(func() { store.broken = true })
		if err := <-causes; !errors.Is(err, ErrLost) {
			t.Errorf("cause %v, want ErrLost", err)
		}
		var expires time.Time
		store.set(func() { expires = store.rows["job"].expires })
		if time.Now().After(expires) {
			t.Errorf("the work ended %s after the lease", time.Since(expires))
		}
		if time.Since(began) < DefaultTTL/2 {
			t.Errorf("gave up after %s of a lease of %s", time.Since(began), DefaultTTL)
		}
		store.set(func() { store.broken = false })
		<-tokens
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Hold = %v", err)
		}
	})
}

func TestHoldReturnsWhatTheWorkReturns(t *testing.T) {
	t.Parallel()
	store := &table{rows: map[string]row{}}
	m := manager(t, store, "a")
	boom := errors.New("boom")
	err := m.Hold(t.Context(), "job", func(context.Context, int64) error {
		if len(m.Held()) != 1 {
			t.Errorf("Held = %v", m.Held())
		}
		return boom
	})
	if !errors.Is(err, boom) || len(m.Held()) != 0 || store.rows["job"].holder != "" {
		t.Errorf("Hold = %v, Held = %v, row %+v", err, m.Held(), store.rows["job"])
	}
	held, err := m.TryHold(t.Context(), "job", func(_ context.Context, token int64) error {
		if token != 2 {
			t.Errorf("token %d", token)
		}
		other := manager(t, store, "b")
		if held, err := other.TryHold(t.Context(), "job", nil); held || err != nil {
			t.Errorf("b holds it too: %t %v", held, err)
		}
		return nil
	})
	if !held || err != nil {
		t.Errorf("TryHold = %t %v", held, err)
	}
}

func TestStandbyHearsOfARelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &table{rows: map[string]row{"job": {"other", 1, time.Now().Add(time.Hour)}}}
		m := manager(t, store, "a")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got := make(chan time.Time, 1)
		done := make(chan error, 1)
		go func() {
			done <- m.Hold(ctx, "job", func(context.Context, int64) error { got <- time.Now(); return nil })
		}()
		synctest.Wait()
		released := time.Now()
		store.set(func() { delete(store.rows, "job") })
		m.Released("job")
		if at := <-got; at.Sub(released) > time.Second {
			t.Errorf("took over %s after the hint", at.Sub(released))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{TTL: -1}); err == nil {
		t.Error("no error")
	}
}
