package account

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/storage"
)

// session is a cached access token: who it stands for, and when it was last seen.
type session struct {
	requester    Requester
	userNID      storage.UserNID
	validUntilTS int64 // 0: does not expire
	deactivated  bool
	refreshToken *int64
	// firstUse is set until the first request with a token that came of a refresh was noted.
	firstUse atomic.Bool
	// seenTS and seenIP are the last use that was written down.
	seenTS atomic.Int64
	seenIP atomic.Pointer[string]
}

// Authenticate returns who makes a request with an access token. r gives the query (an application service may act for
// ?user_id=) and the path: locked accounts may still log out.
//
// Errors are M_UNKNOWN_TOKEN (with soft_logout where the device may log in again), M_USER_LOCKED, and for application
// services M_EXCLUSIVE or M_FORBIDDEN. The Requester is shared and must not be changed.
func (s *Service) Authenticate(ctx context.Context, token string, r *http.Request) (*Requester, error) {
	if s.cfg.Appservices != nil {
		if as := s.cfg.Appservices.ByToken(token); as != nil {
			return s.authenticateAppservice(as, r)
		}
	}
	hash := HashToken(token)
	sess, err := s.tokens.Get(ctx, tokenKey(hash[:]), func(ctx context.Context, _ string) (*session, error) {
		// A token of our form with a wrong checksum was never one of ours; guessing must not cost a query.
		if strings.HasPrefix(token, string(AccessTokenKind)+"_") {
			if _, _, ok := ParseToken(token); !ok {
				return nil, storage.ErrNotFound
			}
		}
		return s.loadSession(ctx, hash[:])
	})
	if err != nil {
		if errors.Is(err, storage.ErrNotFound) {
			return nil, mxerr.UnknownToken.WithField("soft_logout", false)
		}
		return nil, err
	}
	now := s.now()
	switch {
	case sess.deactivated:
		return nil, mxerr.UnknownToken.WithField("soft_logout", false)
	case sess.validUntilTS != 0 && now >= sess.validUntilTS && !isLogout(r):
		return nil, mxerr.UnknownToken.WithMessage("Access token has expired").WithField("soft_logout", true)
	case sess.requester.Locked && !isLogout(r):
		return nil, mxerr.UserLocked
	}
	if sess.firstUse.Load() && sess.firstUse.CompareAndSwap(true, false) {
		if err := s.noteFirstUse(ctx, sess); err != nil {
			sess.firstUse.Store(true)
			return nil, err
		}
	}
	s.noteSeen(ctx, sess, r, now)
	return &sess.requester, nil
}

func (s *Service) loadSession(ctx context.Context, hash []byte) (*session, error) {
	t, err := storage.GetTokenOwner(ctx, s.cfg.DB, hash)
	if err != nil {
		return nil, err
	}
	sess := &session{
		requester: Requester{
			UserID: t.UserID, TokenID: t.TokenID, IsGuest: t.IsGuest, IsAdmin: t.Admin, ShadowBanned: t.ShadowBanned,
			Suspended: t.Suspended, Locked: t.Locked,
		},
		userNID:      t.UserNID,
		deactivated:  t.Deactivated,
		refreshToken: t.RefreshTokenID,
	}
	if t.DeviceID != nil {
		sess.requester.DeviceID = *t.DeviceID
	}
	if t.ValidUntilTS != nil {
		sess.validUntilTS = *t.ValidUntilTS
	}
	sess.firstUse.Store(t.RefreshTokenID != nil && !t.Used)
	return sess, nil
}

// noteFirstUse revokes what a token was obtained with, once the token itself is in use.
func (s *Service) noteFirstUse(ctx context.Context, sess *session) error {
	return s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		hashes, err := storage.MarkTokenUsed(ctx, tx, sess.requester.TokenID, sess.refreshToken)
		drop.Keys(tokensCache, tokenKeys(hashes)...)
		return err
	})
}

// noteSeen remembers the use of a token, for one write in LastSeenInterval.
func (s *Service) noteSeen(ctx context.Context, sess *session, r *http.Request, now int64) {
	if r == nil {
		return
	}
	ip := clientIP(ctx, r)
	last := sess.seenIP.Load()
	if last != nil && *last == ip && now-sess.seenTS.Load() < s.cfg.LastSeenInterval.Milliseconds() {
		return
	}
	sess.seenTS.Store(now)
	sess.seenIP.Store(&ip)
	s.seen.add(storage.LastSeen{
		UserNID: sess.userNID, DeviceID: sess.requester.DeviceID, IP: cleanText(ip, 64),
		UserAgent: cleanText(r.UserAgent(), 512), TS: now,
	})
}

func (s *Service) authenticateAppservice(as *Appservice, r *http.Request) (*Requester, error) {
	req := &Requester{UserID: as.Sender, AppserviceID: as.ID, RateLimitExempt: !as.RateLimited}
	if r == nil || !strings.Contains(r.URL.RawQuery, "user_id=") {
		return req, nil
	}
	q := r.URL.Query()
	userID := q.Get("user_id")
	if userID == "" {
		return req, nil
	}
	if !s.isLocal(userID) || !s.cfg.Appservices.MayActAs(as, userID) {
		return nil, mxerr.Forbidden.WithMessage("Application service cannot masquerade as this user")
	}
	req.UserID, req.DeviceID = userID, q.Get("device_id")
	return req, nil
}

// isLogout reports whether a request logs its session out, which even locked accounts may.
func isLogout(r *http.Request) bool {
	return r != nil && (strings.HasSuffix(r.URL.Path, "/logout") || strings.HasSuffix(r.URL.Path, "/logout/all"))
}

// clientIP returns the address of the client.
func clientIP(ctx context.Context, r *http.Request) string {
	if ip, ok := requester.ClientIP(ctx); ok {
		return ip
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// cleanText brings what a client or a proxy has written into a header into what can be stored.
func cleanText(text string, maxBytes int) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
	if len(text) > maxBytes {
		text = strings.ToValidUTF8(text[:maxBytes], "")
	}
	return text
}
