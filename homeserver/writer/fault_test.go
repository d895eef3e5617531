package writer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage/storagetest"
)

// Two processes that both believe to own a room, hammering it: no event lost, none twice, no fork, and the same
// transaction id at both is one event.
func TestTwoWritersOfOneRoom(t *testing.T) {
	t.Parallel()
	connString := storagetest.NewConnString(t)
	a := start(t, openDB(t, connString), "w1")
	b := start(t, openDB(t, connString), "w2")
	room := a.create("12").RoomID
	const senders, each = 6, 20
	for i := range senders {
		user := fmt.Sprintf("@u%d:%s", i, server)
		a.send(room, member(user, user, "join"))
	}
	var mu sync.Mutex
	byTxn := map[string]string{}
	var wg sync.WaitGroup
	for i := range senders * 2 {
		wg.Go(func() {
			in := a
			if i >= senders {
				in = b
			}
			user := fmt.Sprintf("@u%d:%s", i%senders, server)
			for n := range each {
				d := message(user, fmt.Sprint(n))
				if n%4 == 0 {
					d = member(user, user, "join")
					d.Content = content(`{"membership":"join","displayname":"%d"}`, n)
				}
				// The same at both writers.
				d.DeviceID, d.TxnID = "D", fmt.Sprint(n)
				res, err := in.Send(t.Context(), room, d)
				if err != nil {
					t.Errorf("send: %v", err)
					continue
				}
				mu.Lock()
				k := user + " " + d.TxnID
				if byTxn[k] != "" && byTxn[k] != res[0].EventID {
					t.Errorf("transaction %s is events %s and %s", k, byTxn[k], res[0].EventID)
				}
				byTxn[k] = res[0].EventID
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	events := checkLine(t, a.db, room)
	if want := 5 + senders + senders*each; len(events) != want {
		t.Errorf("room has %d events, want %d", len(events), want)
	}
	if n := len(a.pub.all()) + len(b.pub.all()); n != len(events) {
		t.Errorf("%d rows were published for %d events", n, len(events))
	}
}

// The database restarts, in good order and by a crash, while events are sent: every sender gets its answer in the end,
// and what was answered is there once.
func TestDatabaseRestart(t *testing.T) {
	t.Parallel()
	pg := storagetest.NewServer(t, map[string]string{"fsync": "on", "full_page_writes": "on"})
	in := start(t, openDB(t, pg.ConnString()), "w1")
	room := in.create("12").RoomID
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	acked := map[string]string{} // txn → event
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				d := message(alice, fmt.Sprint(n))
				d.DeviceID, d.TxnID = fmt.Sprint("D", i), fmt.Sprint(n)
				res, err := in.Send(t.Context(), room, d)
				if err != nil {
					t.Errorf("send: %v", err)
					return
				}
				mu.Lock()
				acked[d.DeviceID+" "+d.TxnID] = res[0].EventID
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	for _, down := range []func(testing.TB){pg.Stop, pg.Kill} {
		n := count()
		eventually(t, "events are acknowledged", func() bool { return count() > n+50 })
		down(t)
		pg.Start(t)
	}
	n := count()
	eventually(t, "events are acknowledged after the restarts", func() bool { return count() > n+50 })
	cancel()
	wg.Wait()
	checkAcked(t, checkLine(t, in.db, room), acked)
}

// Only the writer's connection breaks, most likely in a commit: the writer finds out what became of it.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	in := start(t, db, "w1")
	room := in.create("12").RoomID
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	acked := map[string]string{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				d := message(alice, fmt.Sprint(i, n))
				res, err := in.Send(t.Context(), room, d)
				if err != nil {
					t.Errorf("send: %v", err)
					return
				}
				mu.Lock()
				acked[fmt.Sprint(i, " ", n)] = res[0].EventID
				mu.Unlock()
			}
		})
	}
	for range 10 {
		mu.Lock()
		n := len(acked)
		mu.Unlock()
		eventually(t, "events are acknowledged", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acked) > n+20
		})
		_, err := db.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%room_heads%'`)
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	events := checkLine(t, db, room)
	checkAcked(t, events, acked)
	// These have no transaction ids: none may be there that was not acknowledged.
	if len(events) != 5+len(acked) {
		t.Errorf("%d events are there, %d were acknowledged", len(events)-5, len(acked))
	}
}

func checkAcked(t *testing.T, events []*store.Event, acked map[string]string) {
	t.Helper()
	there := map[string]bool{}
	txns := map[string]bool{}
	for _, e := range events {
		there[e.ID()] = true
		if e.TxnID != "" {
			k := e.TxnDevice + " " + e.TxnID
			if txns[k] {
				t.Errorf("transaction %s is there twice", k)
			}
			txns[k] = true
		}
	}
	for txn, id := range acked {
		if !there[id] {
			t.Errorf("event %s of transaction %s was acknowledged and is not there", id, txn)
		}
	}
	t.Logf("%d events were acknowledged, %d are there", len(acked), len(events))
}

// childEnv makes the test binary a writer that sends until it is killed, naming each acknowledged event.
const childEnv = "WEFT_WRITER_TEST_CHILD"

func TestChildWriter(t *testing.T) {
	spec := os.Getenv(childEnv)
	if spec == "" {
		t.Skip("runs only as the child of TestKilledWriter")
	}
	connString, room, _ := strings.Cut(spec, "\n")
	in := start(t, openDB(t, connString), "w1")
	out := make(chan string, 100)
	for i := range 16 {
		go func() {
			for n := 0; ; n++ {
				d := message(alice, fmt.Sprint(n))
				d.DeviceID, d.TxnID = fmt.Sprint("D", i), fmt.Sprint(n)
				res, err := in.Send(context.Background(), room, d)
				if err != nil {
					out <- "error " + err.Error()
					return
				}
				out <- fmt.Sprintf("acked %s %s %s", d.DeviceID, d.TxnID, res[0].EventID)
			}
		}()
	}
	for line := range out {
		fmt.Println(line)
	}
}

// A writer is killed in mid-load. Its successor has every event that was acknowledged, knows the transaction ids, and
// goes on with the line.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	connString := storagetest.NewConnString(t)
	db := openDB(t, connString)
	first := start(t, db, "w0")
	room := first.create("12").RoomID
	acked := map[string]string{}
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestChildWriter$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"="+connString+"\n"+room)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		guard := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		n := 0
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) == 4 && f[0] == "acked" {
				k := f[1] + " " + f[2]
				if old := acked[k]; old != "" && old != f[3] {
					t.Errorf("transaction %s is events %s and %s", k, old, f[3])
				}
				acked[k] = f[3]
				n++
			} else if len(f) > 0 && f[0] == "error" {
				t.Error(lines.Text())
			}
			if n == 400 {
				// What is still in the pipe is read on: it was acknowledged too.
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		guard.Stop()
		if err := cmd.Wait(); err == nil {
			t.Error("the child ended by itself")
		}
		if n < 400 {
			t.Fatalf("the child acknowledged %d events", n)
		}
	}
	second := start(t, openDB(t, connString), "w1")
	d := message(alice, "0")
	d.DeviceID, d.TxnID = "D0", "0"
	if r := second.send(room, d)[0]; !r.Duplicate || r.EventID != acked["D0 0"] {
		t.Errorf("the successor wrote a transaction again: %+v, first was %s", r, acked["D0 0"])
	}
	second.send(room, message(alice, "after"))
	checkAcked(t, checkLine(t, db, room), acked)
}

// One request that the database refuses does not take others with it.
func TestPoisonedRequest(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	in := start(t, db, "w1")
	good, bad := in.create("12").RoomID, in.create("12").RoomID
	if _, err := db.Exec(t.Context(), `ALTER TABLE events ADD CONSTRAINT poison CHECK (type <> 'poison')`); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		for _, room := range []string{good, bad} {
			wg.Go(func() {
				if _, err := in.Send(t.Context(), room, message(alice, fmt.Sprint(i))); err != nil {
					t.Errorf("send beside a poisoned request: %v", err)
				}
			})
		}
		wg.Go(func() {
			_, err := in.Send(t.Context(), bad, writer.Draft{Type: "poison", Sender: alice, Content: content(`{}`)})
			if err == nil || mxerr.Code(err) != "" {
				t.Errorf("poisoned request: got %v, want a plain error", err)
			}
		})
	}
	wg.Wait()
	for _, room := range []string{good, bad} {
		if n := len(checkLine(t, db, room)); n != 25 {
			t.Errorf("room has %d events, want 25", n)
		}
	}
}

// A second process of the same name takes over, and the first must not write any more.
func TestReplacedWriter(t *testing.T) {
	t.Parallel()
	connString := storagetest.NewConnString(t)
	db := openDB(t, connString)
	first := start(t, db, "w1")
	first.fails = true
	room := first.create("12").RoomID
	second := start(t, openDB(t, connString), "w1")
	second.send(room, message(alice, "hi"))
	if _, err := first.Send(t.Context(), room, message(alice, "there")); err == nil {
		t.Error("a writer that was replaced wrote an event")
	}
	if err := first.stop(); err == nil {
		t.Error("Run of a writer that was replaced returned nil")
	} else if errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	if n := len(checkLine(t, db, room)); n != 6 {
		t.Errorf("room has %d events, want 6", n)
	}
}
