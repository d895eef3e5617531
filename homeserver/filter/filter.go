// Package filter parses and evaluates the filters clients send with /sync, /messages, /context and /search.
//
// A filter is parsed once, validated, compiled and then immutable: all methods are pure and safe for concurrent use.
// The zero value of every type lets everything pass.
//
// Spec: client-server API, "Filtering" (v1.19).
package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// MaxListLength is how many entries one list of a filter may have. The specification names no limit; without one a
// stored filter would be a way to make every later sync slow.
const MaxListLength = 1000

// Formats of events in /sync.
const (
	// FormatClient is the default: the client event format.
	FormatClient = "client"
	// FormatFederation is the event as received over federation.
	FormatFederation = "federation"
)

// Filter is a whole filter, as /sync takes it and /user/{userId}/filter stores it.
type Filter struct {
	// Fields are the compiled event_fields. The zero value keeps all fields.
	Fields Fields
	// Format is FormatClient or FormatFederation.
	Format string
	// Presence, AccountData filter what belongs to no room.
	Presence, AccountData Events
	// Room filters what belongs to rooms.
	Room Room
}

// Room is the "room" part of a filter.
type Room struct {
	rooms, notRooms []string
	// IncludeLeave asks for rooms the user has left.
	IncludeLeave bool
	// State, Timeline, Ephemeral and AccountData apply after the lists of rooms of this part.
	State, Timeline, Ephemeral, AccountData Events
}

// Events is an EventFilter or a RoomEventFilter: the latter has all the former has. The keys only one endpoint reads
// are here too.
type Events struct {
	limit              *int
	types, notTypes    []pattern
	senders, notSender []string
	rooms, notRooms    []string
	containsURL        *bool
	relTypes           []string
	notRelTypes        []string

	// LazyLoadMembers asks to leave out membership events of people who sent nothing in the response.
	LazyLoadMembers bool
	// IncludeRedundantMembers asks to send membership events again that an earlier response had. It has no meaning
	// without LazyLoadMembers.
	IncludeRedundantMembers bool
	// UnreadThreadNotifications asks /sync for counts by thread.
	UnreadThreadNotifications bool
	// RelatedBySenders and RelatedByRelTypes, where not nil, let only events pass that another event relates to, sent
	// by one of these users or with one of these rel_types. Match cannot evaluate them: the caller asks the database.
	RelatedBySenders, RelatedByRelTypes []string
}

// Subject is what a filter looks at.
type Subject struct {
	// RoomID is "" for what belongs to no room.
	RoomID string
	// Type is the event type.
	Type string
	// Sender is the user id of the sender, "" where there is none (typing, receipts).
	Sender string
	// Content is the raw content object. It is read only by filters that ask for it.
	Content []byte
}

// Parse parses a filter as POST /user/{userId}/filter and the filter parameter of /sync take it.
//
// Errors: mxerr.NotJSON for anything but a JSON object, mxerr.BadJSON for keys of the wrong type or form.
func Parse(raw []byte) (*Filter, error) {
	var w wireFilter
	if err := decode(raw, &w); err != nil {
		return nil, err
	}
	f := &Filter{Format: FormatClient}
	var err error
	if f.Fields, err = CompileFields(w.EventFields); err != nil {
		return nil, err
	}
	switch w.EventFormat {
	case "", FormatClient:
	case FormatFederation:
		f.Format = FormatFederation
	default:
		return nil, bad("event_format must be client or federation")
	}
	if f.Room.rooms, err = roomIDs("room.rooms", w.Room.Rooms); err != nil {
		return nil, err
	}
	if f.Room.notRooms, err = roomIDs("room.not_rooms", w.Room.NotRooms); err != nil {
		return nil, err
	}
	f.Room.IncludeLeave = w.Room.IncludeLeave
	for _, part := range []struct {
		name string
		from *wireEvents
		to   *Events
	}{
		{"presence", &w.Presence, &f.Presence},
		{"account_data", &w.AccountData, &f.AccountData},
		{"room.state", &w.Room.State, &f.Room.State},
		{"room.timeline", &w.Room.Timeline, &f.Room.Timeline},
		{"room.ephemeral", &w.Room.Ephemeral, &f.Room.Ephemeral},
		{"room.account_data", &w.Room.AccountData, &f.Room.AccountData},
	} {
		if *part.to, err = part.from.compile(part.name + "."); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// ParseEvents parses a RoomEventFilter, as /messages, /context and /search take it. Errors: see Parse.
func ParseEvents(raw []byte) (*Events, error) {
	var w wireEvents
	if err := decode(raw, &w); err != nil {
		return nil, err
	}
	e, err := w.compile("")
	if err != nil {
		return nil, err
	}
	return &e, nil
}

type wireFilter struct {
	EventFields []string   `json:"event_fields"`
	EventFormat string     `json:"event_format"`
	Presence    wireEvents `json:"presence"`
	AccountData wireEvents `json:"account_data"`
	Room        struct {
		Rooms        []string   `json:"rooms"`
		NotRooms     []string   `json:"not_rooms"`
		IncludeLeave bool       `json:"include_leave"`
		State        wireEvents `json:"state"`
		Timeline     wireEvents `json:"timeline"`
		Ephemeral    wireEvents `json:"ephemeral"`
		AccountData  wireEvents `json:"account_data"`
	} `json:"room"`
}

type wireEvents struct {
	Limit                     *int     `json:"limit"`
	Types                     []string `json:"types"`
	NotTypes                  []string `json:"not_types"`
	Senders                   []string `json:"senders"`
	NotSenders                []string `json:"not_senders"`
	Rooms                     []string `json:"rooms"`
	NotRooms                  []string `json:"not_rooms"`
	ContainsURL               *bool    `json:"contains_url"`
	LazyLoadMembers           bool     `json:"lazy_load_members"`
	IncludeRedundantMembers   bool     `json:"include_redundant_members"`
	UnreadThreadNotifications bool     `json:"unread_thread_notifications"`
	RelatedBySenders          []string `json:"related_by_senders"`
	RelatedByRelTypes         []string `json:"related_by_rel_types"`
	// MSC3874, in its unstable form.
	RelTypes    []string `json:"org.matrix.msc3874.rel_types"`
	NotRelTypes []string `json:"org.matrix.msc3874.not_rel_types"`
}

func (w *wireEvents) compile(where string) (Events, error) {
	e := Events{
		limit:                     w.Limit,
		containsURL:               w.ContainsURL,
		relTypes:                  w.RelTypes,
		notRelTypes:               w.NotRelTypes,
		LazyLoadMembers:           w.LazyLoadMembers,
		IncludeRedundantMembers:   w.IncludeRedundantMembers,
		UnreadThreadNotifications: w.UnreadThreadNotifications,
		RelatedByRelTypes:         w.RelatedByRelTypes,
	}
	if e.limit != nil && *e.limit < 0 {
		return Events{}, bad(where + "limit must not be negative")
	}
	var errs [7]error
	e.types, errs[0] = patterns(where+"types", w.Types)
	e.notTypes, errs[1] = patterns(where+"not_types", w.NotTypes)
	e.senders, errs[2] = userIDs(where+"senders", w.Senders)
	e.notSender, errs[3] = userIDs(where+"not_senders", w.NotSenders)
	e.rooms, errs[4] = roomIDs(where+"rooms", w.Rooms)
	e.notRooms, errs[5] = roomIDs(where+"not_rooms", w.NotRooms)
	e.RelatedBySenders, errs[6] = userIDs(where+"related_by_senders", w.RelatedBySenders)
	for _, err := range errs {
		if err != nil {
			return Events{}, err
		}
	}
	for _, l := range [][]string{w.RelTypes, w.NotRelTypes, w.RelatedByRelTypes} {
		if err := checkList(where+"lists", l); err != nil {
			return Events{}, err
		}
	}
	return e, nil
}

func decode(raw []byte, into any) error {
	raw = []byte(strings.TrimSpace(string(raw)))
	if len(raw) == 0 || raw[0] != '{' || !json.Valid(raw) {
		return mxerr.NotJSON.WithMessage("The filter is not a JSON object")
	}
	if err := json.Unmarshal(raw, into); err != nil {
		msg := "The filter has a key of the wrong type"
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) && te.Field != "" {
			msg = fmt.Sprintf("The filter's %s has the wrong type", te.Field)
		}
		return mxerr.BadJSON.WithMessage(msg).Wrap(err)
	}
	return nil
}

func patterns(where string, list []string) ([]pattern, error) {
	if err := checkList(where, list); err != nil || list == nil {
		return nil, err
	}
	ps := make([]pattern, len(list))
	for i, s := range list {
		ps[i] = compilePattern(s)
	}
	return ps, nil
}

func userIDs(where string, list []string) ([]string, error) {
	if err := checkList(where, list); err != nil {
		return nil, err
	}
	for _, s := range list {
		if !id.IsUser(s) {
			return nil, bad(where + " has an entry that is not a user ID")
		}
	}
	return sorted(list), nil
}

func roomIDs(where string, list []string) ([]string, error) {
	if err := checkList(where, list); err != nil {
		return nil, err
	}
	for _, s := range list {
		if len(s) < 2 || s[0] != '!' || len(s) > id.MaxLength {
			return nil, bad(where + " has an entry that is not a room ID")
		}
	}
	return sorted(list), nil
}

// checkList holds a list to its length, and to what the database can compare.
func checkList(where string, list []string) error {
	if len(list) > MaxListLength {
		return bad(fmt.Sprintf("%s may have at most %d entries", where, MaxListLength))
	}
	for _, s := range list {
		if strings.ContainsRune(s, 0) {
			return bad(where + " must not have the character NUL")
		}
	}
	return nil
}

// sorted keeps nil (absent, everything passes) apart from empty (nothing passes).
func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

func bad(msg string) error { return mxerr.BadJSON.WithMessage("The filter's " + msg) }
