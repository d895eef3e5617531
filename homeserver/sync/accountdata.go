package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// pushRulesType is the account data made from the user's push rules.
const pushRulesType = "m.push_rules"

// ignored returns the users whose messages and invites this one does not want.
//
// Spec: client-server API, "Ignoring Users" (v1.19).
func (s *Service) ignored(ctx context.Context, v *view) (map[string]bool, error) {
	return v.ignored.get(func() (map[string]bool, error) {
		users := map[string]bool{}
		content, err := s.globalData(ctx, v.userID, ignoredUsersType)
		if err != nil {
			return nil, fmt.Errorf("read ignored users: %w", err)
		}
		gjson.GetBytes(content, "ignored_users").ForEach(func(k, _ gjson.Result) bool {
			if k.Str != v.userID {
				users[k.Str] = true
			}
			return true
		})
		return users, nil
	})
}

// globalData returns the content of a user's global account data, nil where there is none.
func (s *Service) globalData(ctx context.Context, userID, dataType string) (json.RawMessage, error) {
	user, err := s.cfg.Store.UserNID(ctx, userID)
	if err != nil {
		return nil, err
	}
	d, err := storage.GetAccountData(ctx, s.cfg.DB, user, "", dataType)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return d.Content, nil
}

// fillAccountData fills the account data, of the user and of rooms.
func (b *builder) fillAccountData(ctx context.Context) error {
	if err := b.pushRules(ctx); err != nil {
		return err
	}
	var fresh []string
	for _, j := range b.jobs {
		if j.newlyJoined {
			fresh = append(fresh, j.id)
		}
	}
	rows, err := b.accountRows(ctx, fresh, b.q.initial)
	if err != nil {
		return fmt.Errorf("read account data: %w", err)
	}
	for _, r := range rows {
		if r.RoomID == "" {
			if b.q.f.AccountData.Match(filter.Subject{Type: r.Type, Sender: b.q.userID, Content: r.Content}) {
				b.accountData = append(b.accountData, accountEvent(r.Type, r.Content))
			}
			continue
		}
		if !b.q.f.Room.AccountData.Match(filter.Subject{RoomID: r.RoomID, Type: r.Type, Sender: b.q.userID, Content: r.Content}) {
			continue
		}
		j := b.byID[r.RoomID]
		if j == nil {
			j = b.known(r.RoomID)
		}
		if j != nil {
			j.data = append(j.data, accountEvent(r.Type, r.Content))
		}
	}
	return nil
}

// accountRows returns the account data that changed, and all there is of the rooms in fresh ("" stands for the global
// data) or of everything.
func (b *builder) accountRows(ctx context.Context, fresh []string, everything bool) ([]storage.AccountData, error) {
	if !b.snap.accountData && len(fresh) == 0 && !everything {
		return nil, nil
	}
	user, err := b.s.cfg.Store.UserNID(ctx, b.q.userID)
	if err != nil {
		return nil, err
	}
	if everything {
		return storage.AccountDataSnapshot(ctx, b.s.cfg.DB, user, nil)
	}
	var rows []storage.AccountData
	if b.snap.accountData && !b.q.initial {
		since, now := b.snap.since.Get(token.AccountData), b.snap.now.Get(token.AccountData)
		if rows, err = storage.AccountDataChanges(ctx, b.s.cfg.DB, user, since.Floor(), now.Max()); err != nil {
			return nil, err
		}
	}
	if len(fresh) == 0 {
		return rows, nil
	}
	more, err := storage.AccountDataSnapshot(ctx, b.s.cfg.DB, user, fresh)
	if err != nil {
		return nil, err
	}
	seen := map[[2]string]bool{}
	for _, r := range rows {
		seen[[2]string{r.RoomID, r.Type}] = true
	}
	for _, r := range more {
		if !seen[[2]string{r.RoomID, r.Type}] {
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func (b *builder) pushRules(ctx context.Context) error {
	if b.s.cfg.PushRules == nil || !b.q.f.AccountData.AllowsType(pushRulesType) {
		return nil
	}
	content, err := b.s.cfg.PushRules.PushRules(ctx, b.q.userID, b.rangeOf(token.PushRules))
	if err != nil {
		return fmt.Errorf("read push rules: %w", err)
	}
	if content != nil {
		b.accountData = append(b.accountData, accountEvent(pushRulesType, content))
	}
	return nil
}

func (b *builder) rangeOf(st token.Stream) Range {
	if b.q.initial {
		// Not the snapshot's: that has the epoch of now, which no zero Position has.
		return Range{Now: b.snap.now.Get(st)}
	}
	return Range{Since: b.snap.since.Get(st), Now: b.snap.now.Get(st)}
}

func accountEvent(typ string, content []byte) json.RawMessage {
	out := appendString(append(make([]byte, 0, len(content)+len(typ)+32), `{"type":`...), typ)
	out = append(append(out, `,"content":`...), content...)
	return append(out, '}')
}
