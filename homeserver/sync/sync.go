package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
)

// query is a request on its way: what it asks for, understood.
type query struct {
	Request
	userID, deviceID string
	f                *filter.Filter
	// since is where the response begins; initial says that there is nothing before it.
	since   token.Sync
	initial bool
	limit   int
	// lazy and redundant are lazy_load_members and include_redundant_members.
	lazy, redundant bool
	ignored         map[string]bool
	// recency asks for how recently there was something in each room.
	recency bool
	nowTS   int64
}

// Sync answers a request, after waiting up to its Timeout where there is nothing new. ctx ends the wait.
//
// Errors: M_INVALID_PARAM for a bad Since or an unknown filter, M_NOT_JSON and M_BAD_JSON for a bad filter.
func (s *Service) Sync(ctx context.Context, req Request) (*Response, error) {
	q, err := s.parse(ctx, req)
	if err != nil {
		return nil, err
	}
	if s.cfg.Presence != nil {
		state := req.SetPresence
		if state == "" {
			state = "online"
		}
		defer s.cfg.Presence.Syncing(ctx, q.userID, q.deviceID, state)()
	}
	if err := s.catchUp(ctx, q.since); err != nil {
		return nil, fmt.Errorf("catch up before sync: %w", err)
	}
	deadline := time.Now().Add(req.Timeout)
	if q.initial || req.FullState {
		deadline = time.Time{}
	}
	var resp *Response
	err = s.poll(ctx, q, deadline, func(snap *snapshot, last bool) (bool, error) {
		b := &builder{s: s, q: q, snap: snap}
		err := b.build(ctx)
		if err != nil || !last && b.empty() {
			return false, err
		}
		resp, err = b.response()
		return true, err
	})
	return resp, err
}

// errDropped says that the user's view was dropped meanwhile.
var errDropped = errors.New("the view was dropped")

// poll has look answer from one snapshot after another until it says that it has. last says that the deadline has passed
// and anything will do.
func (s *Service) poll(ctx context.Context, q *query, deadline time.Time, look func(snap *snapshot, last bool) (done bool, err error)) error {
	for {
		v, err := s.view(ctx, q.userID)
		if err != nil {
			return err
		}
		if err := s.pollView(ctx, v, q, deadline, look); !errors.Is(err, errDropped) {
			return err
		}
	}
}

func (s *Service) pollView(ctx context.Context, v *view, q *query, deadline time.Time, look func(*snapshot, bool) (bool, error)) error {
	// Waiting begins before the first look, so that nothing falls in between.
	w, done := s.hub.wait(v)
	defer done()
	var timer *time.Timer
	for {
		var err error
		if q.ignored, err = s.ignored(ctx, v); err != nil {
			return err
		}
		if q.recency {
			if err := s.loadRecency(ctx, v); err != nil {
				return err
			}
		}
		snap, ok := s.hub.snapshot(v, q)
		if !ok {
			return errDropped
		}
		q.nowTS = time.Now().UnixMilli()
		wait := time.Until(deadline)
		if done, err := look(snap, wait <= 0); done || err != nil {
			return err
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		}
		select {
		case <-w.ch:
		case <-timer.C:
			deadline = time.Time{}
		case <-q.Stop:
			deadline = time.Time{}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Service) parse(ctx context.Context, req Request) (*query, error) {
	q := &query{Request: req, userID: req.Requester.UserID, deviceID: req.Requester.DeviceID, initial: req.Since == ""}
	var err error
	if q.f, err = s.filter(ctx, q.userID, req.Filter); err != nil {
		return nil, err
	}
	if !q.initial {
		if q.since, err = token.ParseSync(req.Since, s.cfg.WriterIDs); err != nil {
			return nil, err
		}
	}
	q.limit = q.f.Room.Timeline.Limit(s.cfg.TimelineLimit, s.cfg.MaxTimelineLimit)
	q.lazy = q.f.Room.State.LazyLoadMembers || q.f.Room.Timeline.LazyLoadMembers
	q.redundant = q.f.Room.State.IncludeRedundantMembers || q.f.Room.Timeline.IncludeRedundantMembers
	return q, nil
}

// catchUp waits until this process has seen what was committed before the request came, and what since covers.
func (s *Service) catchUp(ctx context.Context, since token.Sync) error {
	wait := s.fresh.wait
	if s.cfg.OnlyWriter {
		wait = s.fresh.waitLocal
	}
	if err := wait(ctx); err != nil {
		return err
	}
	// A token of another process may be ahead in events even of what the database says to be certain.
	p := since.Get(token.Events)
	have := s.cfg.Replication.Position(token.Events.String())
	if have.Epoch() != p.Epoch() {
		return nil
	}
	for writer, id := range p.Writers() {
		if err := s.fresh.reach(ctx, token.Events.String(), writer, id); err != nil {
			return err
		}
	}
	return nil
}

// comparable returns since so that it can be compared with now: where the stream has begun a new life the numbers of the
// old one mean something else, and of both the lower is taken.
func comparable(since, now token.Sync) token.Sync {
	for st := range token.Streams {
		a, b := since.Get(st), now.Get(st)
		if a.Epoch() != b.Epoch() {
			since = since.With(st, replication.NewPosition(min(a.Floor(), b.Floor())).WithEpoch(b.Epoch()))
		}
	}
	return since
}
