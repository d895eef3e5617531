package federation

import "net/http"

// SetWeb has a client ask something else for well-known files.
func (c *Client) SetWeb(rt http.RoundTripper) { c.resolver.web.Transport = rt }

// Time-outs and bounds that tests rely on.
const MaxResponse = maxResponse
