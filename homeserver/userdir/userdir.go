// Package userdir is the user directory: it finds people by their names and ids.
//
// The directory holds the names everybody may see. Those of this server's users are written with their profiles (see
// Entry). Those of others follow from the events stream: an Updater, in one process of all, takes the names from rooms
// that are open to everybody and asks the users' servers for the rest. Who may find whom is decided in each search from
// the rooms as they are at that moment.
//
// Spec: client-server API, "User Directory" (v1.19).
package userdir

import (
	"context"
	"errors"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/storage"
)

const (
	// DefaultLimit and MaxLimit are how many users a search returns: if the client does not say, and at most.
	DefaultLimit = 10
	MaxLimit     = 50
)

// Config configures a Service.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Options are the server's choices (user_directory).
	Options config.UserDirectory
}

// Service searches the user directory.
type Service struct{ cfg Config }

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil {
		return nil, errors.New("userdir: Config.DB is required")
	}
	return &Service{cfg}, nil
}

// Results is what a search found.
type Results struct {
	// Users are the users found, the best first.
	Users []storage.DirectoryResult `json:"results"`
	// Limited says that there are more.
	Limited bool `json:"limited"`
}

// Search finds up to limit users, the requester not among them, whose name or id has words that begin like those of
// term. They are those who share a room with the requester or are in a room that is open to everybody, or all, as the
// server chooses.
func (s *Service) Search(ctx context.Context, who *requester.Requester, term string, limit int) (*Results, error) {
	if limit < 0 {
		return nil, mxerr.InvalidParam.WithMessage("limit must not be negative")
	}
	if limit == 0 {
		limit = DefaultLimit
	}
	limit = min(limit, MaxLimit)
	none := &Results{Users: []storage.DirectoryResult{}}
	begin := query(term, ":*")
	if !s.cfg.Options.Enabled || begin == "" {
		return none, nil
	}
	searcher, err := storage.InternUsers(ctx, s.cfg.DB, []string{who.UserID})
	if err != nil {
		return nil, err
	}
	o := &s.cfg.Options
	found, err := storage.SearchDirectory(ctx, s.cfg.DB, storage.DirectoryQuery{
		Searcher: searcher[0].NID, Words: begin, Whole: query(term, ""), Limit: limit + 1,
		All: o.SearchAllUsers, LocalOnly: o.ExcludeRemoteUsers, LocalFirst: o.PreferLocalUsers, Locked: o.ShowLockedUsers,
	})
	if err != nil {
		return nil, err
	}
	if len(found) > limit {
		return &Results{Users: found[:limit], Limited: true}, nil
	}
	if found == nil {
		return none, nil
	}
	return &Results{Users: found}, nil
}

// Entry returns what the directory holds of a user of this server. Whoever changes the profile puts it there, in the same
// transaction.
func Entry(user storage.UserNID, userID string, displayName, avatarURL *string) storage.DirectoryUser {
	e := storage.DirectoryUser{UserNID: user, IsLocal: true, DisplayName: displayName, AvatarURL: avatarURL}
	name := ""
	if displayName != nil {
		name = *displayName
	}
	e.Words = vector(userID, name)
	return e
}
