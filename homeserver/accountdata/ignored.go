package accountdata

import (
	"context"
	"errors"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
)

// TypeIgnoredUsers is the global data that says whom the user ignores.
const TypeIgnoredUsers = "m.ignored_user_list"

// maxIgnored bounds the users of whom it is kept in memory whom they ignore.
const maxIgnored = 10_000

// IgnoredUsers returns the users whose messages and invites a user does not want to see. The map is shared and must not
// be changed.
//
// Spec: client-server API, "Ignoring Users" (v1.19).
func (s *Service) IgnoredUsers(ctx context.Context, userID string) (map[string]bool, error) {
	if userID == "" {
		return nil, nil
	}
	return s.ignored.Load(ctx, userID, func(ctx context.Context, userID string) (map[string]bool, error) {
		content, err := s.Get(ctx, userID, "", TypeIgnoredUsers)
		if err != nil && !errors.Is(err, mxerr.NotFound) {
			return nil, err
		}
		var users map[string]bool
		gjson.GetBytes(content, "ignored_users").ForEach(func(k, _ gjson.Result) bool {
			if k.Str != userID {
				if users == nil {
					users = map[string]bool{}
				}
				users[k.Str] = true
			}
			return true
		})
		return users, nil
	})
}

// forgetIgnored follows the stream.
func (s *Service) forgetIgnored(_ context.Context, u replication.Update[streams.AccountDataRow]) {
	for _, r := range u.Rows {
		if r.Value.DataType == TypeIgnoredUsers && r.Value.RoomID == nil {
			s.ignored.Invalidate(r.Value.UserID)
		}
	}
}
