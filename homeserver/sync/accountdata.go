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
	gen := v.ignoredGen.Load()
	if m := v.ignored.Load(); m != nil && m.gen == gen {
		return m.users, nil
	}
	user, err := s.cfg.Store.UserNID(ctx, v.userID)
	if err != nil {
		return nil, fmt.Errorf("read ignored users: %w", err)
	}
	users := map[string]bool{}
	d, err := storage.GetAccountData(ctx, s.cfg.DB, user, "", ignoredUsersType)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("read ignored users: %w", err)
	default:
		gjson.GetBytes(d.Content, "ignored_users").ForEach(func(k, _ gjson.Result) bool {
			if k.Str != v.userID {
				users[k.Str] = true
			}
			return true
		})
	}
	v.ignored.Store(&ignoredUsers{gen, users})
	return users, nil
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
	if !b.snap.accountData && len(fresh) == 0 {
		return nil
	}
	user, err := b.s.cfg.Store.UserNID(ctx, b.q.userID)
	if err != nil {
		return fmt.Errorf("read account data: %w", err)
	}
	var rows []storage.AccountData
	switch {
	case b.q.initial:
		rows, err = storage.AccountDataSnapshot(ctx, b.s.cfg.DB, user, nil)
	case b.snap.accountData:
		since, now := b.snap.since.Get(token.AccountData), b.snap.now.Get(token.AccountData)
		rows, err = storage.AccountDataChanges(ctx, b.s.cfg.DB, user, since.Floor(), now.Max())
	}
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		more, err := storage.AccountDataSnapshot(ctx, b.s.cfg.DB, user, fresh)
		if err != nil {
			return err
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
