package sync

import (
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/requester"
)

// Bounds of a request of sliding sync.
const (
	// MaxSlidingLists and MaxSlidingSubscriptions bound the rules of one request (MSC4186).
	MaxSlidingLists         = 100
	MaxSlidingSubscriptions = 100
)

// SlidingRequest is one request of simplified sliding sync (MSC4186).
type SlidingRequest struct {
	// Requester is whose view is asked for. Required.
	Requester *requester.Requester
	// ConnID tells the connections of a device apart.
	ConnID string
	// Pos is that of the last response, or "" for a new connection.
	Pos string
	// Timeout bounds how long the request waits when there is nothing new. Zero answers at once, as does a request without
	// Pos.
	Timeout time.Duration
	// SetPresence is "online", "offline" or "unavailable". "" stands for "online".
	SetPresence string
	// Lists and Subscriptions, by room id, are the rules that say which rooms are wanted.
	Lists         map[string]SlidingList
	Subscriptions map[string]RoomConfig
	// The extensions, nil where they are not asked for.
	AccountData, Receipts, Typing *SlidingExtension
	// Unstable has the response take the form of org.matrix.simplified_msc3575, which clients spoke before MSC4186 was
	// final.
	Unstable bool
	// Stop, if not nil, ends the wait when it is closed.
	Stop <-chan struct{}
}

// SlidingList is a rule for the rooms of a range of the user's rooms, the most recently active first.
type SlidingList struct {
	RoomConfig
	// Ranges are pairs of indexes, both inclusive; nil stands for all.
	Ranges  [][2]int
	Filters SlidingFilters
}

// SlidingFilters narrow a list; nil stands for anything.
type SlidingFilters struct {
	IsDM, IsEncrypted, IsInvited *bool
	// Spaces are rooms one of which must name the room as a child.
	Spaces []string
	// RoomTypes and NotRoomTypes are room types, nil among them for rooms without one.
	RoomTypes, NotRoomTypes []*string
	Tags, NotTags           []string
}

// RoomConfig says what a response shows of a room.
type RoomConfig struct {
	TimelineLimit int
	RequiredState RequiredState
}

// RequiredState says which pieces of state a response shows.
type RequiredState struct {
	Include []StateElement `json:"i,omitempty"`
	Exclude []StateElement `json:"e,omitempty"`
	// LazyMembers leaves out members that are not named one by one, but for those who have to do with the timeline.
	LazyMembers bool `json:"l,omitempty"`
}

// StateElement matches pieces of state; nil matches anything.
type StateElement struct {
	Type     *string `json:"t,omitempty"`
	StateKey *string `json:"k,omitempty"`
}

// SlidingExtension says which rooms an extension is for: those that match the named lists and subscriptions. nil stands
// for all of them.
type SlidingExtension struct {
	Lists, Rooms []string
}

// SlidingResponse is the answer to a SlidingRequest. It is written once.
type SlidingResponse struct {
	// Pos is the position the response leads up to.
	Pos string

	write func(w io.Writer) error
}

// Write writes the response as JSON, piece by piece where it is long.
func (r *SlidingResponse) Write(w io.Writer) error { return r.write(w) }

func (e StateElement) matches(t event.Tuple) bool {
	return (e.Type == nil || *e.Type == t.Type) && (e.StateKey == nil || *e.StateKey == t.StateKey)
}

// named reports whether the element is one piece of state.
func (e StateElement) named() bool { return e.Type != nil && e.StateKey != nil }

func (r *RequiredState) matches(t event.Tuple) bool {
	if slices.ContainsFunc(r.Exclude, func(e StateElement) bool { return e.matches(t) }) {
		return false
	}
	return slices.ContainsFunc(r.Include, func(e StateElement) bool {
		return e.matches(t) && !(r.LazyMembers && t.Type == event.TypeMember && e.StateKey == nil)
	})
}

// allMembers reports whether every member is wanted.
func (r *RequiredState) allMembers() bool {
	return r.matches(event.Tuple{Type: event.TypeMember, StateKey: "@:"}) // a user id there is not
}

// wanted is what the rules for a room together want of its state.
type wanted []RequiredState

func (w wanted) matches(t event.Tuple) bool {
	return slices.ContainsFunc(w, func(r RequiredState) bool { return r.matches(t) })
}

func (w wanted) allMembers() bool {
	return slices.ContainsFunc(w, func(r RequiredState) bool { return r.allMembers() })
}

// lazyMembers reports whether members come with the timeline: any rule says so, and none wants all of them.
func (w wanted) lazyMembers() bool {
	return slices.ContainsFunc(w, func(r RequiredState) bool { return r.LazyMembers }) && !w.allMembers()
}

// wild reports whether more than single pieces of state that are no members are wanted.
func (w wanted) wild() bool {
	return slices.ContainsFunc(w, func(r RequiredState) bool {
		return slices.ContainsFunc(r.Include, func(e StateElement) bool {
			return !e.named() && (e.Type == nil || *e.Type != event.TypeMember)
		})
	})
}

// named returns the single pieces of state that are wanted.
func (w wanted) named() []event.Tuple {
	var out []event.Tuple
	for _, r := range w {
		for _, e := range r.Include {
			switch {
			case e.named():
				out = append(out, event.Tuple{Type: *e.Type, StateKey: *e.StateKey})
			case e.Type == nil && e.StateKey != nil && r.LazyMembers:
				out = append(out, event.Tuple{Type: event.TypeMember, StateKey: *e.StateKey})
			}
		}
	}
	return out
}

// add adds what another rule wants.
func (w wanted) add(r RequiredState) wanted {
	if len(r.Include) == 0 && !r.LazyMembers || w.has(r) {
		return w
	}
	return append(w, r)
}

func (w wanted) has(r RequiredState) bool {
	key := r.key()
	return slices.ContainsFunc(w, func(x RequiredState) bool { return x.key() == key })
}

// beyond reports whether w may want something that old does not.
func (w wanted) beyond(old wanted) bool {
	return slices.ContainsFunc(w, func(r RequiredState) bool { return !old.has(r) })
}

// key returns a text that differs where what is wanted does.
func (r RequiredState) key() string {
	b, _ := json.Marshal(r) // strings always encode
	return string(b)
}
