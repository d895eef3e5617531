package federation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// ServerAuthConfig is what a ServerAuth is made of.
type ServerAuthConfig struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// Keys finds the keys of other servers. Required.
	Keys event.KeyRing
	// Allowed lists the only servers that may ask; nil allows all.
	Allowed *[]string
	// Seen, which may be nil, is told of each server that has shown who it is. It must not block.
	Seen func(server string)
	// Log defaults to silence.
	Log zerolog.Logger
}

// ServerAuth checks the signatures of requests that other servers make. It implements homeserver.ServerAuthenticator.
type ServerAuth struct{ cfg ServerAuthConfig }

// NewServerAuth checks the configuration. It does no I/O.
func NewServerAuth(cfg ServerAuthConfig) (*ServerAuth, error) {
	var errs []error
	if cfg.ServerName == "" {
		errs = append(errs, errors.New("ServerName is required"))
	}
	if cfg.Keys == nil {
		errs = append(errs, errors.New("Keys is required"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("server authentication: %w", err)
	}
	return &ServerAuth{cfg}, nil
}

// maxXMatrixHeaders bounds the Authorization headers of a request: one for each key a server signs with.
const maxXMatrixHeaders = 10

// AuthenticateServer implements homeserver.ServerAuthenticator. A request may carry several signatures of one origin: one
// good one suffices, those with keys that are not known do not count, and a bad one spoils the request.
func (a *ServerAuth) AuthenticateServer(ctx context.Context, r *http.Request, body []byte) (string, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", mxerr.Unauthorized.WithMessage("Missing Authorization headers")
	}
	if len(headers) > maxXMatrixHeaders {
		return "", mxerr.Unauthorized.WithMessage("Too many Authorization headers")
	}
	req := signedRequest{Method: r.Method, URI: r.RequestURI, Content: body, Signatures: map[string]map[string]string{}}
	if req.URI == "" {
		req.URI = r.URL.RequestURI()
	}
	var keyIDs []string
	for _, h := range headers {
		x, err := parseXMatrix(h)
		if err != nil {
			return "", mxerr.Unauthorized.WithMessage("Malformed Authorization header")
		}
		if id.ValidateServerName(x.origin) != nil {
			return "", mxerr.Unauthorized.WithMessage("The origin is no server name")
		}
		if x.destination != "" && x.destination != a.cfg.ServerName {
			return "", mxerr.Unauthorized.WithMessage("Destination mismatch in auth header")
		}
		if req.Origin != "" && (x.origin != req.Origin || x.destination != req.Destination) {
			return "", mxerr.Unauthorized.WithMessage("The Authorization headers do not agree")
		}
		req.Origin, req.Destination = x.origin, x.destination
		if req.Signatures[x.origin] == nil {
			req.Signatures[x.origin] = map[string]string{}
		}
		if _, twice := req.Signatures[x.origin][x.key]; twice {
			return "", mxerr.Unauthorized.WithMessage("The Authorization headers have one key twice")
		}
		req.Signatures[x.origin][x.key] = x.signature
		keyIDs = append(keyIDs, x.key)
	}
	if req.Origin == a.cfg.ServerName {
		return "", mxerr.Unauthorized.WithMessage("A server does not ask itself")
	}
	if a.cfg.Allowed != nil && !slices.Contains(*a.cfg.Allowed, req.Origin) {
		return "", mxerr.Forbidden.WithMessage("Federation denied with " + req.Origin)
	}
	if err := a.verify(ctx, &req, keyIDs); err != nil {
		return "", err
	}
	if a.cfg.Seen != nil {
		a.cfg.Seen(req.Origin)
	}
	return req.Origin, nil
}

func (a *ServerAuth) verify(ctx context.Context, req *signedRequest, keyIDs []string) error {
	// The body is put into an object as it is, so it must be one value and no more.
	if len(req.Content) > 0 && !gjson.ValidBytes(req.Content) {
		return mxerr.NotJSON
	}
	object, err := req.encode()
	if err == nil {
		object, err = event.Canonical(object)
	}
	if err != nil {
		return mxerr.NotJSON.Wrap(err)
	}
	good := false
	for _, keyID := range keyIDs {
		key, err := a.cfg.Keys.VerifyKey(ctx, req.Origin, keyID, time.Now().UnixMilli())
		if errors.Is(err, event.ErrKeyNotFound) {
			a.cfg.Log.Debug().Err(err).Str("origin", req.Origin).Str("key_id", keyID).Msg("request signed with an unknown key")
			continue
		}
		if err != nil {
			return err
		}
		if err := event.VerifyJSON(object, req.Origin, keyID, key); err != nil {
			return mxerr.Unauthorized.WithMessage("Invalid signature for server " + req.Origin + " with key " + keyID).Wrap(err)
		}
		good = true
	}
	if !good {
		return mxerr.Unauthorized.WithMessage("Failed to find any key to satisfy the signature of " + req.Origin)
	}
	return nil
}
