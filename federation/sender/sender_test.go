package sender_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Events go to the servers that are in the room when they happen, in order, and no others.
func TestEventsReachTheServersOfTheRoom(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	s := newServer(t, net)
	room := s.rooms.Create(alice)
	s.rooms.Send(room, alice, message("before"))
	s.join(room, "@bob:b.example", "@carol:c.example", "@dan:c.example")
	for i := range 5 {
		s.rooms.Send(room, alice, message(i))
	}
	net.untilBodies(t, "b.example", 5)
	s.untilSettled("b.example")
	s.untilSettled("c.example")
	want := []string{"0", "1", "2", "3", "4"}
	if got := net.bodies("b.example"); !slices.Equal(got, want) {
		t.Errorf("b.example got %q, expected %q", got, want)
	}
	// The last of its users decides when a server is out.
	s.leave(room, "@carol:c.example")
	s.rooms.Send(room, alice, message("still"))
	net.untilBodies(t, "c.example", 6)
	s.leave(room, "@dan:c.example")
	s.rooms.Send(room, alice, message("after"))
	net.untilBodies(t, "b.example", 7)
	s.untilSettled("b.example")
	if got := net.bodies("c.example"); !slices.Equal(got, append(want, "still")) {
		t.Errorf("c.example got %q", got)
	}
}

// A thousand events that happen while two hundred servers are busy with one transaction take them little more than the
// least number of transactions, and statements that are shared.
func TestBurstToManyServers(t *testing.T) {
	t.Parallel()
	const events, count = 1000, 200
	net := newNetwork()
	s := newServer(t, net)
	room := s.rooms.Create(alice)
	names, users := servers(count)
	s.join(room, users...)
	busy := make(chan struct{})
	for _, n := range names {
		net.hang[n] = busy
	}
	before := s.DB.Counts()
	for i := range events / 50 {
		for j := range 50 {
			s.rooms.Send(room, alice, message(50*i+j))
		}
	}
	written := s.DB.Counts().Sub(before).Statements
	close(busy)
	for _, n := range names {
		net.untilBodies(t, n, events)
	}
	for _, n := range names {
		s.untilSettled(n)
	}
	total := 0
	for _, n := range names {
		got := net.bodies(n)
		for i := range events {
			if got[i] != fmt.Sprint(i) {
				t.Fatalf("%s got %q as message %d", n, got[i], i)
			}
		}
		if len(got) != events {
			t.Errorf("%s got %d messages", n, len(got))
		}
		total += len(net.transactions(n))
	}
	statements, least := s.DB.Counts().Sub(before).Statements, events/50*count
	t.Logf("%d transactions, at least %d; %d statements to write the events, %d in all", total, least, written, statements)
	if total > least+3*count {
		t.Errorf("%d transactions were sent, at least %d are needed", total, least)
	}
	if statements-written > int64(2*total) {
		t.Errorf("%d transactions took %d statements", total, statements-written)
	}
	if written > 6*events {
		t.Errorf("%d events for %d servers took %d statements to write", events, count, written)
	}
}

// What a server misses while it is out of reach it gets afterwards: all of a room with a few events, the newest of a room
// with many; and nothing twice.
func TestCatchUpAfterAnOutage(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	s := newServer(t, net)
	quiet, busy := s.rooms.Create(alice), s.rooms.Create(alice)
	s.join(quiet, "@bob:b.example")
	s.join(busy, "@bob:b.example", "@carol:c.example")
	s.rooms.Send(quiet, alice, message("first"))
	net.untilBodies(t, "b.example", 1)
	s.untilSettled("b.example")

	net.setDown(true, "b.example")
	s.rooms.Send(quiet, alice, message("lost"))
	net.until(t, "a failure", func() bool { return len(net.received["b.example"]) == 2 })
	for i := range 60 {
		s.rooms.Send(busy, alice, message(fmt.Sprint("busy", i)))
	}
	for i := range 3 {
		s.rooms.Send(quiet, alice, message(fmt.Sprint("quiet", i)))
	}
	net.untilBodies(t, "c.example", 60)
	net.setDown(false, "b.example")
	s.untilSettled("b.example")
	want := []string{"first", "lost", "busy59", "quiet0", "quiet1", "quiet2"}
	if got := net.bodies("b.example"); !slices.Equal(got, want) {
		t.Errorf("b.example got %q, expected %q", got, want)
	}
	// The transaction that failed came again as it was.
	if txns := net.transactions("b.example"); txns[1].id != txns[2].id || !slices.Equal(txns[2].bodies, []string{"lost"}) {
		t.Errorf("the transaction was %+v and then %+v", txns[1], txns[2])
	}
	s.rooms.Send(busy, alice, message("live"))
	net.untilBodies(t, "b.example", 7)
}

// Servers that do not answer cost the others no time.
func TestDeadServersDoNotSlowTheLiving(t *testing.T) {
	t.Parallel()
	const dead = 1000
	elapsed := func(hanging int) time.Duration {
		net := newNetwork()
		never := make(chan struct{})
		s := newServer(t, net)
		room := s.rooms.Create(alice)
		names, users := servers(hanging + 20)
		for _, n := range names[:hanging] {
			net.hang[n] = never
		}
		s.join(room, users...)
		start := time.Now()
		for i := range 200 {
			s.rooms.Send(room, alice, message(i))
		}
		for _, n := range names[hanging:] {
			net.untilBodies(t, n, 200)
		}
		took := time.Since(start)
		close(never)
		return took
	}
	alone := elapsed(0)
	among := elapsed(dead)
	t.Logf("200 messages to 20 servers took %v, among %d dead ones %v", alone, dead, among)
	if among > 3*alone+2*time.Second {
		t.Errorf("200 messages to 20 servers took %v, among %d dead ones %v", alone, dead, among)
	}
}
