package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
)

// pending is an event on its way to the database, with what the committer needs to write beside it.
type pending struct {
	rec        *record
	receivedTS int64
	device     string
	txn        string
	// auth are the events in its auth_events, of a state event.
	auth []*record
	// before is the state before the event where that is not the room's current state, with the nodes of it that may
	// not be in the database.
	before      *store.Root
	beforeNodes []*statetree.Node
	// changes are what the event does to the current state: itself, and more where a fork is resolved.
	changes []change
	// follows are the extremities that it takes the place of; nil for all. It is an extremity itself unless aside.
	follows []*record
	aside   bool
	// named are all the events in its auth_events, of an event of another server.
	named []*record
	// anew is set for an event that the room begins with, as far as this server knows it from now on; partial, if most
	// members are missing then.
	anew    bool
	partial *Partial
	// gaps are the prev_events that are missing.
	gaps []string
	// upgrade is set for an event that is in the database as an outlier.
	upgrade bool
	// redacts is what an m.room.redaction redacts; allowed whether that is to be applied.
	redacts string
	allowed bool
	// unlocks are redactions that were waiting for this event and are to be applied.
	unlocks []storage.EventNID
	// redacted says that a redaction which is just being written is applied to it.
	redacted bool
	// target is the number of the user in the state key of an m.room.member event.
	target storage.UserNID
	// stripped is the stripped state that goes with an invite or knock of a local user.
	stripped []byte
	// outOfBand is set for an event that has no place in the room; prevMembership is then that of the user before.
	outOfBand      bool
	prevMembership string
	// reset says that changes holds more than the event itself.
	reset bool
	// notified is whom the event notifies, thread the root of the thread it is in, "" for none. sent is set where it shows
	// that its sender, a user of this server, has read the thread up to it.
	notified Notified
	thread   string
	sent     bool
	// outbound says that the other servers of the room are to be told of the event.
	outbound bool
}

// change is a change of one piece of the current state; nil is absent.
type change struct {
	tuple    event.Tuple
	key      storage.StateKeyNID
	old, new *record
	// user is the number of the user whose m.room.member event it is.
	user storage.UserNID
}

// work is what a request has built so far, on top of the lane's tip. It becomes the tip when the request is built whole.
type work struct {
	state       map[event.Tuple]*record
	extremities []*record
	depth       int64
	txns        map[txnKey]*record
}

func (l *lane) begin() *work { return &work{extremities: l.extremities, depth: l.depth} }

func (w *work) set(t event.Tuple, r *record) {
	if w.state == nil {
		w.state = make(map[event.Tuple]*record)
	}
	w.state[t] = r
}

func (l *lane) adopt(w *work) {
	maps.Copy(l.state, w.state)
	l.extremities, l.depth = w.extremities, w.depth
	for k, r := range w.txns {
		l.remember(k, r)
	}
}

var errNoRoom = mxerr.NotFound.WithMessage("Unknown room")

// ready to build: the room is there, or this request makes it.
func (l *lane) enter(req *request) error {
	switch {
	case l.room != nil && req.creation != nil:
		return refuse(mxerr.RoomInUse.WithMessage("The room exists already"))
	case l.room == nil && req.creation != nil:
		c := req.creation
		l.newRoom = c
		l.room = &store.Room{NID: c.nid, ID: l.roomID, Version: c.version}
	case l.room == nil || l.headless:
		// Look again next time.
		l.built = -1
		return refuse(errNoRoom)
	}
	return nil
}

// complete makes events of the drafts of a request.
func (l *lane) complete(ctx context.Context, it *item) error {
	if err := l.enter(it.req); err != nil {
		return err
	}
	w := l.begin()
	for i := range it.req.drafts {
		d := &it.req.drafts[i]
		k := txnKey{d.Sender, d.DeviceID, d.TxnID}
		if d.TxnID != "" {
			rec := l.recent[k]
			if rec == nil {
				rec = w.txns[k]
			}
			if rec == nil && it.req.found != nil {
				rec = it.req.found[i]
			}
			if rec != nil {
				it.outcome = append(it.outcome, outcome{rec: rec, duplicate: true})
				continue
			}
		}
		var p *pending
		var err error
		if i == 0 && it.req.creation != nil {
			p, err = l.placeCreate(ctx, w, d, it.req.creation.create)
		} else {
			var same *record
			if p, same, err = l.completeDraft(ctx, w, d); same != nil {
				it.outcome = append(it.outcome, outcome{rec: same, duplicate: true})
				continue
			}
		}
		if err != nil {
			return err
		}
		p.device, p.txn = d.DeviceID, d.TxnID
		if d.TxnID != "" {
			if w.txns == nil {
				w.txns = make(map[txnKey]*record)
			}
			w.txns[k] = p.rec
		} else {
			p.device = ""
		}
		it.events = append(it.events, p)
		it.outcome = append(it.outcome, outcome{rec: p.rec})
	}
	if err := l.notify(ctx, w, it.events); err != nil {
		return err
	}
	l.adopt(w)
	return nil
}

// completeDraft makes an event of a draft on top of w. It returns the current event instead where the draft changes
// nothing and says that this will do.
func (l *lane) completeDraft(ctx context.Context, w *work, d *Draft) (*pending, *record, error) {
	v := l.room.Version
	if err := checkDraft(d, l.w.cfg.Signer.ServerName); err != nil {
		return nil, nil, refuse(err)
	}
	draft := *d
	d = &draft
	if d.Type == event.TypeMember {
		var err error
		if d.Content, err = v.Canonical(d.Content); err != nil {
			return nil, nil, refuse(mxerr.BadJSON.WithMessage("The content is not allowed in an event").Wrap(err))
		}
	}
	if len(w.extremities) > event.MaxPrevEvents {
		p, err := l.gather(ctx, w, d)
		return p, nil, err
	}
	st, err := l.authState(ctx, w, event.AuthTuples(v, d.Sender, d.Type, d.StateKey, d.Content), d.Type, d.StateKey)
	if err != nil {
		return nil, nil, err
	}
	old := st.own
	if d.SkipUnchanged && old != nil && old.event.Sender() == d.Sender {
		if canonical, err := v.Canonical(d.Content); err == nil && bytes.Equal(canonical, old.event.Content()) {
			return nil, old, nil
		}
	}
	p, err := l.build(ctx, d, st, w.extremities, w.depth+1)
	if err != nil {
		return nil, nil, err
	}
	e := p.rec.event
	if e.Type() == event.TypeRedaction {
		if err := l.checkRedaction(ctx, w, p, true); err != nil {
			return nil, nil, err
		}
	}
	if e.IsState() {
		p.changes = []change{{tuple: e.Tuple(), key: p.rec.keyNID, old: old, new: p.rec, user: p.target}}
		if p.stripped, err = l.strippedFor(ctx, w, e); err != nil {
			return nil, nil, err
		}
		w.set(e.Tuple(), p.rec)
	}
	w.extremities, w.depth = []*record{p.rec}, e.Depth()
	return p, nil, nil
}

// build makes an event of a draft and authorises it.
func (l *lane) build(ctx context.Context, d *Draft, st *authState, prev []*record, depth int64) (*pending, error) {
	v := l.room.Version
	ed := event.Draft{
		RoomID: l.roomID, Sender: d.Sender, Type: d.Type, StateKey: d.StateKey, Content: d.Content, Redacts: d.Redacts,
		PrevEvents: recordIDs(prev), AuthEvents: recordIDs(st.auth), Depth: depth, OriginServerTS: d.OriginServerTS,
	}
	now := l.w.cfg.Now().UnixMilli()
	if ed.OriginServerTS == 0 {
		ed.OriginServerTS = now
	}
	if v.EventFormat == event.FormatRefs {
		ed.RefHashes = refHashes(prev, st.auth)
	}
	e, err := event.Build(v, ed, l.w.cfg.Signer)
	if err != nil {
		return nil, refuse(buildError(err))
	}
	if err := event.Authorise(e, st); err != nil {
		return nil, refuse(buildError(err))
	}
	p := &pending{rec: &record{event: e, authDepth: authDepth(st.auth)}, receivedTS: now, outbound: true}
	if e.IsState() {
		p.auth = st.auth
	}
	return p, l.number(ctx, p)
}

// placeCreate makes the first event of a room, which is built already.
func (l *lane) placeCreate(ctx context.Context, w *work, d *Draft, e *event.Event) (*pending, error) {
	if err := checkDraft(d, l.w.cfg.Signer.ServerName); err != nil {
		return nil, refuse(err)
	}
	p := &pending{rec: &record{event: e}, receivedTS: l.w.cfg.Now().UnixMilli(), outbound: true}
	if err := l.number(ctx, p); err != nil {
		return nil, err
	}
	p.changes = []change{{tuple: e.Tuple(), key: p.rec.keyNID, new: p.rec}}
	w.set(e.Tuple(), p.rec)
	w.extremities, w.depth = []*record{p.rec}, e.Depth()
	return p, nil
}

// checkDraft refuses what is the caller's mistake and would fail later, or not at all.
func checkDraft(d *Draft, server string) error {
	switch {
	case d.Type == "":
		return mxerr.InvalidParam.WithMessage("The event has no type")
	case event.ServerName(d.Sender) != server:
		return mxerr.Forbidden.WithMessage("The sender is not a user of this server")
	case strings.ContainsRune(d.Type, 0) || d.StateKey != nil && strings.ContainsRune(*d.StateKey, 0) ||
		strings.ContainsRune(d.Redacts, 0) || strings.ContainsRune(d.TxnID, 0) || strings.ContainsRune(d.DeviceID, 0):
		// PostgreSQL has no such text.
		return mxerr.InvalidParam.WithMessage("The event has a null character in a key")
	}
	return nil
}

// authState is the state an event is authorised against, in the few pieces that matter.
type authState struct {
	tuples []event.Tuple
	recs   []*record
	auth   []*record // those that become auth_events
	own    *record   // the piece that the event replaces
}

// Event implements event.AuthState.
func (s *authState) Event(t event.Tuple) *event.Event {
	for i := range s.tuples {
		if s.tuples[i] == t && s.recs[i] != nil {
			return s.recs[i].event
		}
	}
	return nil
}

// authState looks up the pieces of state that an event is authorised by, m.room.create, and the one it replaces.
func (l *lane) authState(ctx context.Context, w *work, tuples []event.Tuple, typ string, stateKey *string) (*authState, error) {
	n := len(tuples)
	tuples = append(tuples[:n:n], event.Tuple{Type: event.TypeCreate})
	if stateKey != nil {
		tuples = append(tuples, event.Tuple{Type: typ, StateKey: *stateKey})
	}
	recs, err := l.pieces(ctx, w, tuples)
	if err != nil {
		return nil, err
	}
	st := &authState{tuples: tuples, recs: recs}
	for _, r := range recs[:n] {
		if r != nil {
			st.auth = append(st.auth, r)
		}
	}
	if stateKey != nil {
		st.own = recs[len(recs)-1]
	}
	return st, nil
}

// number finds the numbers of an event's sender, state key, and target.
func (l *lane) number(ctx context.Context, p *pending) error {
	e := p.rec.event
	users := make([]string, 1, 2)
	users[0] = e.Sender()
	sk, isState := e.StateKey()
	isMember := isState && e.Type() == event.TypeMember
	if isMember {
		users = append(users, sk)
	}
	nids, err := l.w.cfg.Store.InternUsers(ctx, users)
	if err != nil {
		return err
	}
	p.rec.senderNID = nids[0]
	if isMember {
		p.target = nids[1]
	}
	if isState {
		keys, err := l.w.cfg.Store.InternStateKeys(ctx, []event.Tuple{e.Tuple()})
		if err != nil {
			return err
		}
		p.rec.keyNID = keys[0]
	}
	return nil
}

// checkRedaction decides whether a redaction is to be applied. Of a local sender it must be.
func (l *lane) checkRedaction(ctx context.Context, w *work, p *pending, local bool) error {
	e := p.rec.event
	p.redacts = e.Redacts()
	if p.redacts == "" || strings.ContainsRune(p.redacts, 0) {
		p.redacts = ""
		if local {
			return refuse(mxerr.InvalidParam.WithMessage("The redaction does not say what it redacts"))
		}
		return nil
	}
	target, err := l.findEvent(ctx, p.redacts)
	if err != nil {
		return err
	}
	if target != nil && target.RoomID() != l.roomID {
		if local {
			return refuse(mxerr.InvalidParam.WithMessage("The event to redact is in another room"))
		}
		p.redacts = ""
		return nil
	}
	recs, err := l.pieces(ctx, w, []event.Tuple{{Type: event.TypeCreate}, {Type: event.TypePowerLevels}})
	if err != nil {
		return err
	}
	levels := event.NewPowerLevels(eventOf(recs[0]), eventOf(recs[1]))
	switch {
	case target != nil:
		p.allowed = event.MayRedact(e, target, levels)
	case l.room.Version.RedactionAuthRule:
		p.allowed = true
	default:
		p.allowed = levels.UserLevel(e.Sender()) >= levels.Redact
	}
	if local && !p.allowed {
		return refuse(mxerr.Forbidden.WithMessage("You don't have permission to redact this event"))
	}
	return nil
}

// findEvent finds an event by id, on its way or stored; nil if there is none.
func (l *lane) findEvent(ctx context.Context, id string) (*event.Event, error) {
	l.mu.Lock()
	for _, items := range [][]*item{l.inflight, l.ready} {
		for _, it := range items {
			for _, p := range it.events {
				if p.rec.event.ID() == id {
					l.mu.Unlock()
					return p.rec.event, nil
				}
			}
		}
	}
	l.mu.Unlock()
	e, err := l.w.cfg.Store.Event(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find event %s: %w", id, err)
	}
	return e.Event, nil
}

func recordIDs(recs []*record) []string {
	ids := make([]string, len(recs))
	for i, r := range recs {
		ids[i] = r.event.ID()
	}
	return ids
}

func authDepth(auth []*record) int32 {
	d := int32(-1)
	for _, r := range auth {
		d = max(d, r.authDepth)
	}
	return d + 1
}
