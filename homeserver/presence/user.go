package presence

import (
	"time"

	"github.com/weft-im/weft/homeserver/streams"
)

// syncingFor is how long the writer believes that a device syncs with a process that does not say so again. Processes
// repeat it every repeatSyncing.
const syncingFor = 3 * time.Minute

// user is a user as the writer knows them. Times are milliseconds since the epoch.
type user struct {
	row streams.PresenceRow
	// published is the row as it was published last, token its place in the stream, keptTS when that was or when the user
	// came into memory.
	published streams.PresenceRow
	token     int64
	keptTS    int64

	devices map[string]*device
	remote  bool // of another server, which says all there is to say
	dueAt   int64
}

// device is a device of a user of this server.
type device struct {
	state    string
	lastSync int64
	// syncing are the instances that the device syncs with, and until when that is believed.
	syncing map[string]int64
}

// online reports whether the device syncs, or did a moment ago.
func (d *device) online(now int64) bool {
	for instance, until := range d.syncing {
		if until > now {
			return true
		}
		d.lastSync = max(d.lastSync, until-syncingFor.Milliseconds())
		delete(d.syncing, instance)
	}
	return now-d.lastSync < offlineAfter.Milliseconds()
}

func (u *user) device(id string) *device {
	d := u.devices[id]
	if d == nil {
		d = &device{state: Offline}
		if u.devices == nil {
			u.devices = map[string]*device{}
		}
		u.devices[id] = d
	}
	return d
}

// settle works out how the user is now, and when that will have changed by itself (0 for never).
func (u *user) settle(now int64) (next int64) {
	at := func(t int64) {
		if next == 0 || t < next {
			next = t
		}
	}
	r := &u.row
	if u.remote {
		if r.State == Offline {
			return 0
		}
		if end := r.LastFederationUpdateTS + remoteFor.Milliseconds(); end > now {
			return end
		}
		r.State, r.CurrentlyActive = Offline, false
		return 0
	}
	best := rank(Offline)
	for id, d := range u.devices {
		if !d.online(now) {
			r.LastUserSyncTS = max(r.LastUserSyncTS, d.lastSync)
			delete(u.devices, id)
			continue
		}
		best = max(best, rank(d.state))
		if len(d.syncing) == 0 {
			at(d.lastSync + offlineAfter.Milliseconds())
		}
		for _, until := range d.syncing {
			at(until)
		}
	}
	r.State, r.CurrentlyActive = stateOf(best), false
	if r.State == Online {
		if idle := r.LastActiveTS + idleAfter.Milliseconds(); idle > now {
			at(idle)
		} else {
			r.State = Unavailable
		}
	}
	if end := r.LastActiveTS + activeFor.Milliseconds(); r.State == Online && end > now {
		r.CurrentlyActive = true
		at(end)
	}
	if r.State != Offline {
		at(max(r.LastFederationUpdateTS+repeatAfter.Milliseconds(), now+gather.Milliseconds()))
	}
	return next
}

// news reports whether there is something to tell: to clients, or, after a while, to other servers again.
func (u *user) news(now int64) bool {
	if !sameToSee(&u.row, &u.published) {
		return true
	}
	return !u.remote && u.row.State != Offline && u.row.LastFederationUpdateTS+repeatAfter.Milliseconds() <= now
}

// act notes that the user did something. Who was idle on some device is there again.
func (u *user) act(now int64) {
	u.row.LastActiveTS = max(u.row.LastActiveTS, now)
	for _, d := range u.devices {
		if d.state == Unavailable {
			d.state = Online
		}
	}
}

// set takes in what a client says of its device. explicit tells the presence endpoint from a sync, which is something
// done only where it changes how the device is.
func (u *user) set(deviceID, state string, now int64, explicit bool) {
	d := u.device(deviceID)
	was := d.state
	if !d.online(now) {
		was = Offline
	}
	d.state, d.lastSync = state, max(d.lastSync, now)
	if state == Online && (explicit || was != Online) {
		u.row.LastActiveTS = max(u.row.LastActiveTS, now)
	}
}
