package sender

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// followEphemeral has the sender follow what is not part of rooms' history.
func (s *Sender) followEphemeral() error {
	c := s.cfg.Replication
	typing, err := replication.Follow(c, streams.Typing(), replication.FollowConfig[streams.TypingRow]{})
	if err != nil {
		return err
	}
	typing.Handle(s.onTyping)
	receipts, err := replication.Follow(c, streams.Receipts(), replication.FollowConfig[streams.ReceiptsRow]{})
	if err != nil {
		return err
	}
	receipts.Handle(s.onReceipts)
	presence, err := replication.Follow(c, streams.Presence(), replication.FollowConfig[streams.PresenceRow]{})
	if err != nil {
		return err
	}
	presence.Handle(s.onPresence)
	edus, err := replication.Follow(c, streams.Federation(), replication.FollowConfig[streams.FederationRow]{
		Source: s.cfg.MissedEDUs, FromNow: true,
	})
	if err != nil {
		return err
	}
	edus.Handle(s.onEDUs)
	return nil
}

func (s *Sender) isLocal(userID string) bool { return event.ServerName(userID) == s.cfg.ServerName }

// serversIn returns the other servers in a room, none where that cannot be told: the news is not worth waiting for.
func (s *Sender) serversIn(ctx context.Context, roomID string) []string {
	room, err := s.cfg.Store.Room(ctx, roomID)
	if err == nil {
		var a store.Audience
		if a, err = s.cfg.Store.Audience(ctx, room.NID); err == nil {
			return a.Now()
		}
	}
	if !errors.Is(err, storage.ErrNotFound) {
		s.log.Warn().Err(err).Str("room_id", roomID).Msg("cannot tell which servers are in a room")
	}
	return nil
}

// tell adds something ephemeral for servers. Those that do not answer are not told. start says whether it goes out at
// once, or with whatever is sent next.
func (s *Sender) tell(servers []string, start bool, add func(q *eduQueue)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range servers {
		d := s.destination(server)
		if !d.mine || d.denied || d.parked != nil {
			continue
		}
		add(&d.edus)
		if start {
			s.start(d)
		}
	}
}

// typingRooms are the users of this server who are typing, by room.
type typingRooms map[string][]string

// typingAgain is how often other servers are told of those who go on typing. They forget them after some time.
const typingAgain = 30 * time.Second

func (s *Sender) onTyping(ctx context.Context, u replication.Update[streams.TypingRow]) {
	for _, row := range u.Rows {
		roomID := row.Value.RoomID
		now := slices.DeleteFunc(slices.Clone(row.Value.UserIDs), func(id string) bool { return !s.isLocal(id) })
		s.mu.Lock()
		before := s.typing[roomID]
		if len(now) > 0 {
			s.typing[roomID] = now
		} else {
			delete(s.typing, roomID)
		}
		s.mu.Unlock()
		if slices.Equal(before, now) {
			continue
		}
		servers := s.serversIn(ctx, roomID)
		s.tell(servers, true, func(q *eduQueue) {
			for _, user := range before {
				if !slices.Contains(now, user) {
					q.typing.put(typingKey{roomID, user}, false)
				}
			}
			for _, user := range now {
				if !slices.Contains(before, user) {
					q.typing.put(typingKey{roomID, user}, true)
				}
			}
		})
	}
}

// keepTyping reminds other servers of those who go on typing.
func (s *Sender) keepTyping(ctx context.Context) {
	ticker := time.NewTicker(typingAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		rooms := make(typingRooms, len(s.typing))
		for id, users := range s.typing {
			rooms[id] = users
		}
		s.mu.Unlock()
		for roomID, users := range rooms {
			s.tell(s.serversIn(ctx, roomID), true, func(q *eduQueue) {
				for _, user := range users {
					q.typing.put(typingKey{roomID, user}, true)
				}
			})
		}
	}
}

// onReceipts tells other servers up to where users of this one have read. Private receipts are nobody else's business.
func (s *Sender) onReceipts(ctx context.Context, u replication.Update[streams.ReceiptsRow]) {
	for _, row := range u.Rows {
		r := row.Value
		if r.ReceiptType != "m.read" || !s.isLocal(r.UserID) {
			continue
		}
		servers := s.serversIn(ctx, r.RoomID)
		key := receiptKey{roomID: r.RoomID, userID: r.UserID}
		if r.ThreadID != nil {
			key.threadID = *r.ThreadID
		}
		// In a large room everybody reads all the time: receipts go with the messages, or wait for each other.
		pause := time.Duration(len(servers)) * time.Second / time.Duration(s.cfg.ReceiptsPerSecond)
		atOnce := pause <= maxAtOnce
		s.tell(servers, atOnce, func(q *eduQueue) { q.receipts.put(key, receipt{r.EventID, r.Data}) })
		if !atOnce {
			s.flushLater(r.RoomID, servers, pause)
		}
	}
}

// maxAtOnce is the pause below which receipts do not wait.
const maxAtOnce = 100 * time.Millisecond

// flushLater has what waits for servers sent after a pause, unless that is to happen already for the room.
func (s *Sender) flushLater(roomID string, servers []string, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flushing[roomID] {
		return
	}
	s.flushing[roomID] = true
	time.AfterFunc(pause, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.flushing, roomID)
		for _, server := range servers {
			s.start(s.destination(server))
		}
	})
}

// onEDUs passes on what other processes want told.
func (s *Sender) onEDUs(_ context.Context, u replication.Update[streams.FederationRow]) {
	for _, row := range u.Rows {
		e := row.Value.Data
		if row.Value.Type == streams.FederationEDU {
			s.tell(e.Destinations, true, func(q *eduQueue) { q.add(federation.EDU{Type: e.EDUType, Content: e.Content}, e.Key) })
		}
	}
}

// sharedUsers is of how many users it is kept which servers share rooms with them.
const sharedUsers = 10_000

// sharedServers hold until somebody comes or goes anywhere.
type sharedServers struct {
	servers    []string
	generation int64
}

func newSharedServers() memo.Cache[string, sharedServers] {
	return memo.New[string, sharedServers](sharedUsers)
}

// onPresence tells the servers that share rooms with users of this one how they are.
func (s *Sender) onPresence(ctx context.Context, u replication.Update[streams.PresenceRow]) {
	for _, row := range u.Rows {
		p := row.Value
		if !s.isLocal(p.UserID) {
			continue
		}
		servers, err := s.sharing(ctx, p.UserID)
		if err != nil {
			s.log.Warn().Err(err).Msg("cannot tell whom a user's presence concerns")
			continue
		}
		s.tell(servers, true, func(q *eduQueue) { q.presence.put(p.UserID, p) })
	}
}

func (s *Sender) sharing(ctx context.Context, userID string) ([]string, error) {
	generation := s.comings.Load()
	if known, ok := s.shared.GetIfPresent(userID); ok && known.generation == generation {
		return known.servers, nil
	}
	nid, err := s.cfg.Store.UserNID(ctx, userID)
	if err != nil || nid == 0 {
		return nil, err
	}
	servers, err := storage.ServersSharedWith(ctx, s.cfg.DB, nid)
	if err != nil {
		return nil, err
	}
	s.shared.Set(userID, sharedServers{servers, generation})
	return servers, nil
}
