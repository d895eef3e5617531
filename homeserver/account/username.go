package account

import (
	"strings"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// NormalizeUsername brings the username of a registration into the form of a localpart: capitals become small letters.
func NormalizeUsername(username string) string { return strings.ToLower(username) }

// ValidateUsername checks that a new account may be called username: characters, length, no leading "_" (those are for
// bridges that claim them), no bare number (those are for guests). It does not look whether it is taken. Errors are
// M_INVALID_USERNAME.
func ValidateUsername(username, serverName string) error {
	switch {
	case username == "":
		return mxerr.InvalidUsername.WithMessage("User ID cannot be empty")
	case username[0] == '_':
		return mxerr.InvalidUsername.WithMessage("User ID may not begin with _")
	case strings.Trim(username, "0123456789") == "":
		return mxerr.InvalidUsername.WithMessage("Numeric user IDs are reserved for guest users")
	case !id.ValidLocalpart(username):
		return mxerr.InvalidUsername
	case len(username)+len(serverName)+2 > id.MaxLength:
		return mxerr.InvalidUsername.WithMessage("User ID may not be longer than 255 characters")
	}
	return nil
}
