package sync

import (
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	eventview "github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// Config configures New.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Store reads rooms and events. It must have its handler on the events stream before New is called. Required.
	Store *store.Store
	// Replication hands over the rows of the streams. New makes it follow them, so it must not run yet; whoever declares
	// a stream's source does so separately. Required.
	Replication *replication.Client
	// WriterIDs numbers the writers in tokens: the numbers in the column writer_nid. Required.
	WriterIDs replication.WriterIDs
	// OnlyWriter says that this process is the only one that writes. Its responses then need no look at the database to
	// know how far other writers have come.
	OnlyWriter bool
	// TailBytes bounds the memory of the events kept from the stream. Defaults to 64 MiB.
	TailBytes int
	// TimelineLimit is how many events a room's timeline has where the filter does not say. Defaults to 10.
	TimelineLimit int
	// MaxTimelineLimit bounds what a filter may ask for (filter_timeline_limit). Defaults to 100.
	MaxTimelineLimit int

	// Unread, PushRules, Presence, ToDevice and Devices fill parts of a response. Where one is nil its part is left out,
	// and counts are zero.
	Unread    UnreadCounts
	PushRules PushRules
	Presence  Presence
	ToDevice  ToDevice
	Devices   Devices

	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.TailBytes == 0 {
		c.TailBytes = 64 << 20
	}
	if c.TimelineLimit == 0 {
		c.TimelineLimit = 10
	}
	if c.MaxTimelineLimit == 0 {
		c.MaxTimelineLimit = 100
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.DB == nil || c.Store == nil || c.Replication == nil || c.WriterIDs == nil {
		errs = append(errs, errors.New("DB, Store, Replication and WriterIDs are required"))
	}
	if c.TailBytes < 0 || c.TimelineLimit < 0 || c.MaxTimelineLimit < 0 {
		errs = append(errs, errors.New("TailBytes, TimelineLimit and MaxTimelineLimit must not be negative"))
	}
	return errors.Join(errs...)
}

// Service answers /sync requests. It is safe for concurrent use and has no goroutine of its own but for queries under
// way.
type Service struct {
	cfg      Config
	hub      *hub
	fresh    *freshness
	noFilter *filter.Filter
	filters  memo.Cache[filterKey, *filter.Filter]
	lazy     memo.Cache[lazyKey, *lazySent]
	heroes   memo.Cache[heroKey, []storage.SyncHero]
	sliding  memo.Cache[slidingKey, *slidingState]
	views    *eventview.Views
}

// New makes the service and has cfg.Replication follow the streams it reads. It does no I/O.
func New(cfg Config) (*Service, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("new sync: %w", err)
	}
	noFilter, err := filter.Parse([]byte("{}"))
	if err != nil {
		return nil, fmt.Errorf("new sync: %w", err)
	}
	cfg.Log = cfg.Log.With().Str("component", "sync").Logger()
	s := &Service{cfg: cfg, noFilter: noFilter, hub: newHub(cfg.Replication, cfg.TailBytes, cfg.Log)}
	s.filters = memo.New[filterKey, *filter.Filter](10_000)
	s.lazy = memo.New[lazyKey, *lazySent](100_000)
	s.heroes = memo.New[heroKey, []storage.SyncHero](20_000)
	s.views = eventview.New(cfg.Store)
	s.sliding = memo.New[slidingKey, *slidingState](2000)
	s.fresh = newFreshness(cfg.DB, cfg.Replication, cfg.Log)
	if err := s.hub.follow(); err != nil {
		return nil, fmt.Errorf("new sync: %w", err)
	}
	return s, nil
}

// Current returns the point in all streams that this process has reached.
func (s *Service) Current() token.Sync {
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	return s.hub.now()
}

// Advance tells how far the rows of a stream have been handled in this process, for the streams whose owners fill parts
// of a response: push_rules, presence, to_device, device_lists. The waiting requests of the given users look again. Call
// it from the stream's handler; rows of several users in one update need one call.
//
// The error says that a sync token has no slot for the stream.
func (s *Service) Advance(stream, writer string, id int64, users []string) error {
	st, ok := token.StreamByName(stream)
	if !ok {
		return fmt.Errorf("sync: stream %s has no slot in the token", stream)
	}
	s.hub.advance(st, writer, id, users)
	return nil
}

// AdvanceIn is Advance for a stream whose rows concern whoever is in some rooms: the waiting requests of the users given,
// and of everybody joined to one of the rooms, look again.
func (s *Service) AdvanceIn(stream, writer string, id int64, users, rooms []string) error {
	if err := s.Advance(stream, writer, id, users); err != nil {
		return err
	}
	s.hub.wakeIn(rooms)
	return nil
}

// Waiting reports whether any request waits here, so that it is worth finding out whom a row concerns.
func (s *Service) Waiting() bool { return s.hub.waiting() }
