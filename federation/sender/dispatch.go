package sender

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// onEvents queues the events that are for other servers. It costs a query where the servers of a room are not known.
func (s *Sender) onEvents(ctx context.Context, u replication.Update[*streams.EventRow]) {
	for _, row := range u.Rows {
		if v := row.Value; v.StateReset || v.Type == event.TypeMember && v.Membership != v.PrevMembership {
			s.comings.Add(1)
		}
		if !row.Value.Outbound {
			continue
		}
		nid := storage.EventNID(row.Token)
		audience, err := s.cfg.Store.Audience(ctx, storage.RoomNID(row.Value.RoomNID))
		if err != nil {
			s.log.Warn().Err(err).Str("event_id", row.Value.EventID).Msg("cannot tell which servers an event is for yet")
			s.miss(u.Writer, nid)
			continue
		}
		s.dispatch(u.Writer, nid, row.Value, audience.At(nid))
	}
}

// dispatch queues an event for servers.
func (s *Sender) dispatch(writer string, nid storage.EventNID, row *streams.EventRow, servers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	origin := event.ServerName(row.Sender)
	kept := row.JSON == nil
	for _, server := range servers {
		if server == origin {
			continue
		}
		d := s.destination(server)
		if !d.mine || d.denied {
			continue
		}
		if !kept {
			s.pdus.Set(nid, &pdu{sender: origin, json: row.JSON})
			kept = true
		}
		d.add(writer, nid)
		s.start(d)
	}
}

// miss has all destinations look in the database for an event of which it is not known for whom it is.
func (s *Sender) miss(writer string, nid storage.EventNID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.destinations {
		d.miss(writer, nid)
		s.start(d)
	}
	s.scanned = false
	s.lookAgain()
}
