package view

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// The relations that are aggregated.
const (
	relReplace   = "m.replace"
	relThread    = "m.thread"
	relReference = "m.reference"
)

// Bundle adds to those events that have Related set what relates to them, as unsigned["m.relations"]: the latest edit,
// the state of the thread they begin, the events that refer to them. It takes nothing where no event has Related set;
// else one statement, the events that are not cached, and the same once more where there are threads, for what relates
// to their latest events.
//
// Spec: client-server API, "Aggregations of child events" (v1.19).
func (v *Views) Bundle(ctx context.Context, db storage.Querier, who Viewer, events []Event, f Format) error {
	return v.bundle(ctx, db, who, events, f, true)
}

func (v *Views) bundle(ctx context.Context, db storage.Querier, who Viewer, events []Event, f Format, threads bool) error {
	var nids []storage.EventNID
	for i := range events {
		if events[i].Related {
			nids = append(nids, events[i].NID)
		}
	}
	if len(nids) == 0 {
		return nil
	}
	me, err := v.store.UserNID(ctx, who.UserID)
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	rows, err := storage.Aggregations(ctx, db, nids, me, slices.Collect(maps.Keys(who.Ignored)))
	if err != nil {
		return fmt.Errorf("aggregate relations of %d events: %w", len(nids), err)
	}
	var wanted []storage.EventNID
	byNID := make(map[storage.EventNID]*storage.Aggregation, len(rows))
	for i := range rows {
		r := &rows[i]
		byNID[r.NID] = r
		if r.Edit != 0 {
			wanted = append(wanted, r.Edit)
		}
		if r.Latest != 0 && threads {
			wanted = append(wanted, r.Latest)
		}
	}
	children, err := v.children(ctx, db, who, wanted, f, threads)
	if err != nil {
		return err
	}
	for i := range events {
		if r := byNID[events[i].NID]; r != nil {
			events[i].Relations = aggregated(&events[i], r, children, who, f, threads, events[i].Sender() == who.UserID)
		}
	}
	return nil
}

// children reads the events that go into an aggregation and that the user may see.
func (v *Views) children(ctx context.Context, db storage.Querier, who Viewer, nids []storage.EventNID, f Format, threads bool) (map[storage.EventNID]*Event, error) {
	es, err := v.store.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("read %d related events: %w", len(nids), err)
	}
	found := make([]*store.Event, 0, len(es))
	for _, e := range es {
		if e != nil {
			found = append(found, e)
		}
	}
	vs, err := v.Visible(ctx, who, found)
	if err != nil {
		return nil, err
	}
	if threads {
		for i := range vs {
			vs[i].Related = true
		}
		if err := v.bundle(ctx, db, who, vs, f, false); err != nil {
			return nil, err
		}
	}
	out := make(map[storage.EventNID]*Event, len(vs))
	for i := range vs {
		out[vs[i].NID] = &vs[i]
	}
	return out, nil
}

func aggregated(e *Event, r *storage.Aggregation, children map[storage.EventNID]*Event, who Viewer, f Format, threads, began bool) json.RawMessage {
	var b []byte
	add := func(relType string) {
		if b == nil {
			b = append(b, '{')
		} else {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), relType...), `":`...)
	}
	if edit := children[r.Edit]; edit != nil && validEdit(e.Event, edit.Event) {
		add(relReplace)
		b = edit.Append(b, who, f)
	}
	if latest := children[r.Latest]; latest != nil && threads {
		add(relThread)
		b = append(b, `{"latest_event":`...)
		b = latest.Append(b, who, f)
		b = append(b, `,"count":`...)
		b = strconv.AppendInt(b, r.Replies, 10)
		b = append(b, `,"current_user_participated":`...)
		b = strconv.AppendBool(b, r.Mine || began)
		b = append(b, '}')
	}
	if len(r.References) > 0 {
		add(relReference)
		b = append(b, `{"chunk":[`...)
		for i, id := range r.References {
			if i > 0 {
				b = append(b, ',')
			}
			quoted, _ := json.Marshal(id) // a string cannot fail
			b = append(append(append(b, `{"event_id":`...), quoted...), '}')
		}
		b = append(b, `]}`...)
	}
	if b == nil {
		return nil
	}
	return append(b, '}')
}

// validEdit applies the rules for replacements that the database has not: the original is neither redacted nor an edit
// itself, and the edit says what the content is to be, which in an encrypted event nobody here can tell.
func validEdit(original, edit *store.Event) bool {
	if original.RedactedBecause != nil || gjson.GetBytes(original.Content(), `m\.relates_to.rel_type`).Str == relReplace {
		return false
	}
	return edit.Type() == "m.room.encrypted" || gjson.GetBytes(edit.Content(), `m\.new_content`).IsObject()
}
