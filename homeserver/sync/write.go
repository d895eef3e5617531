package sync

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/token"
)

// chunk is how many bytes of a response are collected before they are written.
const chunk = 64 << 10

func stringAt(raw []byte, path string) string { return gjson.GetBytes(raw, path).Str }

// response makes the response out of what was built. Nothing is read any more: it can only fail to be written.
func (b *builder) response() (*Response, error) {
	next, err := b.snap.next.Encode(b.s.cfg.WriterIDs)
	if err != nil {
		return nil, fmt.Errorf("make next_batch: %w", err)
	}
	return &Response{NextBatch: next, write: func(w io.Writer) error { return b.write(w, next) }}, nil
}

func (b *builder) write(w io.Writer, next string) error {
	r := &recipient{
		userID: b.q.userID, deviceID: b.q.deviceID, nowTS: b.q.nowTS,
		fields: b.q.f.Fields, federation: b.q.f.Format == filter.FormatFederation,
	}
	dst := appendString(append(make([]byte, 0, 2048), `{"next_batch":`...), next)
	flush := func(least int) error {
		if len(dst) < least {
			return nil
		}
		_, err := w.Write(dst)
		dst = dst[:0]
		return err
	}
	if len(b.accountData) > 0 {
		dst = appendRaw(append(dst, `,"account_data":`...), b.accountData)
	}
	if len(b.presence) > 0 {
		dst = appendRaw(append(dst, `,"presence":`...), b.presence)
	}
	if len(b.toDevice) > 0 {
		dst = appendRaw(append(dst, `,"to_device":`...), b.toDevice)
	}
	dst = b.appendDevices(dst)
	if len(b.jobs)+len(b.invites)+len(b.knocks) > 0 {
		dst = append(dst, `,"rooms":{`...)
		comma := false
		for _, section := range []struct {
			name string
			left bool
		}{{"join", false}, {"leave", true}} {
			open := false
			for _, j := range b.jobs {
				if j.left != section.left {
					continue
				}
				if !open {
					dst = appendSection(dst, section.name, comma)
					open, comma = true, true
				} else {
					dst = append(dst, ',')
				}
				dst = b.appendRoom(dst, r, j, next)
				if err := flush(chunk); err != nil {
					return err
				}
			}
			if open {
				dst = append(dst, '}')
			}
		}
		for _, section := range []struct {
			name, state string
			rooms       []*stripped
		}{{"invite", "invite_state", b.invites}, {"knock", "knock_state", b.knocks}} {
			for i, st := range section.rooms {
				if i == 0 {
					dst = appendSection(dst, section.name, comma)
					comma = true
				} else {
					dst = append(dst, ',')
				}
				dst = append(appendString(dst, st.id), `:{"`...)
				dst = append(append(append(dst, section.state...), `":{"events":[`...), st.events...)
				dst = append(dst, "]}}"...)
				if err := flush(chunk); err != nil {
					return err
				}
			}
			if len(section.rooms) > 0 {
				dst = append(dst, '}')
			}
		}
		dst = append(dst, '}')
	}
	dst = append(dst, '}')
	return flush(1)
}

func appendSection(dst []byte, name string, comma bool) []byte {
	if comma {
		dst = append(dst, ',')
	}
	return append(append(append(dst, '"'), name...), `":{`...)
}

// appendDevices writes what end-to-end encryption adds.
func (b *builder) appendDevices(dst []byte) []byte {
	if b.s.cfg.Devices == nil {
		return dst
	}
	if len(b.changed)+len(b.left) > 0 {
		dst = appendStrings(append(dst, `,"device_lists":{"changed":`...), b.changed)
		dst = appendStrings(append(dst, `,"left":`...), b.left)
		dst = append(dst, '}')
	}
	if b.q.deviceID == "" {
		return dst
	}
	dst = append(dst, `,"device_one_time_keys_count":{`...)
	for i, alg := range slices.Sorted(maps.Keys(b.keys.OneTimeKeys)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(append(appendString(dst, alg), ':'), b.keys.OneTimeKeys[alg], 10)
	}
	return appendStrings(append(dst, `},"device_unused_fallback_key_types":`...), b.keys.UnusedFallbackKeys)
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ']')
}

// appendRoom writes a room of the join or the leave section.
func (b *builder) appendRoom(dst []byte, r *recipient, j *job, next string) []byte {
	dst = append(appendString(dst, j.id), `:{"timeline":`...)
	dst = r.appendEvents(dst, j.timeline)
	dst = append(dst, `,"limited":`...)
	dst = strconv.AppendBool(dst, j.limited)
	dst = append(dst, `,"prev_batch":`...)
	if len(j.timeline) > 0 {
		first := j.timeline[0].ev
		dst = append(dst, '"')
		dst = token.Before(first.Depth(), int64(first.NID)).Append(dst)
		dst = append(dst, '"')
	} else {
		dst = appendString(dst, next)
	}
	switch {
	case !b.q.UseStateAfter:
		dst = append(dst, `},"state":`...)
	case b.q.ProposedStateAfter:
		dst = append(dst, `},"org.matrix.msc4222.state_after":`...)
	default:
		dst = append(dst, `},"state_after":`...)
	}
	dst = append(r.appendEvents(dst, j.state), '}')
	if len(j.data) > 0 || !j.left {
		dst = appendRaw(append(dst, `,"account_data":`...), j.data)
	}
	if j.left {
		return append(dst, '}')
	}
	dst = append(dst, `,"ephemeral":{"events":[`...)
	if j.typing != nil {
		dst = appendTyping(dst, j.typing.users)
	}
	if len(j.receipts) > 0 {
		if j.typing != nil {
			dst = append(dst, ',')
		}
		dst = appendReceipts(dst, j.receipts)
	}
	dst = append(dst, `]},"summary":{`...)
	dst = appendSummary(dst, j.summary)
	dst = append(dst, `},"unread_notifications":`...)
	if !b.q.f.Room.Timeline.UnreadThreadNotifications {
		return append(appendCounts(dst, j.counts.Total), '}')
	}
	dst = appendCounts(dst, j.counts.Main)
	if len(j.counts.Threads) > 0 {
		dst = append(dst, `,"unread_thread_notifications":{`...)
		for i, root := range slices.Sorted(maps.Keys(j.counts.Threads)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendCounts(append(appendString(dst, root), ':'), j.counts.Threads[root])
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func appendSummary(dst []byte, s *summary) []byte {
	if s == nil {
		return dst
	}
	if s.heroes != nil {
		ids := make([]string, len(s.heroes))
		for i, h := range s.heroes {
			ids[i] = h.UserID
		}
		dst = append(appendStrings(append(dst, `"m.heroes":`...), ids), ',')
	}
	dst = strconv.AppendInt(append(dst, `"m.joined_member_count":`...), int64(s.joined), 10)
	return strconv.AppendInt(append(dst, `,"m.invited_member_count":`...), int64(s.invited), 10)
}

func appendCounts(dst []byte, c Counts) []byte {
	dst = strconv.AppendInt(append(dst, `{"highlight_count":`...), c.Highlight, 10)
	dst = strconv.AppendInt(append(dst, `,"notification_count":`...), c.Notification, 10)
	return append(dst, '}')
}
