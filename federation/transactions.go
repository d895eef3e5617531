package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

const (
	// MaxPDUs and MaxEDUs bound a transaction (server-server API, "Transactions").
	MaxPDUs = 50
	MaxEDUs = 100

	// maxTransactionBody bounds the body of a transaction: 50 events of the greatest size, and EDUs.
	maxTransactionBody = 8 << 20
	maxTxnID           = 255
	// txnTimeout bounds the work on a transaction before it is answered, most of which is waiting for keys.
	txnTimeout = time.Minute
)

// Transactions is the group of what other servers push: events, and what is no event.
//
// Spec: server-server API, "Transactions" (v1.19).
func Transactions(in *Inbound) homeserver.Group {
	send := in.endpoint(http.MethodPut, "/send/{txnId}", in.send, "v1")
	send.MaxBody = maxTransactionBody
	return homeserver.Group{
		Name:      "federation_send",
		Affinity:  homeserver.ByOrigin,
		Resource:  homeserver.ResourceFederation,
		Endpoints: []homeserver.Endpoint{send},
	}
}

// transaction is the body of /send.
type transaction struct {
	Origin string            `json:"origin"`
	PDUs   []json.RawMessage `json:"pdus"`
	EDUs   []json.RawMessage `json:"edus"`
}

// pduResult says what became of one event.
type pduResult struct {
	Error string `json:"error,omitempty"`
}

func (in *Inbound) send(ctx context.Context, r *homeserver.Request) (any, error) {
	txnID := r.Param("txnId")
	if txnID == "" || len(txnID) > maxTxnID {
		return nil, mxerr.InvalidParam.WithMessage("Invalid transaction ID")
	}
	var txn transaction
	if err := r.Decode(&txn); err != nil {
		return nil, err
	}
	switch {
	case txn.Origin != "" && txn.Origin != r.Origin():
		return nil, mxerr.Forbidden.WithMessage("The transaction is of another server")
	case len(txn.PDUs) > MaxPDUs:
		return nil, mxerr.InvalidParam.WithMessage(fmt.Sprintf("A transaction may have at most %d PDUs", MaxPDUs))
	case len(txn.EDUs) > MaxEDUs:
		return nil, mxerr.InvalidParam.WithMessage(fmt.Sprintf("A transaction may have at most %d EDUs", MaxEDUs))
	}
	res, err, _ := in.flight.Do(r.Origin()+"\x00"+txnID, func() (any, error) {
		// A second request may be waiting for the same when the first has gone.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), txnTimeout)
		defer cancel()
		return in.process(ctx, r.Origin(), txnID, &txn)
	})
	return res, err
}

// process takes in a transaction: what it holds is checked, kept in the database, and then answered for.
func (in *Inbound) process(ctx context.Context, origin, txnID string, txn *transaction) (json.RawMessage, error) {
	rooms, err := in.roomsOf(ctx, txn.PDUs)
	if err != nil {
		return nil, err
	}
	nids := make([]storage.RoomNID, 0, len(rooms))
	for _, r := range rooms {
		nids = append(nids, r.NID)
	}
	known, err := storage.LookupServerTxn(ctx, in.cfg.DB, origin, txnID, nids, in.cfg.MaxStagedPerOrigin, in.cfg.MaxStagedPerRoom)
	if err != nil {
		return nil, err
	}
	if known.Response != nil {
		return known.Response, nil
	}
	if known.Staged >= in.cfg.MaxStagedPerOrigin || len(known.Full) > 0 {
		// It comes again, and then there is room.
		return nil, mxerr.RetryAfter(in.cfg.ClaimTTL)
	}
	events, results, err := in.checkPDUs(ctx, origin, rooms, txn.PDUs)
	if err != nil {
		return nil, err
	}
	in.receiveEDUs(ctx, origin, txn.EDUs)
	response, err := json.Marshal(map[string]any{"pdus": results})
	if err != nil {
		return nil, fmt.Errorf("encode response: %w", err)
	}
	stored := storage.ServerTxn{Origin: origin, ID: txnID, ReceivedTS: in.cfg.Now().UnixMilli(), Response: response}
	claims, err := storage.StageTxn(ctx, in.cfg.DB, stored, events, in.cfg.Instance, in.cfg.ClaimTTL)
	if err != nil {
		return nil, err
	}
	in.queue.claimed(claims)
	return response, nil
}

// roomsOf finds the rooms of events, by id, those that are known.
func (in *Inbound) roomsOf(ctx context.Context, pdus []json.RawMessage) (map[string]*store.Room, error) {
	var ids []string
	for _, raw := range pdus {
		if id := roomIDOf(raw); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	found, err := in.store.Rooms(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("find rooms of a transaction: %w", err)
	}
	rooms := make(map[string]*store.Room, len(ids))
	for i, r := range found {
		if r != nil {
			rooms[ids[i]] = r
		}
	}
	return rooms, nil
}

// roomIDOf returns the room id of an event that is not parsed yet, "" if there is none that could be stored.
func roomIDOf(raw json.RawMessage) string {
	v := gjson.GetBytes(raw, "room_id")
	if v.Type != gjson.String || len(v.Str) > event.MaxFieldBytes || strings.ContainsRune(v.Str, 0) {
		return ""
	}
	return strings.ToValidUTF8(v.Str, "�")
}

// checkedPDU is an event of a transaction, or why it is none.
type checkedPDU struct {
	id     string
	event  *event.Event
	room   *store.Room
	err    error
	unseen bool // not to be answered for, as it has no id
}

// checkPDUs checks the events of a transaction by themselves. It returns those to be written, and what to answer.
//
// An event that is in order here may still be dropped or rejected later: that is between this server and the room.
func (in *Inbound) checkPDUs(ctx context.Context, origin string, rooms map[string]*store.Room, pdus []json.RawMessage) ([]storage.StagedEvent, map[string]pduResult, error) {
	places := make(map[string]error, len(rooms))
	for id, r := range rooms {
		err := in.acceptsFrom(ctx, r, origin)
		if err != nil && !refused(err) {
			return nil, nil, err
		}
		places[id] = err
	}
	checked := make([]checkedPDU, len(pdus))
	eg, ectx := errgroup.WithContext(ctx)
	eg.SetLimit(verifyWorkers)
	for i, raw := range pdus {
		eg.Go(func() error {
			checked[i] = in.checkPDU(ectx, raw, rooms, places)
			return ectx.Err()
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, nil, err
	}
	var staged []storage.StagedEvent
	results := make(map[string]pduResult, len(pdus))
	for i := range checked {
		c := &checked[i]
		if c.err != nil {
			in.log.Info().Err(c.err).Str("origin", origin).Str("event_id", c.id).Msg("event of another server refused")
		}
		if c.unseen {
			continue
		}
		if _, twice := results[c.id]; twice {
			continue
		}
		var res pduResult
		if c.err != nil {
			res.Error = "Refused"
			if mx, ok := mxerr.As(c.err); ok {
				res.Error = mx.Message
			}
		} else if c.event != nil {
			staged = append(staged, storage.StagedEvent{RoomNID: c.room.NID, EventID: c.id, JSON: c.event.JSON()})
		}
		results[c.id] = res
	}
	return staged, results, nil
}

// acceptsFrom returns why events of a server for a room are not wanted.
func (in *Inbound) acceptsFrom(ctx context.Context, r *store.Room, origin string) error {
	here, err := in.store.HasServer(ctx, r.NID, in.cfg.ServerName)
	if err != nil {
		return err
	}
	if !here {
		return errUnknownRoom
	}
	return in.checkACL(ctx, r, origin)
}

func (in *Inbound) checkPDU(ctx context.Context, raw json.RawMessage, rooms map[string]*store.Room, places map[string]error) checkedPDU {
	roomID := roomIDOf(raw)
	r := rooms[roomID]
	if r == nil {
		return checkedPDU{unseen: true, err: errUnknownRoom}
	}
	e, err := parseEvent(r.Version, raw)
	if err != nil {
		return checkedPDU{unseen: true, err: err}
	}
	c := checkedPDU{id: e.ID(), event: e, room: r}
	switch {
	case places[roomID] != nil && !(errors.Is(places[roomID], errUnknownRoom) && in.endsInvite(e)):
		c.err = places[roomID]
	case e.RoomID() != roomID:
		c.err = mxerr.InvalidParam.WithMessage("The event is of another room")
	case e.Type() == event.TypeCreate:
		c.err = mxerr.InvalidParam.WithMessage("A room is made once")
	default:
		c.err = in.ingest.verify(ctx, e)
	}
	return c
}

// endsInvite reports whether an event takes back an invite of a user of this server, or turns down their knock.
func (in *Inbound) endsInvite(e *event.Event) bool {
	user, ok := e.StateKey()
	return ok && e.Type() == event.TypeMember && in.store.IsLocal(user) && !in.store.IsLocal(e.Sender()) &&
		(e.Membership() == event.MembershipLeave || e.Membership() == event.MembershipBan)
}
