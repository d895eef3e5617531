package federation

import (
	"context"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// Profiles asks other servers for the profiles of their users, for account.RemoteProfiles. Its errors are those of
// Directory.
type Profiles struct{ client *Client }

// NewProfiles makes a Profiles.
func NewProfiles(c *Client) *Profiles { return &Profiles{c} }

// Profile implements account.RemoteProfiles.
func (p *Profiles) Profile(ctx context.Context, userID, field string) (map[string]any, error) {
	const notFound = "Profile was not found"
	told, err := p.client.QueryProfile(ctx, id.ServerOf(userID), userID, field)
	if err != nil {
		return nil, relayed(ctx, err, notFound)
	}
	out := make(map[string]any, len(told))
	for k, v := range told {
		_, text := v.(string)
		switch {
		case v == nil, field != "" && k != field, (k == "displayname" || k == "avatar_url") && !text:
			continue
		}
		out[k] = v
	}
	if field != "" && len(out) == 0 {
		return nil, mxerr.NotFound.WithMessage("Profile field was not found")
	}
	return out, nil
}
