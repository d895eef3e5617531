// Package assembly is what the example processes have in common: which endpoint groups there are, and the few lines
// around a process's life. It decides nothing that a program of your own could not decide otherwise.
package assembly

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/federation/node"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
)

// Groups returns every endpoint group, served by the services of a core and its federation. Of empty ones they are the
// same routes without anything behind them, which is all that a router or a listing needs.
func Groups(c *homeserver.Core, federation *node.Node) []homeserver.Group {
	cfg := c.Config
	if cfg == nil {
		cfg = config.Default()
	}
	groups := []homeserver.Group{
		clientapi.Versions(c.Accounts, clientapi.VersionsConfig{
			DefaultRoomVersion: cfg.DefaultRoomVersion,
			UnstableFeatures:   map[string]bool{"org.matrix.msc4140": cfg.MaxEventDelayDuration > 0},
		}),
		clientapi.WellKnown(clientapi.WellKnownConfig{
			ServerName: cfg.ServerName, PublicBaseURL: cfg.BaseURL(), IdentityServer: cfg.DefaultIdentityServer,
			ClientContent: cfg.ExtraWellKnownClientContent, ServeServer: cfg.ServeServerWellKnown, AdminContact: cfg.AdminContact,
		}),
		clientapi.Registration(c.Accounts),
		clientapi.Login(c.Accounts),
		clientapi.Logout(c.Accounts),
		clientapi.Account(c.Accounts),
		clientapi.Devices(c.Accounts),
		clientapi.Profile(c.Accounts, clientapi.ProfileConfig{
			RequireAuth: cfg.RequireAuthForProfileRequests, SharedRoomsOnly: cfg.LimitProfileRequests,
		}),
		clientapi.AdminRegister(c.Accounts),
		clientapi.AdminAccounts(c.Accounts),
		clientapi.AccountData(c.AccountData),
		clientapi.PushRules(c.Push),
		clientapi.Pushers(c.Pushers),
		clientapi.Notifications(c.Unread),
		clientapi.Rooms(c.Rooms, c.Delayed),
		clientapi.DelayedEvents(c.Delayed),
		clientapi.RoomDirectory(c.Rooms),
		clientapi.UserRooms(c.Rooms),
		clientapi.Search(c.Rooms),
		clientapi.UserDirectory(c.UserDirectory),
		clientapi.ServerNotices(c.Notices),
		clientapi.Receipts(c.Receipts),
		clientapi.Typing(c.Typing),
		clientapi.Presence(c.Presence),
		clientapi.Sync(c.Sync),
		clientapi.SlidingSync(c.Sync),
		clientapi.Events(c.Sync, c.Rooms),
	}
	return append(groups, federation.Groups()...)
}

// Routes returns the groups of Groups without anything behind them.
func Routes() []homeserver.Group { return Groups(&homeserver.Core{}, &node.Node{}) }

// Parts chooses what a process serves.
type Parts func(c *homeserver.Core, federation *node.Node) homeserver.Config

// Main runs a process from its command line to its exit status: it reads the configuration, opens the core, has parts
// choose what the process serves, and runs until SIGINT or SIGTERM.
func Main(parts Parts, apps ...string) {
	cfg := homeserver.MustLoad(apps...)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg, parts); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg *config.Config, parts Parts) (err error) {
	var federation *node.Node
	core, err := homeserver.OpenCore(ctx, cfg, func(ctx context.Context, c *homeserver.Core) (remotes homeserver.Remotes, err error) {
		if federation, err = node.New(ctx, c); err == nil {
			remotes = federation.Remotes()
		}
		return remotes, err
	})
	if err != nil {
		return err
	}
	defer func() {
		federation.Close()
		err = errors.Join(err, core.Close())
	}()
	hs, err := homeserver.New(parts(core, federation))
	if err != nil {
		return err
	}
	return hs.Run(ctx)
}
