package presence

import (
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/wire"
)

const (
	// stoppedAfter is how long a device that does not sync is not yet told of: clients ask again at once.
	stoppedAfter = 10 * time.Second
	// repeatSyncing is how often a device that goes on syncing is told of, as commands may get lost.
	repeatSyncing = time.Minute
	// lookEvery is how often both are looked for.
	lookEvery = 5 * time.Second
	// tellRetry is the wait before states are sent again that did not reach the writer, tellBatch how many go in a call.
	tellRetry = time.Second
	tellBatch = 500
)

type deviceKey struct{ userID, deviceID string }

// deviceState is what the sync of a device says of its user.
type deviceState struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	State    string `json:"state"`
}

// syncing is a device that syncs with this process, or did a moment ago.
type syncing struct {
	requests int
	ended    time.Time // of the last request, where there is none
	told     string    // the state that the writer was told
	toldAt   time.Time // when it was last told that the device syncs
}

// tracker knows which devices sync with this process and tells the writer when that changes: that they do by commands,
// as Synapse's workers do, the states they name by calls.
type tracker struct {
	client *replication.Client
	// local is the writer, nil where another process is.
	local *writer
	// tell hands states to the writer.
	tell func(ctx context.Context, states []deviceState) error
	// allow says whether a user's sync may name another state now.
	allow func(userID string) bool
	now   func() time.Time
	log   zerolog.Logger
	wake  chan struct{}

	mu      sync.Mutex
	devices map[deviceKey]*syncing
	states  map[deviceKey]string // to be told
}

// begin notes that a request of a device begins, and returns what notes that it ends.
func (t *tracker) begin(userID, deviceID, state string) (end func()) {
	k := deviceKey{userID, deviceID}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[k]
	if d == nil {
		d = &syncing{}
		t.devices[k] = d
		t.command(k, d, true, now)
	}
	d.requests++
	if d.told != state && t.allow(userID) {
		d.told = state
		t.states[k] = state
		t.signal()
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if d.requests--; d.requests == 0 {
			d.ended = t.now()
		}
	}
}

func (t *tracker) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// command tells that a device syncs, or no longer does. t.mu is held.
func (t *tracker) command(k deviceKey, d *syncing, syncs bool, now time.Time) {
	seen := now
	if d.requests == 0 && !d.ended.IsZero() {
		seen = d.ended
	}
	d.toldAt = now
	if t.local != nil {
		kind := noticeStopped
		if syncs {
			kind = noticeSyncing
		}
		t.local.tell(notice{kind: kind, instance: t.client.Instance(), userID: k.userID, deviceID: k.deviceID, ts: seen.UnixMilli()})
		return
	}
	err := t.client.Send(wire.UserSync{
		InstanceID: t.client.Instance(), UserID: k.userID, DeviceID: k.deviceID, Syncing: syncs, LastSyncMS: seen.UnixMilli(),
	})
	if err != nil {
		t.log.Debug().Err(err).Msg("a command of presence could not be sent")
	}
}

// again tells everything anew, to a writer that has just started.
func (t *tracker) again() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for k, d := range t.devices {
		t.command(k, d, true, now)
		if d.told != "" {
			t.states[k] = d.told
		}
	}
	t.signal()
}

// run tells the writer what changes, until ctx is done; then that nobody syncs here any more.
func (t *tracker) run(ctx context.Context) error {
	t.cleared() // by a process of this name that was killed
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			t.cleared()
			return nil
		case <-tick.C:
			t.look()
			continue
		case <-t.wake:
			if retry != nil {
				continue // the writer is away; what came goes along later
			}
		case <-retry:
		}
		retry = nil
		for {
			states := t.take()
			if len(states) == 0 {
				break
			}
			if err := t.tell(ctx, states); err != nil {
				t.putBack(states)
				if ctx.Err() == nil {
					t.log.Warn().Err(err).Int("count", len(states)).Msg("presence of syncing users did not reach the writer yet")
				}
				retry = time.After(tellRetry)
				break
			}
		}
	}
}

func (t *tracker) cleared() {
	if t.local != nil {
		return // its own memory is all there is
	}
	if err := t.client.Send(wire.ClearUserSync{InstanceID: t.client.Instance()}); err != nil {
		t.log.Debug().Err(err).Msg("a command of presence could not be sent")
	}
}

// look finds the devices that have stopped, and repeats of the others that they sync.
func (t *tracker) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for k, d := range t.devices {
		switch {
		case d.requests == 0 && now.Sub(d.ended) >= stoppedAfter:
			t.command(k, d, false, now)
			delete(t.devices, k)
		case now.Sub(d.toldAt) >= repeatSyncing:
			t.command(k, d, true, now)
		}
	}
}

// take takes states out of those that are to be told.
func (t *tracker) take() []deviceState {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []deviceState
	for k, state := range t.states {
		out = append(out, deviceState{k.userID, k.deviceID, state})
		delete(t.states, k)
		if len(out) == tellBatch {
			break
		}
	}
	return out
}

// putBack returns states that were not told, unless there are newer ones.
func (t *tracker) putBack(states []deviceState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range states {
		k := deviceKey{s.UserID, s.DeviceID}
		if _, newer := t.states[k]; !newer {
			t.states[k] = s.State
		}
	}
}
