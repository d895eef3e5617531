package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// The accounts know who makes a request.
var _ homeserver.Authenticator = (*account.Service)(nil)

// accountVersions are the versions of endpoints that older clients know under r0 and unstable; legacyVersions those that
// were there before r0, too.
func accountVersions() []string { return []string{"v3", "r0", "unstable"} }
func legacyVersions() []string  { return []string{"v3", "r0", "api/v1", "unstable"} }

// challenged turns the error of a request that has to authenticate further into its response.
func challenged(v any, err error) (any, error) {
	var c *account.Challenge
	if errors.As(err, &c) {
		return &homeserver.Response{Status: http.StatusUnauthorized, JSON: c}, nil
	}
	return v, err
}

// objectBody returns the body of a request that authenticates interactively: a JSON object, {} where there is none.
func objectBody(r *homeserver.Request) (json.RawMessage, error) {
	body, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return json.RawMessage("{}"), nil
	}
	var any map[string]json.RawMessage
	return body, homeserver.DecodeJSON(body, &any)
}

// passwordFlow is the one way to confirm an operation on an account.
func passwordFlow() [][]string { return [][]string{{account.LoginPassword}} }

// own refuses a request for another user's data.
func own(r *homeserver.Request, what string) error {
	if r.Param("userId") != r.UserID() {
		return mxerr.Forbidden.WithMessage("Cannot " + what + " for other users")
	}
	return nil
}
