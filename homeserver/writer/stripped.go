package writer

import (
	"context"
	"crypto/sha256"
	"encoding/base64"

	"github.com/weft-im/weft/homeserver/event"
)

// strippedTypes are the pieces of state that people see of a room they are invited to or knock on (client-server API,
// "Stripped state").
var strippedTypes = [...]string{
	event.TypeCreate, "m.room.name", "m.room.avatar", "m.room.topic", event.TypeJoinRules, "m.room.canonical_alias", "m.room.encryption",
}

// strippedFor returns the stripped state for a local user whom an event invites or who knocks by it, nil for other
// events.
func (l *lane) strippedFor(ctx context.Context, w *work, e *event.Event) ([]byte, error) {
	if e.Type() != event.TypeMember {
		return nil, nil
	}
	target, _ := e.StateKey()
	if m := e.Membership(); m != event.MembershipInvite && m != event.MembershipKnock || !l.w.cfg.Store.IsLocal(target) {
		return nil, nil
	}
	tuples := make([]event.Tuple, 0, len(strippedTypes)+1)
	for _, t := range strippedTypes {
		tuples = append(tuples, event.Tuple{Type: t})
	}
	if e.Sender() != target {
		tuples = append(tuples, event.Tuple{Type: event.TypeMember, StateKey: e.Sender()})
	}
	recs, err := l.pieces(ctx, w, tuples)
	if err != nil {
		return nil, err
	}
	b := []byte{'['}
	for _, r := range recs {
		if r == nil {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = event.AppendClient(b, r.event, event.ClientOptions{Stripped: true})
	}
	return append(b, ']'), nil
}

// refHashes returns what room versions 1 and 2 say of the events that an event names.
func refHashes(lists ...[]*record) map[string]string {
	m := make(map[string]string)
	for _, list := range lists {
		for _, r := range list {
			h := r.event.ReferenceHash()
			m[r.event.ID()] = base64.RawStdEncoding.EncodeToString(h[:sha256.Size])
		}
	}
	return m
}
