package event

// relationHops is how far the relations of an event are followed to find the thread it is in.
const relationHops = 3

// Relation returns what an event's m.relates_to says: the type of the relation and the event it relates to, "" for none.
func (e *Event) Relation() (relType, eventID string) {
	for it := iterObject(e.Content()); it.next(); {
		if string(it.key) != "m.relates_to" {
			continue
		}
		for in := iterObject(it.val); in.next(); {
			switch string(in.key) {
			case "rel_type":
				relType, _ = decodeString(in.val)
			case "event_id":
				eventID, _ = decodeString(in.val)
			}
		}
	}
	return relType, eventID
}

// Thread returns the event id of the root of the thread that an event is in, "" where it is in the main timeline, and
// whether it is related, in one hop or some, to the event root, which may be "". find looks up an event of the same room;
// it returns nil where it is not known.
//
// Spec: client-server API, "Threading" and "Threaded read receipts" (v1.19): a thread's root itself is in the main
// timeline, and so is what relates to the root by other relations; receipts may name the thread for them all the same.
func Thread(e *Event, root string, find func(eventID string) (*Event, error)) (thread string, related bool, err error) {
	for range relationHops {
		relType, parent := e.Relation()
		if parent == "" {
			break
		}
		related = related || parent == root
		if relType == "m.thread" {
			return parent, related, nil
		}
		next, err := find(parent)
		if err != nil {
			return "", false, err
		}
		if next == nil {
			break
		}
		e = next
	}
	return "", related, nil
}
