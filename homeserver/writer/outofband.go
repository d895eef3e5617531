package writer

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
)

// OutOfBand is an m.room.member event about a user of this server in a room that this server is not in: an invite, a
// knock, or how one of them ended.
type OutOfBand struct {
	// Event is the event, of the room's version, with its signatures and hashes checked. Nothing else of it can be.
	Event *event.Event
	// Stripped is the stripped state that came with it, a JSON array, or nil.
	Stripped []byte
}

// ReceiveOutOfBand writes an event about a user's place in a room that this server is not in, on whichever process owns
// the room. It becomes an outlier with a number in the events stream, so that /sync tells the user. The room is made
// known where it is not. In a room that this server is in nothing is written, as such events come in their places there:
// the Result then has no NID.
func (w *Writer) ReceiveOutOfBand(ctx context.Context, o OutOfBand) (Result, error) {
	e := o.Event
	user, isState := e.StateKey()
	if !isState || e.Type() != event.TypeMember || !w.cfg.Store.IsLocal(user) || storage.MembershipOf(e.Membership()) == 0 ||
		strings.ContainsRune(user+e.ID(), 0) {
		return Result{}, mxerr.InvalidParam.WithMessage("The event is not about a user of this server")
	}
	room, err := storage.EnsureRoom(ctx, w.cfg.DB, e.RoomID(), e.Version().ID, w.cfg.Now().UnixMilli(), false)
	if err != nil {
		return Result{}, err
	}
	if room.Version != e.Version().ID {
		return Result{}, mxerr.InvalidParam.WithMessage("The room has another version")
	}
	owner, local := w.owner(e.RoomID())
	var results []Result
	if local {
		results, err = w.do(ctx, e.RoomID(), &request{outOfBand: &o})
	} else {
		results, err = forward(ctx, w, owner, outOfBandMethod(), outOfBandRequest{e.Version().ID, o})
	}
	if err != nil {
		return Result{}, err
	}
	return results[0], nil
}

// receiveOutOfBand builds an event that has no place in the room.
func (l *lane) receiveOutOfBand(ctx context.Context, it *item) error {
	if l.room == nil {
		l.built = -1
		return refuse(errNoRoom)
	}
	// Whether this server is in the room is for the database to say, once all that is on its way has arrived.
	if err := l.barrier(ctx); err != nil {
		return err
	}
	o := it.req.outOfBand
	e := o.Event
	if e.RoomID() != l.roomID || e.Version() != l.room.Version {
		return refuse(mxerr.InvalidParam.WithMessage("The event is of another room"))
	}
	outside, err := l.outside(ctx)
	if err != nil {
		return err
	}
	if !outside {
		it.outcome = []outcome{{rec: &record{event: e}}}
		return nil
	}
	stored, err := l.w.cfg.Store.EventsByID(ctx, []string{e.ID()})
	if err != nil {
		return err
	}
	if old := stored[0]; old != nil {
		rec := storedRecord(old)
		if rec.writer, err = l.w.cfg.WriterNames.Name(ctx, l.w.cfg.DB, old.WriterNID); err != nil {
			return err
		}
		it.outcome = []outcome{{rec: rec, duplicate: true}}
		return nil
	}
	p := &pending{
		rec: &record{event: e, flags: store.Outlier}, receivedTS: l.w.cfg.Now().UnixMilli(), aside: true, stripped: o.Stripped,
		outOfBand: true,
	}
	if err := l.number(ctx, p); err != nil {
		return err
	}
	before, err := l.w.cfg.Store.Memberships(ctx, l.room.NID, []storage.UserNID{p.target})
	if err != nil {
		return err
	}
	if before[0] != nil {
		p.prevMembership = before[0].Membership.String()
	}
	if err := l.notifyGuest(ctx, p); err != nil {
		return err
	}
	if l.headless {
		// The room may have got its head by the next request.
		l.built = -1
	}
	it.events = []*pending{p}
	it.outcome = []outcome{{rec: p.rec}}
	return nil
}

// outOfBandRow lays out the rows of an event without a place in the room.
func (c *committer) outOfBandRow(s *share, id int64) *storage.OutOfBand {
	p := s.items[0].events[0]
	p.rec.nid = storage.EventNID(id)
	s.out = []written{{p: p, row: c.eventRow(s.lane.room, p, store.Root{})}}
	content := p.rec.event.Content()
	return &storage.OutOfBand{
		Event: storage.NewEvent{Type: p.rec.event.Type(), Event: s.out[0].row},
		Member: storage.Member{
			UserNID: p.target, Membership: storage.MembershipOf(p.rec.event.Membership()),
			DisplayName: store.Text(content, "displayname"), AvatarURL: store.Text(content, "avatar_url"),
		},
		Stripped: p.stripped,
		Push:     p.pushCounts(s.lane.room),
	}
}

// layOut lays out the rows of a batch: of events in their places, or of one that is written apart.
func (c *committer) layOut(ctx context.Context, batch []*share, ids []int64) (batchRows, []*statetree.Node, error) {
	if batch[0].apart() {
		return c.outOfBandRow(batch[0], ids[0]), nil, nil
	}
	return c.assemble(ctx, batch, ids)
}

// batchRows are what one transaction writes.
type batchRows interface {
	Queue(b *pgx.Batch, won func(storage.RoomNID))
}

// outOfBandRequest hands an OutOfBand to a room's owner.
type outOfBandRequest struct {
	version string
	event   OutOfBand
}
