package sender

import (
	"math"
	"slices"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// destination is another server as its sender sees it. Sender.mu guards it.
type destination struct {
	name string
	// mine says that this process sends to it; scanned that it knows what was owed when it began to.
	mine, scanned bool
	running       bool
	// answered says that the server has answered since this process started.
	answered bool
	// parked ends the wait of a server that does not answer, nil while it does. failures counts answers that are none.
	parked   *time.Timer
	failures int
	// perRoom is the number of missed events of a room up to which all are sent. Of more the newest stands for the rest.
	perRoom int
	// denied says that the configuration does not let this server talk to it.
	denied bool

	// cursor is what everything has been sent up to, as far as is known here; noted is what the database says.
	cursor, noted storage.EventNID
	// open says that the database has a transaction under way.
	open bool
	// ahead are the events above the cursor that have been sent.
	ahead map[storage.EventNID]struct{}

	// behind says that there are events to be read from the database: up to those of missed at least, by writer.
	behind bool
	missed map[string]int64
	// plan are the numbers of events read from there, which come before those of queue. Up to planned nothing else is
	// owed.
	plan    []storage.EventNID
	planned storage.EventNID
	// queue are events as they happened.
	queue []queued
	// resume is a transaction of an earlier sender that may not have arrived.
	resume *storage.OutboundTxn

	edus eduQueue
}

// queued is an event in a queue, by its place in the stream.
type queued struct {
	writer string
	nid    storage.EventNID
}

// maxQueue is the most events kept in the queue of a destination. Of one that has more to come the rest is read again.
const maxQueue = 500

// waiting reports whether there is something to send.
func (d *destination) waiting() bool {
	return d.resume != nil || d.behind || len(d.plan) > 0 || len(d.queue) > 0 || d.edus.len() > 0
}

// ready reports whether the destination may be sent something.
func (d *destination) ready() bool { return d.mine && d.scanned && d.parked == nil }

// add queues an event.
func (d *destination) add(writer string, nid storage.EventNID) {
	if d.parked != nil || len(d.queue) >= maxQueue {
		d.miss(writer, nid)
		return
	}
	d.queue = append(d.queue, queued{writer, nid})
}

// miss notes that an event has to be read from the database.
func (d *destination) miss(writer string, nid storage.EventNID) {
	d.behind = true
	if d.missed == nil {
		d.missed = make(map[string]int64)
	}
	d.missed[writer] = max(d.missed[writer], int64(nid))
}

// everything is perRoom of a destination that has missed nothing, or not for long.
const everything = math.MaxInt32

// fall drops the queue, so that what is owed is read from the database, of rooms with more than perRoom events the newest.
func (d *destination) fall(perRoom int) {
	d.perRoom = min(d.perRoom, perRoom)
	for _, q := range d.queue {
		d.miss(q.writer, q.nid)
	}
	d.behind, d.queue, d.plan, d.planned = true, nil, nil, 0
}

// unpark ends a wait.
func (d *destination) unpark() {
	if d.parked != nil {
		d.parked.Stop()
		d.parked = nil
	}
}

// setPlan takes in what was read from the database: what is owed up to a position. cut says that there is more.
func (d *destination) setPlan(nids []storage.EventNID, upTo replication.Position, cut bool) {
	d.plan = slices.DeleteFunc(nids, d.sent)
	if cut {
		d.planned = min(storage.EventNID(upTo.Floor()), nids[len(nids)-1])
		d.settle(d.planned)
		return
	}
	d.planned = storage.EventNID(upTo.Floor())
	d.queue = slices.DeleteFunc(d.queue, func(q queued) bool { return upTo.Covers(q.writer, int64(q.nid)) })
	d.behind = false
	for writer, nid := range d.missed {
		if upTo.Covers(writer, nid) {
			delete(d.missed, writer)
		} else {
			d.behind = true
		}
	}
	if !d.behind {
		d.perRoom = everything
	}
	d.settle(d.planned)
}

func (d *destination) sent(nid storage.EventNID) bool {
	_, ok := d.ahead[nid]
	return ok
}

// take returns the next events to send. They stay where they are until done is called.
func (d *destination) take() []storage.EventNID {
	if len(d.plan) > 0 {
		return slices.Clone(d.plan[:min(len(d.plan), federation.MaxTransactionPDUs)])
	}
	if d.behind {
		return nil
	}
	out := make([]storage.EventNID, min(len(d.queue), federation.MaxTransactionPDUs))
	for i := range out {
		out[i] = d.queue[i].nid
	}
	return out
}

// maxAhead bounds how many events above the cursor are remembered. Of those forgotten some may be sent twice.
const maxAhead = 10_000

// done notes that events have arrived, and moves the cursor as far as nothing is left out. Below floor no event is
// written any more, and those that were are in the queue or missed.
func (d *destination) done(nids []storage.EventNID, floor storage.EventNID) {
	if d.ahead == nil {
		d.ahead = make(map[storage.EventNID]struct{})
	}
	for _, n := range nids {
		if len(d.ahead) < maxAhead {
			d.ahead[n] = struct{}{}
		}
	}
	d.plan = slices.DeleteFunc(d.plan, d.sent)
	d.queue = slices.DeleteFunc(d.queue, func(q queued) bool { return d.sent(q.nid) })
	if len(d.queue) == 0 {
		d.queue = nil
	}
	d.settle(floor)
}

// settle moves the cursor.
func (d *destination) settle(floor storage.EventNID) {
	switch {
	case len(d.plan) > 0:
		d.cursor = max(d.cursor, min(d.plan[0]-1, d.planned))
	case d.behind:
		d.plan = nil
		d.cursor = max(d.cursor, d.planned)
	default:
		d.plan = nil
		for _, q := range d.queue {
			floor = min(floor, q.nid-1)
		}
		d.cursor = max(d.cursor, floor)
	}
	for n := range d.ahead {
		if n <= d.cursor {
			delete(d.ahead, n)
		}
	}
}
