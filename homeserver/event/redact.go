package event

// Redacted returns the event stripped to the keys that its room version protects from redaction. unsigned goes too. The
// id stays the same. A redacted event returns itself.
func (e *Event) Redacted() *Event {
	if e.redacted {
		return e
	}
	c := e.copy(e.appendRedacted(make([]byte, 0, len(e.raw)), true))
	// Cannot fail: what is left of an event has the same header.
	_ = c.scan()
	c.redacted = true
	c.deriveRoomID()
	return c
}

// appendRedacted appends the redacted event, with or without signatures. Without, these are the bytes that are signed
// and whose hash is the reference hash.
func (e *Event) appendRedacted(dst []byte, signatures bool) []byte {
	dst = append(dst, '{')
	it := iterObject(e.raw)
	for it.known = e.content; it.next(); {
		switch string(it.key) {
		case "signatures":
			if !signatures {
				continue
			}
		case "auth_events", "content", "depth", "event_id", "hashes", "origin_server_ts", "prev_events", "room_id",
			"sender", "state_key", "type":
		case "membership", "origin", "prev_state":
			if e.version.UpdatedRedactions {
				continue
			}
		default:
			continue
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		if string(it.key) == "content" {
			dst = append(dst, `"content":`...)
			dst = appendRedactedContent(dst, e.version, e.typ, it.val)
			continue
		}
		dst = append(dst, e.raw[it.memStart:it.i]...)
	}
	return append(dst, '}')
}

// appendRedactedContent appends what redaction leaves of the content of an event type.
func appendRedactedContent(dst []byte, v *Version, typ string, content []byte) []byte {
	switch typ {
	case TypeMember:
		return appendKept(dst, content, func(key string) bool {
			return key == "membership" || key == "join_authorised_via_users_server" && v.KeepJoinAuthorised ||
				key == "third_party_invite" && v.UpdatedRedactions
		})
	case TypeCreate:
		if v.UpdatedRedactions {
			return append(dst, content...)
		}
		return appendKept(dst, content, func(key string) bool { return key == "creator" })
	case TypeJoinRules:
		return appendKept(dst, content, func(key string) bool {
			return key == "join_rule" || key == "allow" && v.Restricted
		})
	case TypePowerLevels:
		return appendKept(dst, content, func(key string) bool {
			switch key {
			case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
				return true
			}
			return key == "invite" && v.UpdatedRedactions
		})
	case TypeAliases:
		if v.SpecialAliasAuth {
			return appendKept(dst, content, func(key string) bool { return key == "aliases" })
		}
	case TypeHistoryVisibility:
		return appendKept(dst, content, func(key string) bool { return key == "history_visibility" })
	case TypeRedaction:
		if v.RedactsInContent {
			return appendKept(dst, content, func(key string) bool { return key == "redacts" })
		}
	}
	return append(dst, '{', '}')
}

// appendKept appends the members of an object that keep chooses. Of third_party_invite only signed is kept.
func appendKept(dst, object []byte, keep func(key string) bool) []byte {
	dst = append(dst, '{')
	start := len(dst)
	for it := iterObject(object); it.next(); {
		if !keep(unsafeString(it.key)) {
			continue
		}
		mark := len(dst)
		if mark > start {
			dst = append(dst, ',')
		}
		if string(it.key) != "third_party_invite" {
			dst = append(dst, object[it.memStart:it.i]...)
			continue
		}
		signed := lookup(it.val, "signed")
		if signed == nil {
			dst = dst[:mark]
			continue
		}
		dst = append(append(append(dst, `"third_party_invite":{"signed":`...), signed...), '}')
	}
	return append(dst, '}')
}
