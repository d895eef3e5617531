package storage_test

import (
	"errors"
	"testing"
	"time"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// A process that died with a claim loses it after a while, and if it is alive after all it changes nothing any more: what
// is queued is sent by whoever has the claim.
func TestPushClaims(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	users, err := storage.InternUsers(ctx, db, []string{"@anna:test"})
	must(err)
	must(storage.PutPusher(ctx, db, storage.Pusher{UserNID: users[0].NID, AppID: "app", Pushkey: "key", StreamID: 1, Kind: "http", Data: []byte(`{"url":"x"}`)}))
	claim := func(hold time.Duration, want int) []storage.PushClaim {
		t.Helper()
		c, err := storage.ClaimPushers(ctx, db, 10, hold)
		must(err)
		if len(c) != want {
			t.Fatalf("claimed %d pushers, want %d", len(c), want)
		}
		return c
	}
	claim(time.Minute, 0)
	if _, err := storage.NextPush(ctx, db); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("with nothing queued the next push is due: %v", err)
	}
	for range 2 {
		_, err := storage.QueueBadges(ctx, db, []string{"@anna:test", "@unknown:test"})
		must(err)
	}
	dead := claim(0, 1)[0] // It is gone at once.
	alive := claim(time.Minute, 1)[0]
	claim(time.Minute, 0)
	if alive.Claim <= dead.Claim {
		t.Errorf("claims are %d and then %d, want them to grow", dead.Claim, alive.Claim)
	}
	queued := func() int {
		t.Helper()
		_, _, q, err := storage.QueuedPushes(ctx, db, alive.PusherNID, 10)
		must(err)
		return len(q)
	}
	if held, err := storage.PushSentOff(ctx, db, dead, 0, time.Minute); err != nil || held || queued() != 1 {
		t.Errorf("a lost claim holds is %t, %v; %d are queued, want 1", held, err, queued())
	}
	_, err = storage.PushFailed(ctx, db, dead, 0, time.Hour)
	must(err)
	must(storage.ReleasePusher(ctx, db, dead, true))
	claim(time.Minute, 0)
	if queued() != 1 {
		t.Error("a lost claim has emptied the queue")
	}
	// One that fails is due later, and gives up in the end.
	gaveUp, err := storage.PushFailed(ctx, db, alive, time.Hour, time.Hour)
	must(err)
	if next, err := storage.NextPush(ctx, db); err != nil || gaveUp || next < 59*time.Minute {
		t.Errorf("after a failure the next push is due in %s, given up %t, %v", next, gaveUp, err)
	}
	_, err = db.Exec(ctx, `UPDATE push_jobs SET next_try = now(), failing_since = now() - interval '2 hours'`)
	must(err)
	again := claim(time.Minute, 1)[0]
	if again.Failures != 1 {
		t.Errorf("there were %d failures, want 1", again.Failures)
	}
	if gaveUp, err := storage.PushFailed(ctx, db, again, 0, time.Hour); err != nil || !gaveUp || queued() != 0 {
		t.Errorf("after two hours given up is %t, %v; %d are queued", gaveUp, err, queued())
	}
	// The job goes when nothing is queued.
	again = claim(time.Minute, 1)[0]
	must(storage.ReleasePusher(ctx, db, again, false))
	if _, err := storage.NextPush(ctx, db); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a job is left: %v", err)
	}
}
