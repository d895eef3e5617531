package replication

import (
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Position says how far a stream has been read or written: one number per writing
// instance, stored as a floor that every writer has reached plus the writers that are
// ahead of it, and the epoch of the log that the numbers count in.
//
// It is an immutable value: methods return a new Position and never change the receiver,
// so one may be shared between goroutines freely. The zero Position is the start of a
// stream: nothing read, epoch 0. Positions hold slices, so compare them with Equal.
type Position struct {
	epoch int64
	floor int64
	ahead []writerPos // sorted by writer; every id is above floor
}

type writerPos struct {
	writer string
	id     int64
}

// NewPosition returns the position at which every writer stands at floor.
// A negative floor counts as 0.
func NewPosition(floor int64) Position {
	return Position{floor: max(floor, 0)}
}

// PositionOf returns the position of exactly the given writers: the floor is the lowest
// of them. The map must hold every writer of the stream, since whoever is not in it is
// taken to stand at the floor. An empty map gives the zero Position.
func PositionOf(epoch int64, writers map[string]int64) Position {
	p := Position{epoch: max(epoch, 0)}
	first := true
	for _, id := range writers {
		id = max(id, 0)
		if first || id < p.floor {
			p.floor, first = id, false
		}
	}
	for w, id := range writers {
		if id > p.floor {
			p.ahead = append(p.ahead, writerPos{w, id})
		}
	}
	sort.Slice(p.ahead, func(i, j int) bool { return p.ahead[i].writer < p.ahead[j].writer })
	return p
}

// Epoch numbers the log that the position counts in. It changes when the log was lost or
// restored, so positions of different epochs cannot be compared.
func (p Position) Epoch() int64 { return p.epoch }

// WithEpoch returns the position in another epoch. A negative epoch counts as 0.
func (p Position) WithEpoch(epoch int64) Position {
	p.epoch = max(epoch, 0)
	return p
}

// Floor is the number that every writer has reached.
func (p Position) Floor() int64 { return p.floor }

// Max is the highest number that any writer has reached.
func (p Position) Max() int64 {
	m := p.floor
	for _, a := range p.ahead {
		m = max(m, a.id)
	}
	return m
}

// Get is the number that writer has reached: its own, or the floor when none is known.
func (p Position) Get(writer string) int64 {
	for _, a := range p.ahead {
		if a.writer == writer {
			return a.id
		}
	}
	return p.floor
}

// Covers reports whether the row that writer wrote with the given id lies at or below the
// position, that is, has been seen by whoever holds it.
func (p Position) Covers(writer string, id int64) bool { return id <= p.Get(writer) }

// IsZero reports whether p is the start of the stream in epoch 0.
func (p Position) IsZero() bool { return p.epoch == 0 && p.floor == 0 && len(p.ahead) == 0 }

// IsLevel reports whether all writers stand at the floor, so that the text form is a plain
// number.
func (p Position) IsLevel() bool { return len(p.ahead) == 0 }

// Writers returns the writers that are ahead of the floor with their numbers, as a copy.
func (p Position) Writers() map[string]int64 {
	m := make(map[string]int64, len(p.ahead))
	for _, a := range p.ahead {
		m[a.writer] = a.id
	}
	return m
}

// Advance returns the position with writer moved up to id. It never moves a writer back
// and never moves the floor; see Level.
func (p Position) Advance(writer string, id int64) Position {
	if id <= p.Get(writer) {
		return p
	}
	i := sort.Search(len(p.ahead), func(i int) bool { return p.ahead[i].writer >= writer })
	ahead := make([]writerPos, 0, len(p.ahead)+1)
	ahead = append(ahead, p.ahead[:i]...)
	ahead = append(ahead, writerPos{writer, id})
	if i < len(p.ahead) && p.ahead[i].writer == writer {
		i++
	}
	p.ahead = append(ahead, p.ahead[i:]...)
	return p
}

// Level raises the floor to the lowest number among the named writers, who must be all the
// writers of the stream: a row of an unnamed one below the new floor counts as seen.
// Without names it returns p.
func (p Position) Level(writers ...string) Position {
	if len(writers) == 0 {
		return p
	}
	floor := p.Get(writers[0])
	for _, w := range writers[1:] {
		floor = min(floor, p.Get(w))
	}
	return p.raise(floor)
}

// raise returns p with a floor of at least floor.
func (p Position) raise(floor int64) Position {
	if floor <= p.floor {
		return p
	}
	p.floor = floor
	var ahead []writerPos
	for _, a := range p.ahead {
		if a.id > floor {
			ahead = append(ahead, a)
		}
	}
	p.ahead = ahead
	return p
}

// Merge returns the lowest position that is at least p and at least o. Of positions of
// different epochs it returns the one with the higher epoch.
func (p Position) Merge(o Position) Position {
	if p.epoch != o.epoch {
		if o.epoch > p.epoch {
			return o
		}
		return p
	}
	m := p.raise(o.floor)
	for _, a := range o.ahead {
		m = m.Advance(a.writer, a.id)
	}
	return m
}

// AtLeast reports whether everything that o covers is covered by p too. Positions of
// different epochs are never at least one another, but every position is at least the
// zero one.
func (p Position) AtLeast(o Position) bool {
	if o.IsZero() {
		return true
	}
	if p.epoch != o.epoch || p.floor < o.floor {
		// A floor below o's leaves some writer, if only a future one, behind. A position
		// whose listed writers are all ahead still is not proof for the unlisted ones.
		return false
	}
	for _, a := range o.ahead {
		if p.Get(a.writer) < a.id {
			return false
		}
	}
	return true
}

// Equal reports whether p and o cover the same rows of the same epoch.
func (p Position) Equal(o Position) bool {
	if p.epoch != o.epoch || p.floor != o.floor || len(p.ahead) != len(o.ahead) {
		return false
	}
	for i, a := range p.ahead {
		if o.ahead[i] != a {
			return false
		}
	}
	return true
}

// String is the position for logs and people, with writers by name: "57", or
// "55~persister1.57" when persister1 stands at 57 and everyone else at 55, with the epoch
// in front when it is not 0: "2-57". For tokens use Encode.
func (p Position) String() string {
	b := p.appendHead(nil)
	for _, a := range p.ahead {
		b = append(b, '~')
		b = append(b, a.writer...)
		b = append(b, '.')
		b = strconv.AppendInt(b, a.id, 10)
	}
	return string(b)
}

func (p Position) appendHead(b []byte) []byte {
	if p.epoch != 0 {
		b = strconv.AppendInt(b, p.epoch, 10)
		b = append(b, '-')
	}
	return strconv.AppendInt(b, p.floor, 10)
}

// WriterIDs gives writers the small numbers that stand for them in the text form of a
// position. The numbers must never change their meaning, since clients keep tokens for
// years: storage keeps them in a table, tests use NewWriterIDs.
type WriterIDs interface {
	// WriterID returns the number of a writer, and false when it has none.
	WriterID(name string) (int, bool)
	// WriterName returns the writer of a number, and false when there is none.
	WriterName(id int) (string, bool)
}

// UnknownWriterError says that a WriterIDs did not know a writer. Exactly one of the
// fields is set. Whoever keeps the ids may load them anew and try again.
type UnknownWriterError struct {
	Name string // writer without a number
	ID   int    // number without a writer
}

// Error implements error.
func (e *UnknownWriterError) Error() string {
	if e.Name != "" {
		return fmt.Sprintf("stream writer %q has no id", e.Name)
	}
	return fmt.Sprintf("no stream writer has id %d", e.ID)
}

// Encode is the text form of the position for tokens that leave the server. It is made of
// digits, '.', '~' and '-' only, so it may stand in a URL and between '_' in a sync token:
//
//	[epoch "-"] floor { "~" writer-id "." (position - floor) }
//
// with the writers in ascending order of id. Level writers give a plain number. It returns
// an *UnknownWriterError when ids lacks a writer that is ahead of the floor; ids may be nil
// when the position is level.
func (p Position) Encode(ids WriterIDs) (string, error) {
	b, err := p.Append(nil, ids)
	return string(b), err
}

// Append appends the text form to b; see Encode.
func (p Position) Append(b []byte, ids WriterIDs) ([]byte, error) {
	b = p.appendHead(b)
	if len(p.ahead) == 0 {
		return b, nil
	}
	type entry struct {
		id    int
		delta int64
	}
	entries := make([]entry, 0, 8)
	for _, a := range p.ahead {
		var id int
		ok := false
		if ids != nil {
			id, ok = ids.WriterID(a.writer)
		}
		if !ok {
			return b, &UnknownWriterError{Name: a.writer}
		}
		entries = append(entries, entry{id, a.id - p.floor})
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].id < entries[j].id })
	for _, e := range entries {
		b = append(b, '~')
		b = strconv.AppendInt(b, int64(e.id), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, e.delta, 10)
	}
	return b, nil
}

// MaxTextWriters bounds the writers in a text form that ParsePosition accepts.
const MaxTextWriters = 1024

// ParsePosition reads what Encode wrote. The text comes from clients: anything that Encode
// could not have written is an error (a sign, a leading zero, an overflow, writers out of
// order or twice), and a writer id that ids does not know is an *UnknownWriterError.
// ids may be nil, which knows nobody.
func ParsePosition(text string, ids WriterIDs) (Position, error) {
	p, err := parsePosition(text, ids)
	if err != nil {
		return Position{}, fmt.Errorf("parse position %.64q: %w", text, err)
	}
	return p, nil
}

func parsePosition(text string, ids WriterIDs) (Position, error) {
	var p Position
	head, rest, more := strings.Cut(text, "~")
	if e, floor, ok := strings.Cut(head, "-"); ok {
		epoch, err := parseNumber(e)
		if err != nil {
			return p, fmt.Errorf("epoch: %w", err)
		}
		if epoch == 0 {
			return p, fmt.Errorf("epoch: 0 is never written")
		}
		p.epoch, head = epoch, floor
	}
	floor, err := parseNumber(head)
	if err != nil {
		return p, fmt.Errorf("floor: %w", err)
	}
	p.floor = floor
	last := int64(-1)
	for more {
		var part string
		part, rest, more = strings.Cut(rest, "~")
		idText, deltaText, ok := strings.Cut(part, ".")
		if !ok {
			return p, fmt.Errorf("writer %q has no position", part)
		}
		id, err := parseNumber(idText)
		if err != nil {
			return p, fmt.Errorf("writer id: %w", err)
		}
		if id > 1<<31-1 {
			return p, fmt.Errorf("writer id %d is too large", id)
		}
		if id <= last {
			return p, fmt.Errorf("writer id %d is out of order", id)
		}
		last = id
		delta, err := parseNumber(deltaText)
		if err != nil {
			return p, fmt.Errorf("position of writer %d: %w", id, err)
		}
		if delta == 0 || p.floor+delta < p.floor {
			return p, fmt.Errorf("position of writer %d is out of range", id)
		}
		if len(p.ahead) == MaxTextWriters {
			return p, fmt.Errorf("more than %d writers", MaxTextWriters)
		}
		var name string
		known := false
		if ids != nil {
			name, known = ids.WriterName(int(id))
		}
		if !known {
			return p, &UnknownWriterError{ID: int(id)}
		}
		p.ahead = append(p.ahead, writerPos{name, p.floor + delta})
	}
	sort.Slice(p.ahead, func(i, j int) bool { return p.ahead[i].writer < p.ahead[j].writer })
	for i := 1; i < len(p.ahead); i++ {
		if p.ahead[i].writer == p.ahead[i-1].writer {
			return p, fmt.Errorf("writer %q has two ids", p.ahead[i].writer)
		}
	}
	return p, nil
}

// parseNumber reads an unsigned decimal number below 2^63 without sign or leading zeros.
func parseNumber(s string) (int64, error) {
	if s == "" {
		return 0, fmt.Errorf("missing number")
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("number %.32q has a leading zero", s)
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%.32q is not a number", s)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number %.32q is out of range", s)
	}
	return n, nil
}

type positionJSON struct {
	Epoch   int64            `json:"epoch,omitempty"`
	Floor   int64            `json:"floor"`
	Writers map[string]int64 `json:"writers,omitempty"`
}

// MarshalJSON writes the position with its writers by name, for use between processes of
// one server: {"epoch":2,"floor":55,"writers":{"persister1":57}}.
func (p Position) MarshalJSON() ([]byte, error) {
	j := positionJSON{Epoch: p.epoch, Floor: p.floor}
	if len(p.ahead) > 0 {
		j.Writers = p.Writers()
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *Position) UnmarshalJSON(data []byte) error {
	var j positionJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("parse position: %w", err)
	}
	if j.Epoch < 0 || j.Floor < 0 {
		return fmt.Errorf("parse position: negative number")
	}
	q := Position{epoch: j.Epoch, floor: j.Floor}
	for w, id := range j.Writers {
		if id > j.Floor {
			q.ahead = append(q.ahead, writerPos{w, id})
		}
	}
	sort.Slice(q.ahead, func(i, k int) bool { return q.ahead[i].writer < q.ahead[k].writer })
	*p = q
	return nil
}
