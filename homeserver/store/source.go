package store

import (
	"context"
	"fmt"
	"math"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// EventRows is the replication.Source of the events stream: it reads rows from the database for followers that missed
// them. Two things the database does not keep: PrevMembership is that of the user's m.room.member event before by number, and
// state events that are Current now may not have been then, nor the reverse; a state event that is not current any more has
// StateReset set, so that its followers look for themselves.
func (s *Store) EventRows(ctx context.Context, writer string, after, upTo int64, limit int) ([]replication.Row[*streams.EventRow], int64, error) {
	nid, err := s.writers.Intern(ctx, s.db, writer)
	if err != nil {
		return nil, after, fmt.Errorf("read events of writer %q: %w", writer, err)
	}
	events, err := s.load(ctx, func() ([]storage.Event, error) {
		return storage.WriterEvents(ctx, s.db, nid, storage.EventNID(after), storage.EventNID(upTo), limit)
	})
	if err != nil {
		return nil, after, fmt.Errorf("read events of writer %q: %w", writer, err)
	}
	rows, err := s.rows(ctx, events)
	if err != nil {
		return nil, after, fmt.Errorf("read events of writer %q: %w", writer, err)
	}
	if len(rows) == limit {
		upTo = rows[len(rows)-1].Token
	}
	return rows, upTo, nil
}

// rows makes rows of the stream of stored events.
func (s *Store) rows(ctx context.Context, events []*Event) ([]replication.Row[*streams.EventRow], error) {
	roomNIDs := make([]storage.RoomNID, len(events))
	var members []string
	var pieces []storage.CurrentState
	var redactions []storage.EventNID
	var places []storage.MemberPlace
	for i, e := range events {
		roomNIDs[i] = e.RoomNID
		sk, isState := e.StateKey()
		if isState && e.Type() == event.TypeMember {
			members = append(members, sk)
			places = append(places, storage.MemberPlace{RoomNID: e.RoomNID, StateKeyNID: e.StateKeyNID, Before: e.NID})
		}
		if isState && e.Flags == 0 {
			pieces = append(pieces, storage.CurrentState{RoomNID: e.RoomNID, StateKeyNID: e.StateKeyNID})
		}
		if e.Type() == event.TypeRedaction && e.Flags == 0 {
			redactions = append(redactions, e.NID)
		}
	}
	rooms, err := s.RoomsByNID(ctx, roomNIDs)
	if err != nil {
		return nil, err
	}
	users, err := s.UserNIDs(ctx, members)
	if err != nil {
		return nil, err
	}
	before, err := s.membersBefore(ctx, places)
	if err != nil {
		return nil, err
	}
	current := make(map[storage.EventNID]bool)
	if len(pieces) > 0 {
		found, err := storage.GetCurrentPieces(ctx, s.db, pieces)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			current[c.EventNID] = true
		}
	}
	applied := make(map[storage.EventNID]string)
	if len(redactions) > 0 {
		if applied, err = storage.AppliedRedactions(ctx, s.db, redactions); err != nil {
			return nil, err
		}
	}
	rows := make([]replication.Row[*streams.EventRow], len(events))
	for i, e := range events {
		row := &streams.EventRow{
			RoomNID: int64(e.RoomNID), SenderNID: int64(e.SenderNID), StateKeyNID: int64(e.StateKeyNID),
			RoomID: rooms[i].ID, RoomVersion: rooms[i].Version.ID, EventID: e.ID(), Type: e.Type(), Sender: e.Sender(),
			Membership: e.Membership(), Flags: int16(e.Flags), AuthDepth: e.AuthDepth, TxnDevice: e.TxnDevice, TxnID: e.TxnID,
			ReceivedTS: e.ReceivedTS, Redacts: applied[e.NID], Outbound: e.Outbound,
		}
		if e.StateRoot != (Root{}) {
			row.StateRoot = e.StateRoot[:]
		}
		if sk, ok := e.StateKey(); ok {
			row.StateKey = &sk
			row.Current = current[e.NID]
			row.StateReset = !row.Current && e.Flags == 0
			if e.Type() == event.TypeMember {
				row.TargetNID, users = int64(users[0]), users[1:]
				if before[0] != nil {
					row.PrevMembership = before[0].Membership()
				}
				before = before[1:]
			}
		}
		// A redacted event is read anew by whoever needs it with its redaction.
		if len(e.JSON()) <= streams.MaxInlineBytes && e.RedactedBecause == nil {
			row.JSON = e.JSON()
		}
		rows[i] = replication.Row[*streams.EventRow]{Token: int64(e.NID), Value: row}
	}
	return rows, nil
}

// membersBefore returns the m.room.member event before each place, nil where there is none.
func (s *Store) membersBefore(ctx context.Context, places []storage.MemberPlace) ([]*Event, error) {
	if len(places) == 0 {
		return nil, nil
	}
	nids, err := storage.MembersBefore(ctx, s.db, places)
	if err != nil {
		return nil, err
	}
	return s.Events(ctx, nids)
}

// FirstNID is below the numbers of all events, for queries that include history.
const FirstNID storage.EventNID = math.MinInt64
