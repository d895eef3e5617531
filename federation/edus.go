package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/presence"
	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// EDUHandlers take what other servers tell that is no event. Each may be nil: then it is passed over.
type EDUHandlers struct {
	Typing   TypingHandler
	Receipts ReceiptsHandler
	Presence PresenceHandler
}

// TypingHandler takes who is typing. *typing.Service does.
type TypingHandler interface {
	// Put says that a user is typing in a room, or has stopped where timeout is 0.
	Put(ctx context.Context, roomID, userID string, timeout time.Duration) error
}

// ReceiptsHandler takes receipts. *receipts.Service does.
type ReceiptsHandler interface {
	// Receive takes receipts of users of other servers.
	Receive(ctx context.Context, receipts []receipts.Receipt) error
}

// PresenceHandler takes the presence of users of other servers. *presence.Service does.
type PresenceHandler interface {
	// Receive takes updates, each of a user of the server that sent them.
	Receive(ctx context.Context, updates []presence.Remote) error
}

// edu is what travels in a transaction and is no event.
type edu struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// receiveEDUs hands EDUs on. None of those that are taken here is worth a second transmission: what is bad, refused or
// cannot be stored is dropped.
func (in *Inbound) receiveEDUs(ctx context.Context, origin string, raws []json.RawMessage) {
	for _, raw := range raws {
		var e edu
		err := json.Unmarshal(raw, &e)
		if err == nil {
			err = in.receiveEDU(ctx, origin, &e)
		}
		if err != nil {
			in.log.Info().Err(err).Str("origin", origin).Str("edu_type", clip(e.Type)).Msg("EDU dropped")
		}
	}
}

// clip bounds what another server wants in the log.
func clip(s string) string { return s[:min(len(s), 64)] }

func (in *Inbound) receiveEDU(ctx context.Context, origin string, e *edu) error {
	h := &in.cfg.EDUs
	switch {
	case e.Type == "m.typing" && h.Typing != nil:
		return in.receiveTyping(ctx, origin, e.Content)
	case e.Type == "m.receipt" && h.Receipts != nil:
		return in.receiveReceipts(ctx, origin, e.Content)
	case e.Type == "m.presence" && h.Presence != nil:
		return in.receivePresence(ctx, origin, e.Content)
	}
	in.log.Debug().Str("origin", origin).Str("edu_type", clip(e.Type)).Msg("EDU passed over")
	return nil
}

// speaksFor returns an error unless userID is a user of origin.
func speaksFor(origin, userID string) error {
	if !id.IsUser(userID) || id.ServerOf(userID) != origin {
		return mxerr.Forbidden.WithMessage("The user is of another server")
	}
	return nil
}

// eduRoom finds the room that a user of origin does something in; nil where they may not, or this server is not in it.
func (in *Inbound) eduRoom(ctx context.Context, origin, roomID, userID string) (*store.Room, error) {
	if err := speaksFor(origin, userID); err != nil {
		return nil, err
	}
	r, err := in.openRoom(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	m, err := in.store.Membership(ctx, r.NID, userID)
	if err != nil {
		return nil, fmt.Errorf("read membership of %s in %s: %w", userID, roomID, err)
	}
	if m == nil || m.Membership != storage.MembershipJoin {
		return nil, mxerr.Forbidden.WithMessage("The user is not in the room")
	}
	return r, nil
}

// remoteTyping is how long somebody of another server is typing who does not say that they have stopped.
const remoteTyping = 30 * time.Second

func (in *Inbound) receiveTyping(ctx context.Context, origin string, content json.RawMessage) error {
	var c struct {
		RoomID string `json:"room_id"`
		UserID string `json:"user_id"`
		Typing bool   `json:"typing"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return err
	}
	if _, err := in.eduRoom(ctx, origin, c.RoomID, c.UserID); err != nil {
		return err
	}
	timeout := time.Duration(0)
	if c.Typing {
		timeout = remoteTyping
	}
	return in.cfg.EDUs.Typing.Put(ctx, c.RoomID, c.UserID, timeout)
}

// maxReceipts bounds the receipts of one EDU.
const maxReceipts = 1000

func (in *Inbound) receiveReceipts(ctx context.Context, origin string, content json.RawMessage) error {
	var c map[string]map[string]map[string]struct {
		EventIDs []string `json:"event_ids"`
		Data     struct {
			TS       int64  `json:"ts"`
			ThreadID string `json:"thread_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return err
	}
	var out []receipts.Receipt
	for roomID, types := range c {
		for userID, r := range types[receipts.Read] {
			if len(out) == maxReceipts {
				return mxerr.TooLarge.WithMessage("Too many receipts")
			}
			if len(r.EventIDs) == 0 {
				continue
			}
			if _, err := in.eduRoom(ctx, origin, roomID, userID); err != nil {
				if !refused(err) {
					return err
				}
				continue
			}
			out = append(out, receipts.Receipt{
				RoomID: roomID, Type: receipts.Read, UserID: userID, EventID: r.EventIDs[len(r.EventIDs)-1],
				ThreadID: r.Data.ThreadID, TS: r.Data.TS,
			})
		}
	}
	if len(out) == 0 {
		return nil
	}
	return in.cfg.EDUs.Receipts.Receive(ctx, out)
}

// maxPresences bounds the users of one EDU.
const maxPresences = 1000

func (in *Inbound) receivePresence(ctx context.Context, origin string, content json.RawMessage) error {
	var c struct {
		Push []presence.Remote `json:"push"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return err
	}
	if len(c.Push) > maxPresences {
		return mxerr.TooLarge.WithMessage("Too many users")
	}
	updates := slices.DeleteFunc(c.Push, func(u presence.Remote) bool { return speaksFor(origin, u.UserID) != nil })
	if len(updates) == 0 {
		return nil
	}
	return in.cfg.EDUs.Presence.Receive(ctx, updates)
}
