package homeserver

import "github.com/weft-im/weft/homeserver/notices"

// openNotices makes what sends the server's notices.
func (c *Core) openNotices() error {
	var err error
	c.Notices, err = notices.New(notices.Config{
		DB: c.DB, ServerName: c.Config.ServerName, Rooms: c.Rooms, Accounts: c.Accounts, Tags: c.AccountData,
		Options: c.Config.ServerNotices, Log: c.Log,
	})
	return err
}
