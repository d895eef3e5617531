package userdir

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/lease"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

const (
	// leaseName keeps the work in one process.
	leaseName = "user_directory"
	// batchEvents bounds the events looked at in one transaction.
	batchEvents = 5000
	// batchProfiles bounds the profiles asked for at once, and those under way together.
	batchProfiles    = 50
	parallelProfiles = 5
	// profileTimeout bounds one question to another server.
	profileTimeout = 20 * time.Second
	// profileDelay keeps a user who changes much from being asked about each time.
	profileDelay = time.Minute
	// minBackoff and maxBackoff space the attempts to ask a server that does not answer.
	minBackoff = time.Minute
	maxBackoff = 24 * time.Hour
)

// Profiles asks other servers for profiles. *account.Service does.
type Profiles interface {
	// ProfileFields returns the profile of a user as a JSON object.
	ProfileFields(ctx context.Context, userID, field string) (map[string]any, error)
}

// UpdaterConfig configures an Updater.
type UpdaterConfig struct {
	// DB is the database. Required.
	DB *storage.DB
	// Replication tells of new events. New makes it follow them, so it must not run yet. Required.
	Replication *replication.Client
	// Leases keeps the work in one process. Required.
	Leases *lease.Manager
	// Profiles asks other servers for profiles. Required.
	Profiles Profiles
	// Poll is how often overdue profiles are looked for. Defaults to 30 seconds.
	Poll time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Updater keeps the directory of other servers' users. How far it has come stands in the database: it goes on from there
// after a restart, on whichever process runs it then.
type Updater struct {
	cfg  UpdaterConfig
	log  zerolog.Logger
	wake task.Wake
}

// NewUpdater checks the configuration, and has cfg.Replication follow the events stream. It does no I/O.
func NewUpdater(cfg UpdaterConfig) (*Updater, error) {
	if cfg.DB == nil || cfg.Replication == nil || cfg.Leases == nil || cfg.Profiles == nil {
		return nil, errors.New("userdir: UpdaterConfig.DB, Replication, Leases and Profiles are required")
	}
	if cfg.Poll == 0 {
		cfg.Poll = 30 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	u := &Updater{cfg: cfg, log: cfg.Log.With().Str("component", "user_directory").Logger(), wake: task.NewWake()}
	follower, err := replication.Follow(cfg.Replication, streams.Events(), replication.FollowConfig[*streams.EventRow]{
		OnGap: func(context.Context, string, int64, int64) { u.wake.Up() },
	})
	if err != nil {
		return nil, err
	}
	follower.Handle(func(_ context.Context, up replication.Update[*streams.EventRow]) {
		for _, r := range up.Rows {
			if r.Value.Type == event.TypeMember {
				u.wake.Up()
				return
			}
		}
	})
	return u, nil
}

// Run updates until ctx is done, or stands by while another process does.
func (u *Updater) Run(ctx context.Context) error {
	return u.cfg.Leases.Hold(ctx, leaseName, func(ctx context.Context, _ int64) error {
		task.Poll(ctx, u.wake, func() time.Duration {
			if err := u.update(ctx); err != nil && ctx.Err() == nil {
				u.log.Warn().Err(err).Msg("The user directory could not be brought up to date yet")
			}
			return u.cfg.Poll
		})
		return nil
	})
}

// update does what there is to do.
func (u *Updater) update(ctx context.Context) error {
	return errors.Join(u.events(ctx), u.profiles(ctx))
}

// events takes in what has happened up to where no writer has an event in flight.
func (u *Updater) events(ctx context.Context) error {
	upTo := storage.EventNID(u.cfg.Replication.Position("events").Floor())
	at, err := storage.DirectoryProgress(ctx, u.cfg.DB)
	if err != nil {
		return err
	}
	for at < upTo {
		next := min(at+batchEvents, upTo)
		err := storage.InTx(ctx, u.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
			users, err := storage.DirectoryChanges(ctx, tx, at, next)
			if err != nil {
				return err
			}
			if len(users) > 0 {
				if err := u.apply(ctx, tx, users); err != nil {
					return err
				}
			}
			return storage.SetDirectoryProgress(ctx, tx, next)
		})
		if err != nil {
			return err
		}
		at = next
	}
	return nil
}

// apply brings users up to date.
func (u *Updater) apply(ctx context.Context, tx *storage.Tx, users []storage.UserNID) error {
	facts, err := storage.GetDirectoryFacts(ctx, tx, users)
	if err != nil {
		return err
	}
	now := u.cfg.Now()
	var put []storage.DirectoryUser
	var ask, drop []storage.UserNID
	for _, f := range facts {
		e := Entry(f.UserNID, f.UserID, f.DisplayName, f.AvatarURL)
		e.IsLocal = f.Local
		switch {
		case f.Local && f.Gone, !f.Local && !f.Joined:
			drop = append(drop, f.UserNID)
		case f.Local, f.Public:
			put = append(put, e)
		case f.Listed:
			ask = append(ask, f.UserNID)
		default:
			e.RefreshTS = now.UnixMilli()
			put = append(put, e)
		}
	}
	if len(drop) > 0 {
		if err := storage.DeleteDirectoryUsers(ctx, tx, drop); err != nil {
			return err
		}
	}
	if len(ask) > 0 {
		if err := storage.AskDirectoryProfiles(ctx, tx, ask, now.Add(profileDelay).UnixMilli()); err != nil {
			return err
		}
	}
	if len(put) == 0 {
		return nil
	}
	return storage.PutDirectoryUsers(ctx, tx, put)
}

// profiles asks other servers for the profiles that are due.
func (u *Updater) profiles(ctx context.Context) error {
	stale, err := storage.StaleDirectoryProfiles(ctx, u.cfg.DB, u.cfg.Now().UnixMilli(), batchProfiles)
	if err != nil {
		return err
	}
	if len(stale) == batchProfiles {
		u.wake.Up() // there may be more
	}
	errs := make([]error, len(stale))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelProfiles)
	for i, p := range stale {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = u.profile(ctx, p)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// profile asks for one profile, or puts it off where the server does not answer.
func (u *Updater) profile(ctx context.Context, p storage.StaleProfile) error {
	asking, cancel := context.WithTimeout(ctx, profileTimeout)
	defer cancel()
	fields, err := u.cfg.Profiles.ProfileFields(asking, p.UserID, "")
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		wait := min(minBackoff<<min(p.Tries, 20), maxBackoff)
		return storage.PostponeDirectoryProfile(ctx, u.cfg.DB, p.UserNID, u.cfg.Now().Add(wait).UnixMilli())
	}
	e := Entry(p.UserNID, p.UserID, text(fields["displayname"]), text(fields["avatar_url"]))
	e.IsLocal = false
	return storage.PutDirectoryUsers(ctx, u.cfg.DB, []storage.DirectoryUser{e})
}

// text returns a value of a profile as what the database can hold, nil for what is no text or too long to be a name.
func text(v any) *string {
	s, _ := v.(string)
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if s == "" || len(s) > 4*maxNameRunes {
		return nil
	}
	return &s
}
