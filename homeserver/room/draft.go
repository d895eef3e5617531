package room

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/writer"
)

// profile is what a membership event says of a user.
type profile struct{ displayName, avatarURL string }

// profiles returns the profiles of the local users among users.
func (s *Service) profiles(ctx context.Context, users []string) (map[string]profile, error) {
	out := make(map[string]profile, len(users))
	if s.cfg.Profiles == nil {
		return out, nil
	}
	for _, u := range users {
		if !s.isLocal(u) {
			continue
		}
		name, avatar, err := s.cfg.Profiles.Profile(ctx, u)
		if err != nil {
			return nil, fmt.Errorf("read profile of %s: %w", u, err)
		}
		out[u] = profile{name, avatar}
	}
	return out, nil
}

// memberContent is the content of an m.room.member event. Only joins, invites and knocks carry the profile.
func memberContent(membership string, p profile) map[string]any {
	content := map[string]any{"membership": membership}
	switch membership {
	case event.MembershipJoin, event.MembershipInvite, event.MembershipKnock:
		if p.displayName != "" {
			content["displayname"] = p.displayName
		}
		if p.avatarURL != "" {
			content["avatar_url"] = p.avatarURL
		}
	}
	return content
}

// send writes drafts and waits until this process can read them.
func (s *Service) send(ctx context.Context, roomID string, drafts ...writer.Draft) ([]writer.Result, error) {
	rs, err := s.cfg.Writer.Send(ctx, roomID, drafts...)
	if err != nil {
		return nil, err
	}
	return rs, s.applied(ctx, rs...)
}

// applied waits until this process can read what was written.
func (s *Service) applied(ctx context.Context, rs ...writer.Result) error {
	if s.cfg.Follower == nil || len(rs) == 0 {
		return nil
	}
	last := rs[len(rs)-1]
	for _, r := range rs {
		if r.NID > last.NID {
			last = r
		}
	}
	if err := s.cfg.Follower.WaitForEvent(ctx, last.Writer, last.NID); err != nil {
		return fmt.Errorf("wait for event %s: %w", last.EventID, err)
	}
	return nil
}

// mustJSON encodes what cannot fail: strings, numbers, maps and valid raw JSON.
func mustJSON(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		// Only raw JSON from a request can be at fault, and decoding the request has checked it.
		panic(fmt.Sprintf("room: encode %T: %v", v, err))
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
