package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weft-im/weft/homeserver/id"
)

// How long what /.well-known/matrix/server says, or that it says nothing, is believed.
const (
	wellKnownDefaultTTL = 24 * time.Hour
	wellKnownMaxTTL     = 48 * time.Hour
	wellKnownMinTTL     = 5 * time.Minute
	// wellKnownErrorTTL is for the first failure; it doubles with each up to wellKnownMaxErrorTTL.
	wellKnownErrorTTL    = time.Minute
	wellKnownMaxErrorTTL = time.Hour

	wellKnownTimeout  = 10 * time.Second
	wellKnownMaxBytes = 50 << 10
	maxRedirects      = 5
)

// wellKnown is what a server's /.well-known/matrix/server said.
type wellKnown struct {
	// server is the delegated name; failures counts attempts in vain since it was last read.
	server   string
	failures int
	expires  time.Time
}

var errWellKnown = errors.New("no usable /.well-known/matrix/server")

// fetchWellKnown asks a host for the server its federation traffic goes to, and says how long that holds.
func fetchWellKnown(ctx context.Context, client *http.Client, host string, now time.Time) (server string, ttl time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, wellKnownTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %w", errWellKnown, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %w", errWellKnown, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("%w: status %d", errWellKnown, res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, wellKnownMaxBytes+1))
	if err != nil {
		return "", 0, fmt.Errorf("%w: %w", errWellKnown, err)
	}
	if server, err = parseWellKnown(body); err != nil {
		return "", 0, err
	}
	return server, cacheTTL(res.Header, now), nil
}

// parseWellKnown returns m.server of the response.
func parseWellKnown(body []byte) (string, error) {
	if len(body) > wellKnownMaxBytes {
		return "", fmt.Errorf("%w: above %d bytes", errWellKnown, wellKnownMaxBytes)
	}
	var doc struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("%w: %w", errWellKnown, err)
	}
	if _, err := id.ParseServerName(doc.Server); err != nil {
		return "", fmt.Errorf("%w: %w", errWellKnown, err)
	}
	return doc.Server, nil
}

// cacheTTL is how long a response holds by its Cache-Control and Expires headers, within bounds.
func cacheTTL(h http.Header, now time.Time) time.Duration {
	ttl, known := time.Duration(0), false
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch strings.ToLower(name) {
			case "no-store", "no-cache":
				return wellKnownMinTTL
			case "max-age":
				if s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
					ttl, known = time.Duration(s)*time.Second, true
				}
			}
		}
	}
	if !known {
		if v := h.Get("Expires"); v != "" {
			// An invalid date, "0" above all, stands for the past.
			t, err := http.ParseTime(v)
			if err != nil {
				return wellKnownMinTTL
			}
			ttl, known = t.Sub(now), true
		}
	}
	if !known {
		ttl = wellKnownDefaultTTL
	}
	return min(max(ttl, wellKnownMinTTL), wellKnownMaxTTL)
}
