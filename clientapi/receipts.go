package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/receipts"
)

// Receipts is the group of read receipts and read markers.
//
// Spec: client-server API, "Receipts", "Read and unread markers" (v1.19).
func Receipts(svc *receipts.Service) homeserver.Group {
	g := &receiptsGroup{svc}
	return homeserver.Group{
		Name:     "receipts",
		Affinity: homeserver.ByRoom,
		Stream:   "receipts",
		Endpoints: []homeserver.Endpoint{
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/rooms/{roomId}/receipt/{receiptType}/{eventId}", Versions: legacyVersions(),
				Auth: homeserver.AuthUser, MaxBody: 16 << 10, Handle: g.receipt,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/rooms/{roomId}/read_markers", Versions: legacyVersions(),
				Auth: homeserver.AuthUser, MaxBody: 16 << 10, Handle: g.markers,
			},
		},
	}
}

type receiptsGroup struct{ svc *receipts.Service }

func (g *receiptsGroup) receipt(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		ThreadID json.RawMessage `json:"thread_id"`
	}
	// Clients of before threads send no body.
	if err := r.DecodeOptional(&req); err != nil {
		return nil, err
	}
	m := receipts.Marker{Type: r.Param("receiptType"), EventID: r.Param("eventId")}
	if req.ThreadID != nil {
		var id string
		if string(req.ThreadID) == "null" || json.Unmarshal(req.ThreadID, &id) != nil {
			return nil, mxerr.InvalidParam.WithMessage("thread_id field must be a non-empty string")
		}
		m.ThreadID = &id
	}
	return nil, g.svc.Set(ctx, r.Requester(), r.Param("roomId"), m)
}

func (g *receiptsGroup) markers(ctx context.Context, r *homeserver.Request) (any, error) {
	var req map[string]json.RawMessage
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	var markers []receipts.Marker
	for _, kind := range []string{receipts.FullyRead, receipts.Read, receipts.ReadPrivate} {
		raw, ok := req[kind]
		if !ok || string(raw) == "null" {
			continue
		}
		var eventID string
		if json.Unmarshal(raw, &eventID) != nil {
			return nil, mxerr.InvalidParam.WithMessage("Invalid event ID for " + kind)
		}
		markers = append(markers, receipts.Marker{Type: kind, EventID: eventID})
	}
	return nil, g.svc.Set(ctx, r.Requester(), r.Param("roomId"), markers...)
}
