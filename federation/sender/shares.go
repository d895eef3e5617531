package sender

import (
	"context"
	"slices"
	"time"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// share keeps this process among the senders, and follows who else is one.
func (s *Sender) share(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.Renew)
	defer ticker.Stop()
	for {
		senders, err := storage.RenewFederationSender(ctx, s.cfg.DB, s.cfg.Instance, 3*s.cfg.Renew)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			// Everybody goes on with whom they know.
			s.log.Warn().Err(err).Msg("cannot say that this sender is alive")
		default:
			s.divide(senders)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Renew)
			defer cancel()
			if err := storage.RemoveFederationSender(ctx, s.cfg.DB, s.cfg.Instance); err != nil {
				s.log.Warn().Err(err).Msg("cannot say that this sender has stopped")
			}
			return
		}
	}
}

// divide takes up the destinations that are this sender's among others, and leaves those that are not.
func (s *Sender) divide(senders []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(senders, s.senders) {
		return
	}
	s.log.Info().Strs("senders", senders).Msg("destinations are divided")
	gained := len(s.senders) == 0 || slices.ContainsFunc(s.senders, func(old string) bool { return !slices.Contains(senders, old) })
	s.senders = senders
	for _, d := range s.destinations {
		switch mine := s.isMine(d.name); {
		case mine && !d.mine:
			d.mine, d.scanned, gained = true, false, true
		case !mine && d.mine:
			d.unpark()
			*d = destination{name: d.name, running: d.running, perRoom: everything}
		}
	}
	if gained {
		s.scanned = false
		s.lookAgain()
	}
}

// isMine reports whether a destination is this sender's to send to. Where others have told who is in a room, this server
// may be among them. s.mu is held.
func (s *Sender) isMine(destination string) bool {
	return destination != s.cfg.ServerName && replication.Rendezvous(s.senders, destination) == s.cfg.Instance
}

// lookAgain has the backlog of all destinations looked for.
func (s *Sender) lookAgain() {
	select {
	case s.scans <- struct{}{}:
	default:
	}
}

// scanRetry is the time between attempts to read from a database that does not answer.
const scanRetry = time.Second

// scan finds the destinations to which something is owed, whenever that is asked for.
func (s *Sender) scan(ctx context.Context) {
	for {
		select {
		case <-s.scans:
		case <-ctx.Done():
			return
		}
		for {
			cursors, err := storage.PendingDestinations(ctx, s.cfg.DB)
			if err == nil {
				s.found(cursors)
				break
			}
			s.log.Warn().Err(err).Msg("cannot look for what is owed to other servers")
			select {
			case <-time.After(scanRetry):
			case <-ctx.Done():
				return
			}
		}
	}
}

// found takes in to which destinations something is owed.
func (s *Sender) found(cursors []storage.OutboundCursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scanned = true
	count := 0
	for i := range cursors {
		c := &cursors[i]
		d := s.destination(c.Destination)
		if !d.mine {
			continue
		}
		count++
		d.cursor = max(d.cursor, c.Sent)
		d.fall(restartPerRoom)
		if !d.running && c.Txn != nil {
			d.resume = c.Txn
		}
	}
	for _, d := range s.destinations {
		if d.mine {
			d.scanned = true
			s.start(d)
		}
	}
	s.log.Info().Int("count", count).Msg("looked for what is owed to other servers")
}

// houseEvery is how often servers that have left rooms are forgotten, once they have been sent all that was for them.
const houseEvery = time.Hour

// keepHouse does so.
func (s *Sender) keepHouse(ctx context.Context) {
	ticker := time.NewTicker(houseEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		n, err := storage.PruneRoomServers(ctx, s.cfg.DB, s.floor())
		if err != nil {
			s.log.Warn().Err(err).Msg("cannot forget servers that have left rooms")
			continue
		}
		s.log.Debug().Int64("count", n).Msg("forgot servers that have left rooms")
	}
}
