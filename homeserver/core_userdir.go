package homeserver

import "github.com/weft-im/weft/homeserver/userdir"

// openUserDirectory makes the search of the user directory and, where the configuration gives it to this process, what
// keeps the directory.
func (c *Core) openUserDirectory() error {
	var err error
	c.UserDirectory, err = userdir.New(userdir.Config{DB: c.DB, Options: c.Config.UserDirectory})
	if err != nil || !c.Config.UpdatesUserDirectory() {
		return err
	}
	updater, err := userdir.NewUpdater(userdir.UpdaterConfig{
		DB: c.DB, Replication: c.Replication, Leases: c.Leases, Profiles: c.Accounts, Log: c.Log,
	})
	if err != nil {
		return err
	}
	c.components = append(c.components, named{"user_directory", updater})
	return nil
}
