package writer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// The calls between writers carry events by the thousand a second, so they are encoded as plain fields: numbers as
// varints, strings behind their length. A first byte tells the version; both ends of a call may differ in age by one
// release, so fields are only ever added at the end of a list's elements, under a new version.
const codecVersion = 2

var errCodec = errors.New("malformed message between writers")

type encoder struct{ b []byte }

func (e *encoder) int(n int64) { e.b = binary.AppendVarint(e.b, n) }
func (e *encoder) str(s string) {
	e.b = binary.AppendUvarint(e.b, uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) bytes(s []byte) {
	e.b = binary.AppendUvarint(e.b, uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// decoder reads what an encoder wrote. Byte slices share memory with the message.
type decoder struct {
	b   []byte
	err error
}

func newDecoder(data []byte) *decoder {
	d := &decoder{b: data}
	if len(data) == 0 || data[0] != codecVersion {
		d.err = fmt.Errorf("%w: unknown version", errCodec)
		return d
	}
	d.b = data[1:]
	return d
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errCodec
	}
	d.b = nil
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > uint64(len(d.b)-n) {
		d.fail()
		return nil
	}
	s := d.b[n : n+int(v) : n+int(v)]
	d.b = d.b[n+int(v):]
	return s
}

func (d *decoder) str() string { return string(d.bytes()) }

func (d *decoder) bool() bool {
	if len(d.b) == 0 {
		d.fail()
		return false
	}
	v := d.b[0] != 0
	d.b = d.b[1:]
	return v
}

// len reads the number of elements that follow, each of which takes at least one byte.
func (d *decoder) len() int {
	n := d.int()
	if n < 0 || n > int64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail()
	}
	return d.err
}

func (e *encoder) strs(list []string) {
	e.int(int64(len(list)))
	for _, s := range list {
		e.str(s)
	}
}

func (d *decoder) strs() []string {
	list := make([]string, d.len())
	for i := range list {
		list[i] = d.str()
	}
	return list
}

func (e *encoder) drafts(drafts []Draft) {
	e.int(int64(len(drafts)))
	for i := range drafts {
		d := &drafts[i]
		e.str(d.Type)
		e.bool(d.StateKey != nil)
		if d.StateKey != nil {
			e.str(*d.StateKey)
		}
		e.str(d.Sender)
		e.bytes(d.Content)
		e.str(d.Redacts)
		e.int(d.OriginServerTS)
		e.str(d.DeviceID)
		e.str(d.TxnID)
		e.bool(d.SkipUnchanged)
	}
}

func (d *decoder) drafts() []Draft {
	drafts := make([]Draft, d.len())
	for i := range drafts {
		f := &drafts[i]
		f.Type = d.str()
		if d.bool() {
			sk := d.str()
			f.StateKey = &sk
		}
		f.Sender = d.str()
		f.Content = d.bytes()
		f.Redacts = d.str()
		f.OriginServerTS = d.int()
		f.DeviceID = d.str()
		f.TxnID = d.str()
		f.SkipUnchanged = d.bool()
	}
	return drafts
}

func (e *encoder) results(results []Result) {
	e.int(int64(len(results)))
	for i := range results {
		r := &results[i]
		e.str(r.EventID)
		e.int(int64(r.NID))
		e.str(r.Writer)
		e.bool(r.Duplicate)
		e.bool(r.Rejected)
		e.bool(r.SoftFailed)
	}
}

func (d *decoder) results() []Result {
	results := make([]Result, d.len())
	for i := range results {
		r := &results[i]
		r.EventID = d.str()
		r.NID = storage.EventNID(d.int())
		r.Writer = d.str()
		r.Duplicate = d.bool()
		r.Rejected = d.bool()
		r.SoftFailed = d.bool()
	}
	return results
}

func newEncoder(dst []byte) *encoder { return &encoder{append(dst, codecVersion)} }

type sendCodec struct{}

func (sendCodec) Append(dst []byte, r sendRequest) ([]byte, error) {
	e := newEncoder(dst)
	e.str(r.roomID)
	e.drafts(r.drafts)
	return e.b, nil
}

func (sendCodec) Decode(data []byte) (sendRequest, error) {
	d := newDecoder(data)
	r := sendRequest{roomID: d.str(), drafts: d.drafts()}
	return r, d.end()
}

type resultsCodec struct{}

func (resultsCodec) Append(dst []byte, r []Result) ([]byte, error) {
	e := newEncoder(dst)
	e.results(r)
	return e.b, nil
}

func (resultsCodec) Decode(data []byte) ([]Result, error) {
	d := newDecoder(data)
	r := d.results()
	return r, d.end()
}

type createCodec struct{}

func (createCodec) Append(dst []byte, r createRequest) ([]byte, error) {
	e := newEncoder(dst)
	e.str(r.version)
	e.drafts(r.drafts)
	return e.b, nil
}

func (createCodec) Decode(data []byte) (createRequest, error) {
	d := newDecoder(data)
	r := createRequest{version: d.str(), drafts: d.drafts()}
	return r, d.end()
}

type createReplyCodec struct{}

func (createReplyCodec) Append(dst []byte, r createReply) ([]byte, error) {
	e := newEncoder(dst)
	e.str(r.roomID)
	e.int(int64(r.roomNID))
	e.results(r.results)
	return e.b, nil
}

func (createReplyCodec) Decode(data []byte) (createReply, error) {
	d := newDecoder(data)
	r := createReply{roomID: d.str(), roomNID: storage.RoomNID(d.int()), results: d.results()}
	return r, d.end()
}

type receiveCodec struct{}

func (receiveCodec) Append(dst []byte, r receiveRequest) ([]byte, error) {
	e := newEncoder(dst)
	e.str(r.roomID)
	e.str(r.version)
	e.int(int64(len(r.events)))
	for i := range r.events {
		ev := &r.events[i]
		e.str(ev.Event.ID())
		e.bytes(ev.Event.JSON())
		e.bool(ev.Anew)
		e.bool(ev.History)
		e.bool(ev.Relay)
		e.bool(ev.Partial != nil)
		if ev.Partial != nil {
			e.str(ev.Partial.Via)
			e.strs(ev.Partial.Servers)
		}
		e.bool(ev.StateBefore != nil)
		if ev.StateBefore != nil {
			e.strs(ev.StateBefore)
		}
	}
	return e.b, nil
}

func (receiveCodec) Decode(data []byte) (receiveRequest, error) {
	d := newDecoder(data)
	r := receiveRequest{roomID: d.str(), version: d.str()}
	v, ok := event.LookupVersion(r.version)
	if d.err == nil && !ok {
		return r, fmt.Errorf("%w: room version %q", errCodec, r.version)
	}
	r.events = make([]Received, d.len())
	for i := range r.events {
		id, raw := d.str(), d.bytes()
		if d.err != nil {
			return r, d.err
		}
		ev, err := event.Load(v, id, raw)
		if err != nil {
			return r, fmt.Errorf("event %s: %w", id, err)
		}
		r.events[i].Event = ev
		r.events[i].Anew = d.bool()
		r.events[i].History = d.bool()
		r.events[i].Relay = d.bool()
		if d.bool() {
			r.events[i].Partial = &Partial{Via: d.str(), Servers: d.strs()}
		}
		if d.bool() {
			r.events[i].StateBefore = d.strs()
		}
	}
	return r, d.end()
}

type receiveReplyCodec struct{}

func (receiveReplyCodec) Append(dst []byte, r receiveReply) ([]byte, error) {
	e := newEncoder(dst)
	e.results(r.results)
	e.bool(r.failed != nil)
	if r.failed != nil {
		body, err := json.Marshal(r.failed)
		if err != nil {
			return nil, fmt.Errorf("encode error: %w", err)
		}
		e.int(int64(r.failed.Status))
		e.bytes(body)
	}
	return e.b, nil
}

func (receiveReplyCodec) Decode(data []byte) (receiveReply, error) {
	d := newDecoder(data)
	r := receiveReply{results: d.results()}
	if d.bool() {
		r.failed = &rpc.Error{Status: int(d.int())}
		if body := d.bytes(); d.err == nil {
			if err := json.Unmarshal(body, r.failed); err != nil {
				return r, fmt.Errorf("%w: %w", errCodec, err)
			}
		}
	}
	return r, d.end()
}

type outOfBandCodec struct{}

func (outOfBandCodec) Append(dst []byte, r outOfBandRequest) ([]byte, error) {
	e := newEncoder(dst)
	e.str(r.version)
	e.str(r.event.Event.ID())
	e.bytes(r.event.Event.JSON())
	e.bytes(r.event.Stripped)
	return e.b, nil
}

func (outOfBandCodec) Decode(data []byte) (outOfBandRequest, error) {
	d := newDecoder(data)
	r := outOfBandRequest{version: d.str()}
	v, ok := event.LookupVersion(r.version)
	if d.err == nil && !ok {
		return r, fmt.Errorf("%w: room version %q", errCodec, r.version)
	}
	id, raw := d.str(), d.bytes()
	if stripped := d.bytes(); len(stripped) > 0 {
		r.event.Stripped = stripped
	}
	if err := d.end(); err != nil {
		return r, err
	}
	ev, err := event.Load(v, id, raw)
	if err != nil {
		return r, fmt.Errorf("event %s: %w", id, err)
	}
	r.event.Event = ev
	return r, nil
}
