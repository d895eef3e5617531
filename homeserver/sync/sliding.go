package sync

import (
	"context"
	"fmt"
	"time"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// Sliding answers a request of simplified sliding sync, after waiting up to its Timeout where there is nothing new.
//
// What a client has been sent over a connection is stored as of each position it may come back with, so that any process
// can go on with the connection. A room is sent from nothing or as what has changed since; one that has changed while no
// rule asked for it is forgotten, and sent from nothing when a rule does.
//
// Errors: M_UNKNOWN_POS for a Pos that is not the last of the device's connection, or of one that has ended.
//
// Spec: MSC4186.
func (s *Service) Sliding(ctx context.Context, req SlidingRequest) (*SlidingResponse, error) {
	q := &query{
		Request: Request{UseStateAfter: true, Stop: req.Stop},
		userID:  req.Requester.UserID, deviceID: req.Requester.DeviceID,
		f: s.noFilter, initial: req.Pos == "", recency: true, redundant: true,
	}
	key := slidingKey{userID: q.userID, deviceID: q.deviceID, connID: req.ConnID}
	var was *slidingState
	if !q.initial {
		pos, err := token.ParseSliding(req.Pos, s.cfg.WriterIDs)
		if err != nil {
			return nil, mxerr.UnknownPos.Wrap(err)
		}
		q.since = pos.Sync
		key.pos = storage.SlidingPosition{ConnectionNID: pos.Connection, Version: pos.Version}
		if was, err = s.slidingState(ctx, key); err != nil {
			return nil, err
		}
	}
	if s.cfg.Presence != nil {
		state := req.SetPresence
		if state == "" {
			state = "online"
		}
		defer s.cfg.Presence.Syncing(ctx, q.userID, q.deviceID, state)()
	}
	if err := s.catchUp(ctx, q.since); err != nil {
		return nil, fmt.Errorf("catch up before sliding sync: %w", err)
	}
	var deadline time.Time
	if !q.initial {
		deadline = time.Now().Add(req.Timeout)
	}
	var resp *SlidingResponse
	err := s.poll(ctx, q, deadline, func(snap *snapshot, last bool) (bool, error) {
		b := newSlidingBuilder(s, q, &req, snap, was)
		err := b.build(ctx)
		if err != nil || !last && b.empty() {
			return false, err
		}
		resp, err = b.response(ctx, key)
		return true, err
	})
	return resp, err
}

// loadRecency finds out how recently there was something in the rooms of a view, where that is not known.
func (s *Service) loadRecency(ctx context.Context, v *view) error {
	h := s.hub
	var unknown []storage.RoomNID
	h.mu.RLock()
	for _, vr := range v.rooms {
		if vr.membership == storage.MembershipJoin && vr.room.recent == 0 {
			unknown = append(unknown, vr.room.nid)
		}
	}
	h.mu.RUnlock()
	if len(unknown) == 0 {
		return nil
	}
	rows, err := storage.RoomRecency(ctx, s.cfg.DB, unknown)
	if err != nil {
		return err
	}
	recent := make(map[storage.RoomNID]int64, len(rows))
	for _, r := range rows {
		recent[r.RoomNID] = int64(r.EventNID)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, vr := range v.rooms {
		vr.room.recent = max(vr.room.recent, recent[vr.room.nid])
	}
	return nil
}
