// Package ratelimit limits how often something may be done, by Synapse's option names ("rc_message",
// "rc_login.address") and a key: a user, an address, a room.
//
// Each pair of class and key is a token bucket: burst tokens fit, per_second come in. A bucket costs one number while it
// is not full and nothing when it is, and the number of buckets is bounded, so that no flood of keys fills the memory.
package ratelimit

import (
	"hash/maphash"
	"math"
	"sync"
	"time"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// DefaultMaxKeys is the number of buckets a Limiter keeps that is told nothing else: about 10 MiB.
const DefaultMaxKeys = 100_000

const shards = 16

// Config configures a Limiter.
type Config struct {
	// Limits are the limits by class. A class without an entry, or with a negative rate, has no limit.
	Limits map[string]config.Rate
	// MaxKeys bounds the number of buckets. Beyond it buckets are forgotten, which means full. Defaults to
	// DefaultMaxKeys.
	MaxKeys int
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Limiter limits actions. A nil Limiter limits nothing. It is safe for concurrent use.
type Limiter struct {
	classes map[string]class
	now     func() time.Time
	start   time.Time
	seed    maphash.Seed
	shards  [shards]shard
	max     int
}

type class struct {
	id       uint16
	interval time.Duration // between two tokens
	burst    int
}

type bucketKey struct {
	class uint16
	key   string
}

// shard holds, for each bucket that is not full, when it will be (in time since start).
type shard struct {
	mu   sync.Mutex
	full map[bucketKey]time.Duration
}

// New returns a Limiter.
func New(cfg Config) *Limiter {
	if cfg.MaxKeys <= 0 {
		cfg.MaxKeys = DefaultMaxKeys
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Limiter{
		classes: make(map[string]class, len(cfg.Limits)),
		now:     cfg.Now,
		start:   cfg.Now(),
		seed:    maphash.MakeSeed(),
		max:     max(cfg.MaxKeys/shards, 1),
	}
	for name, r := range cfg.Limits {
		if r.PerSecond < 0 {
			continue
		}
		// Without refill a bucket stays empty for good; a century is that, and cannot overflow.
		interval := 100 * 365 * 24 * time.Hour / time.Duration(max(r.BurstCount, 1)+1)
		if r.PerSecond > 0 {
			interval = min(interval, time.Duration(math.Ceil(float64(time.Second)/r.PerSecond)))
		}
		l.classes[name] = class{id: uint16(len(l.classes)), interval: interval, burst: r.BurstCount}
	}
	return l
}

// Limits returns the limits of a configuration by class. "rc_login", "rc_joins", "rc_invites" and "rc_presence" name the
// limit of theirs that one request knows the key of: by address, for local rooms, by inviting user, by user.
func Limits(c *config.RateLimitsOptions) map[string]config.Rate {
	m := map[string]config.Rate{
		"rc_message":                     c.RCMessage,
		"rc_registration":                c.RCRegistration,
		"rc_registration_token_validity": c.RCRegistrationTokenValidity,
		"rc_login":                       c.RCLogin.Address,
		"rc_login.address":               c.RCLogin.Address,
		"rc_login.account":               c.RCLogin.Account,
		"rc_login.failed_attempts":       c.RCLogin.FailedAttempts,
		"rc_admin_redaction":             c.RCMessage,
		"rc_joins":                       c.RCJoins.Local,
		"rc_joins.local":                 c.RCJoins.Local,
		"rc_joins.remote":                c.RCJoins.Remote,
		"rc_joins_per_room":              c.RCJoinsPerRoom,
		"rc_3pid_validation":             c.RCThreepidValidation,
		"rc_invites":                     c.RCInvites.PerIssuer,
		"rc_invites.per_room":            c.RCInvites.PerRoom,
		"rc_invites.per_user":            c.RCInvites.PerUser,
		"rc_invites.per_issuer":          c.RCInvites.PerIssuer,
		"rc_third_party_invite":          c.RCThirdPartyInvite,
		"rc_media_create":                c.RCMediaCreate,
		"rc_presence":                    c.RCPresence.PerUser,
		"rc_presence.per_user":           c.RCPresence.PerUser,
		"rc_delayed_event_mgmt":          c.RCDelayedEventManagement,
		"rc_reports":                     c.RCReports,
		"rc_room_creation":               c.RCRoomCreation,
		"rc_key_requests":                c.RCKeyRequests,
	}
	if c.RCAdminRedaction != nil {
		m["rc_admin_redaction"] = *c.RCAdminRedaction
	}
	return m
}

// Known reports whether class has a name Limits uses, limited or not.
func Known(class string) bool {
	_, ok := Limits(&config.RateLimitsOptions{})[class]
	return ok
}

// Allow takes one token. Where there is none it takes nothing and returns M_LIMIT_EXCEEDED with retry_after_ms.
func (l *Limiter) Allow(class, key string) error { return l.take(class, key, 1) }

// AllowN takes n tokens or none.
func (l *Limiter) AllowN(class, key string, n int) error { return l.take(class, key, n) }

// Check is Allow without taking the token: for limits that count failures, which are not known beforehand. Count them
// with Allow.
func (l *Limiter) Check(class, key string) error { return l.take(class, key, 0) }

func (l *Limiter) take(className, key string, n int) error {
	if l == nil {
		return nil
	}
	c, ok := l.classes[className]
	if !ok {
		return nil
	}
	k := bucketKey{c.id, key}
	s := &l.shards[maphash.Comparable(l.seed, k)%shards]
	now := l.now().Sub(l.start)

	s.mu.Lock()
	defer s.mu.Unlock()
	full := max(s.full[k], now)
	// After taking, the bucket may lack at most burst tokens.
	after := full + time.Duration(max(n, 1))*c.interval
	if wait := after - now - time.Duration(c.burst)*c.interval; wait > 0 {
		return mxerr.RetryAfter(wait)
	}
	if n == 0 {
		return nil
	}
	if s.full == nil {
		s.full = make(map[bucketKey]time.Duration)
	}
	if _, exists := s.full[k]; !exists && len(s.full) >= l.max {
		s.evict(now, l.max)
	}
	s.full[k] = after
	return nil
}

// evict drops full buckets and, where all are in use, one in eight of the rest. It runs once for at least that many
// inserts.
func (s *shard) evict(now time.Duration, limit int) {
	for k, full := range s.full {
		if full <= now {
			delete(s.full, k)
		}
	}
	target := limit - max(limit/8, 1)
	for k := range s.full {
		if len(s.full) <= target {
			return
		}
		delete(s.full, k)
	}
}
