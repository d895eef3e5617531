package sync

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/weft-im/weft/homeserver/token"
)

// response stores what the client will have been sent and makes the response. Nothing is read any more when it is
// written.
func (b *slidingBuilder) response(ctx context.Context, key slidingKey) (*SlidingResponse, error) {
	pos, err := b.s.keepSliding(ctx, key, b.was, b.next)
	if err != nil {
		return nil, fmt.Errorf("keep position of sliding sync: %w", err)
	}
	text, err := token.Sliding{Connection: pos.ConnectionNID, Version: pos.Version, Sync: b.snap.next}.Encode(b.s.cfg.WriterIDs)
	if err != nil {
		return nil, fmt.Errorf("make pos: %w", err)
	}
	return &SlidingResponse{Pos: text, write: func(w io.Writer) error { return b.write(w, text) }}, nil
}

func (b *slidingBuilder) write(w io.Writer, pos string) error {
	r := &recipient{userID: b.q.userID, deviceID: b.q.deviceID, nowTS: b.q.nowTS, fields: b.q.f.Fields}
	dst := appendString(append(make([]byte, 0, 2048), `{"pos":`...), pos)
	dst = b.appendLists(append(dst, `,"lists":{`...))
	dst = append(dst, `},"rooms":{`...)
	comma := false
	for _, room := range b.rooms {
		if !room.send {
			continue
		}
		if comma {
			dst = append(dst, ',')
		}
		comma = true
		dst = b.appendSlidingRoom(append(appendString(dst, room.room.id), ':'), r, room, pos)
		if len(dst) >= chunk {
			if _, err := w.Write(dst); err != nil {
				return err
			}
			dst = dst[:0]
		}
	}
	dst = b.appendExtensions(append(dst, `},"extensions":{`...))
	_, err := w.Write(append(dst, "}}"...))
	return err
}

func (b *slidingBuilder) appendLists(dst []byte) []byte {
	for i, name := range slices.Sorted(maps.Keys(b.counts)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		c := b.counts[name]
		dst = strconv.AppendInt(append(appendString(dst, name), `:{"count":`...), int64(c.rooms), 10)
		if b.req.Unstable {
			dst = append(dst, `,"ops":[`...)
			if n := len(c.ids); n > 0 {
				first := 0
				if ranges := b.req.Lists[name].Ranges; len(ranges) > 0 {
					first = ranges[0][0]
				}
				dst = strconv.AppendInt(append(dst, `{"op":"SYNC","range":[`...), int64(first), 10)
				dst = strconv.AppendInt(append(dst, ','), int64(first+n-1), 10)
				dst = append(appendStrings(append(dst, `],"room_ids":`...), c.ids), '}')
			}
			dst = append(dst, ']')
		}
		dst = append(dst, '}')
	}
	return dst
}

// appendSlidingRoom writes what a response says of a room.
func (b *slidingBuilder) appendSlidingRoom(dst []byte, rec *recipient, r *slidingRoom, pos string) []byte {
	dst = appendString(append(dst, `{"membership":`...), r.membership.String())
	if r.fresh {
		dst = append(dst, `,"initial":true`...)
	}
	if r.bump != 0 {
		dst = strconv.AppendInt(append(dst, `,"bump_stamp":`...), int64(r.bump), 10)
	}
	if len(r.lists) > 0 {
		dst = appendStrings(append(dst, `,"lists":`...), r.lists)
	}
	if st := r.stripped; st != nil {
		name := `,"stripped_state":[`
		if b.req.Unstable {
			name = `,"invite_state":[`
		}
		return append(append(append(dst, name...), st.events...), "]}"...)
	}
	dst = b.appendNames(dst, r)
	j := r.job
	if len(j.state) > 0 || r.fresh {
		dst = appendItems(append(dst, `,"required_state":`...), rec, j.state)
	}
	dst = appendItems(append(dst, `,"timeline":`...), rec, j.timeline)
	if len(j.timeline) > 0 {
		first := j.timeline[0].ev
		dst = append(dst, `,"prev_batch":"`...)
		dst = append(token.Before(first.Depth(), int64(first.NID)).Append(dst), '"')
	} else {
		dst = appendString(append(dst, `,"prev_batch":`...), pos)
	}
	if j.limited {
		dst = append(dst, `,"limited":true`...)
	}
	if j.expanded {
		name := `,"expanded_timeline":true`
		if b.req.Unstable {
			name = `,"unstable_expanded_timeline":true`
		}
		dst = append(dst, name...)
	}
	dst = strconv.AppendInt(append(dst, `,"num_live":`...), int64(r.live), 10)
	if s := j.summary; s != nil {
		dst = strconv.AppendInt(append(dst, `,"joined_count":`...), int64(s.joined), 10)
		dst = strconv.AppendInt(append(dst, `,"invited_count":`...), int64(s.invited), 10)
	}
	if b.req.Unstable && !j.left {
		dst = strconv.AppendInt(append(dst, `,"notification_count":`...), j.counts.Total.Notification, 10)
		dst = strconv.AppendInt(append(dst, `,"highlight_count":`...), j.counts.Total.Highlight, 10)
	}
	return append(dst, '}')
}

// appendNames writes by what name a client may show the room.
func (b *slidingBuilder) appendNames(dst []byte, r *slidingRoom) []byte {
	null := func(key string, v *string) {
		dst = append(append(dst, `,"`...), key...)
		if v == nil {
			dst = append(dst, `":null`...)
			return
		}
		dst = appendString(append(dst, `":`...), *v)
	}
	s := r.job.summary
	switch {
	case r.fresh && s != nil && s.stats != nil:
		if s.stats.Name != "" {
			null("name", &s.stats.Name)
		}
		if s.stats.AvatarURL != "" {
			null("avatar", &s.stats.AvatarURL)
		}
	default:
		if r.name != nil {
			null("name", textOf(r.name, "name"))
		}
		if r.avatar != nil {
			null("avatar", textOf(r.avatar, "url"))
		}
	}
	if direct := b.direct[r.room.id]; r.fresh && direct || !r.fresh && b.snap.accountData {
		dst = strconv.AppendBool(append(dst, `,"is_dm":`...), direct)
	}
	if len(r.heroes) == 0 {
		return dst
	}
	dst = append(dst, `,"heroes":[`...)
	comma := false
	for _, e := range r.heroes {
		if e == nil {
			continue
		}
		if comma {
			dst = append(dst, ',')
		}
		comma = true
		key, _ := e.StateKey()
		dst = appendString(append(dst, `{"user_id":`...), key)
		for _, field := range []string{"displayname", "avatar_url"} {
			if v := textOf(e, field); v != nil {
				dst = appendString(append(append(append(dst, `,"`...), field...), `":`...), *v)
			}
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

func appendItems(dst []byte, rec *recipient, items []item) []byte {
	dst = append(dst, '[')
	for i, it := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = rec.append(dst, it)
	}
	return append(dst, ']')
}

// appendExtensions writes the extensions that were asked for.
func (b *slidingBuilder) appendExtensions(dst []byte) []byte {
	comma := false
	open := func(name string) {
		if comma {
			dst = append(dst, ',')
		}
		comma = true
		dst = append(appendString(dst, name), ':')
	}
	if b.req.AccountData != nil {
		open("account_data")
		dst = append(dst, `{"global":[`...)
		for i, e := range b.accountData {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, e...)
		}
		dst = b.appendByRoom(append(dst, `],`...), func(dst []byte, r *slidingRoom, j *job) []byte {
			if len(j.data) == 0 || !b.req.AccountData.takes(r) {
				return dst
			}
			dst = append(dst, '[')
			for i, e := range j.data {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = append(dst, e...)
			}
			return append(dst, ']')
		})
	}
	if b.req.Receipts != nil {
		open("receipts")
		dst = b.appendByRoom(append(dst, '{'), func(dst []byte, r *slidingRoom, j *job) []byte {
			if list := b.receiptsOf(r, j); len(list) > 0 {
				return appendReceipts(dst, list)
			}
			return dst
		})
	}
	if b.req.Typing != nil {
		open("typing")
		dst = b.appendByRoom(append(dst, '{'), func(dst []byte, r *slidingRoom, j *job) []byte {
			if j.typing != nil && b.req.Typing.takes(r) {
				return appendTyping(dst, j.typing.users)
			}
			return dst
		})
	}
	return dst
}

// appendByRoom writes "rooms" with what each says, where it says anything, and closes the extension.
func (b *slidingBuilder) appendByRoom(dst []byte, each func(dst []byte, r *slidingRoom, j *job) []byte) []byte {
	dst = append(dst, `"rooms":{`...)
	comma := false
	for _, r := range b.rooms {
		j := b.byID[r.room.id]
		if j == nil {
			continue
		}
		start := len(dst)
		if comma {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, r.room.id), ':')
		empty := len(dst)
		if dst = each(dst, r, j); len(dst) == empty {
			dst = dst[:start]
			continue
		}
		comma = true
	}
	return append(dst, "}}"...)
}
