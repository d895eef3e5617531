package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
)

// AliasTarget is the room an alias stands for.
type AliasTarget struct {
	RoomID  string   `json:"room_id"`
	Servers []string `json:"servers"`
}

// QueryDirectory returns the room of an alias of the server.
func (c *Client) QueryDirectory(ctx context.Context, server, alias string) (*AliasTarget, error) {
	out := &AliasTarget{}
	err := c.shared(ctx, call{
		method: http.MethodGet, server: server, path: v1 + "/query/directory", query: url.Values{"room_alias": {alias}}.Encode(),
	}, out)
	return out, err
}

// QueryProfile returns the profile of a user of the server, or one field of it where field is not "".
func (c *Client) QueryProfile(ctx context.Context, server, userID, field string) (map[string]any, error) {
	q := url.Values{"user_id": {userID}}
	if field != "" {
		q.Set("field", field)
	}
	var out map[string]any
	err := c.shared(ctx, call{method: http.MethodGet, server: server, path: v1 + "/query/profile", query: q.Encode()}, &out)
	return out, err
}

// PublicRoomsQuery asks for a page of a server's published rooms.
type PublicRoomsQuery struct {
	Limit  int                `json:"limit,omitempty"`
	Since  string             `json:"since,omitempty"`
	Filter *PublicRoomsFilter `json:"filter,omitempty"`
	// IncludeAllNetworks asks for the networks of all application services, ThirdPartyInstanceID for one.
	IncludeAllNetworks   bool   `json:"include_all_networks,omitempty"`
	ThirdPartyInstanceID string `json:"third_party_instance_id,omitempty"`
}

// PublicRoomsFilter narrows a PublicRoomsQuery.
type PublicRoomsFilter struct {
	GenericSearchTerm string `json:"generic_search_term,omitempty"`
	// RoomTypes, if not nil, are the room types wanted; nil among them stands for rooms without one.
	RoomTypes []*string `json:"room_types,omitempty"`
}

// PublicRooms decodes a page of a server's published rooms into out. Queries with a filter are sent with POST.
func (c *Client) PublicRooms(ctx context.Context, server string, q PublicRoomsQuery, out any) error {
	r := call{method: http.MethodPost, server: server, path: v1 + "/publicRooms", body: q}
	if q.Filter != nil {
		return c.do(ctx, r, out)
	}
	v := url.Values{}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Since != "" {
		v.Set("since", q.Since)
	}
	if q.IncludeAllNetworks {
		v.Set("include_all_networks", "true")
	}
	if q.ThirdPartyInstanceID != "" {
		v.Set("third_party_instance_id", q.ThirdPartyInstanceID)
	}
	r.method, r.body, r.query = http.MethodGet, nil, v.Encode()
	return c.shared(ctx, r, out)
}

// Hierarchy decodes the summary of a room and of its children into out.
func (c *Client) Hierarchy(ctx context.Context, server, roomID string, suggestedOnly bool, out any) error {
	q := call{
		method: http.MethodGet, server: server, path: joinPath(v1+"/hierarchy", roomID),
		query: url.Values{"suggested_only": {strconv.FormatBool(suggestedOnly)}}.Encode(),
	}
	err := c.shared(ctx, q, out)
	if unserved(err) {
		q.path = joinPath("/_matrix/federation/unstable/org.matrix.msc2946/hierarchy", roomID)
		err = c.shared(ctx, q, out)
	}
	return err
}

// ServerVersion names a server's program.
type ServerVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Version returns which program a server runs.
func (c *Client) Version(ctx context.Context, server string) (ServerVersion, error) {
	var out struct {
		Server ServerVersion `json:"server"`
	}
	err := c.shared(ctx, call{method: http.MethodGet, server: server, path: v1 + "/version", unsigned: true}, &out)
	return out.Server, err
}

// OpenIDUserinfo returns the user who made an OpenID token, whom the caller must check to be one of the server.
func (c *Client) OpenIDUserinfo(ctx context.Context, server, token string) (userID string, err error) {
	var out struct {
		Sub string `json:"sub"`
	}
	err = c.do(ctx, call{
		method: http.MethodGet, server: server, path: v1 + "/openid/userinfo", query: url.Values{"access_token": {token}}.Encode(), unsigned: true,
	}, &out)
	return out.Sub, err
}

// ServerKeys returns the keys a server publishes, as it signed them. A server that is thought to be down is asked too:
// it may just have sent something.
func (c *Client) ServerKeys(ctx context.Context, server string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.do(ctx, call{
		method: http.MethodGet, server: server, path: "/_matrix/key/v2/server", unsigned: true, force: true, maxBytes: maxKeysResponse, timeout: keysTimeout,
	}, &out)
	return out, err
}
