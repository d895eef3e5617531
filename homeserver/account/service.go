// Package account is the accounts of this server: registration, login, sessions and their tokens, devices, profiles,
// user-interactive authentication, deactivation; and the authenticator that finds the account behind a request.
//
// Every process may do all of it: what must be agreed upon stands in the database. What a request needs to know of an
// access token is cached, and dropped over the caches stream in the transaction that changes it, so that a logout is
// complete when it returns on the process that did it, and a moment later everywhere.
//
// Tokens are stored as SHA-256 only.
//
// Spec: client-server API, "Client Authentication", "Device Management", "Profiles" (v1.19).
package account

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/ratelimit"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/storage"
)

// Requester is who makes a request.
type Requester = requester.Requester

// Names on the caches stream.
const (
	tokensCache   = "access_tokens"
	profilesCache = "profiles"
)

// Config holds what a Service needs.
type Config struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// DB is the database. Required.
	DB *storage.DB
	// Caches is the process's group of mutable caches. Required.
	Caches *cache.Group
	// Registration are the options of new accounts and of what people may change.
	Registration config.RegistrationOptions
	// Login are the options of passwords, sessions and tokens.
	Login config.LoginOptions
	// Limits limits logins by account. Without it nothing is limited.
	Limits *ratelimit.Limiter
	// Appservices knows the application services. Without it there are none.
	Appservices Appservices
	// RemoteProfiles asks other servers for profiles. Without it no other server can be reached.
	RemoteProfiles RemoteProfiles
	// MaxCachedTokens bounds the access tokens kept in memory. Defaults to 100,000.
	MaxCachedTokens int
	// LastSeenInterval is how often the use of one device from one address is written down at most. Defaults to 2
	// minutes.
	LastSeenInterval time.Duration
	// UserIPsMaxAge is how long addresses are kept, 0 for ever.
	UserIPsMaxAge time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Appservice is what this package needs to know of an application service.
type Appservice struct {
	// ID is its id in its registration.
	ID string
	// Sender is the user id of its bot.
	Sender string
	// RateLimited says that rate limits apply to it.
	RateLimited bool
}

// Appservices knows the registered application services.
type Appservices interface {
	// ByToken returns the application service with an as_token, or nil.
	ByToken(token string) *Appservice
	// MayActAs reports whether an application service may act for a user: its namespaces hold the id, or it is its bot.
	MayActAs(as *Appservice, userID string) bool
	// ExclusiveOwner returns the id of the application service that claims a user id for itself alone, or "".
	ExclusiveOwner(userID string) string
}

// RemoteProfiles asks other servers for the profiles of their users.
type RemoteProfiles interface {
	// Profile returns the profile of a user as a JSON object, or only one field of it where field is not "".
	Profile(ctx context.Context, userID, field string) (map[string]any, error)
}

// Service is the accounts of a server, in one process. It is safe for concurrent use.
type Service struct {
	cfg      Config
	hasher   *Hasher
	tokens   *cache.Cache[*session]
	profiles *cache.Cache[*storage.Profile]
	seen     *lastSeen
	roomWork task.Wake
	log      zerolog.Logger
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Service, error) {
	var errs []error
	if cfg.ServerName == "" {
		errs = append(errs, errors.New("account: Config.ServerName is required"))
	}
	if cfg.DB == nil {
		errs = append(errs, errors.New("account: Config.DB is required"))
	}
	if cfg.Caches == nil {
		errs = append(errs, errors.New("account: Config.Caches is required"))
	}
	hasher, err := NewHasher(cfg.Registration.BcryptRounds, cfg.Login.PasswordConfig.Pepper.Reveal())
	if err != nil {
		errs = append(errs, fmt.Errorf("account: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxCachedTokens == 0 {
		cfg.MaxCachedTokens = 100_000
	}
	if cfg.LastSeenInterval == 0 {
		cfg.LastSeenInterval = 2 * time.Minute
	}
	s := &Service{
		cfg:      cfg,
		hasher:   hasher,
		roomWork: task.NewWake(),
		log:      cfg.Log.With().Str("component", "account").Logger(),
	}
	s.seen = newLastSeen(cfg.DB, s.log)
	if s.tokens, err = cache.New[*session](cfg.Caches, cache.Config{Name: tokensCache, MaxEntries: cfg.MaxCachedTokens}); err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	if s.profiles, err = cache.New[*storage.Profile](cfg.Caches, cache.Config{Name: profilesCache, MaxEntries: 10_000}); err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	return s, nil
}

// Run writes down when and from where devices were used, until ctx is done, and then what is left.
func (s *Service) Run(ctx context.Context) error { return s.seen.run(ctx) }

// Maintain deletes what has expired. Run it now and then, in one process.
func (s *Service) Maintain(ctx context.Context) error {
	now := s.now()
	err := storage.PruneTokens(ctx, s.cfg.DB, now, now-uiaSessionLifetime.Milliseconds())
	if age := s.cfg.UserIPsMaxAge; age > 0 {
		err = errors.Join(err, storage.PruneUserIPs(ctx, s.cfg.DB, now-age.Milliseconds()))
	}
	return err
}

// ServerName returns the name of this server.
func (s *Service) ServerName() string { return s.cfg.ServerName }

func (s *Service) now() int64 { return s.cfg.Now().UnixMilli() }

// isLocal reports whether a user id is of this server.
func (s *Service) isLocal(userID string) bool {
	_, server, ok := strings.Cut(userID, ":")
	return ok && server == s.cfg.ServerName
}

// localpart returns the localpart of a user id of this server.
func (s *Service) localpart(userID string) string {
	return strings.TrimSuffix(strings.TrimPrefix(userID, "@"), ":"+s.cfg.ServerName)
}

// tokenKey is the key of an access token in the cache: the hash, so that no token travels over the caches stream.
func tokenKey(hash []byte) string { return base64.RawStdEncoding.EncodeToString(hash) }

func tokenKeys(hashes [][]byte) []string {
	keys := make([]string, len(hashes))
	for i, h := range hashes {
		keys[i] = tokenKey(h)
	}
	return keys
}

// checkText refuses what cannot be stored as text or is longer than max characters.
func checkText(name, text string, maxChars int) error {
	if strings.IndexByte(text, 0) >= 0 {
		return mxerr.InvalidParam.WithMessage(name + " must not have NUL characters")
	}
	if len(text) > maxChars && len([]rune(text)) > maxChars {
		return mxerr.InvalidParam.WithMessage(fmt.Sprintf("%s is too long (max %d)", name, maxChars))
	}
	return nil
}
