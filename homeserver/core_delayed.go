package homeserver

import "github.com/weft-im/weft/homeserver/delayed"

// openDelayed makes what sends events later. Each process sends what is due.
func (c *Core) openDelayed() error {
	var err error
	c.Delayed, err = delayed.New(delayed.Config{
		DB: c.DB, Rooms: c.Rooms, Accounts: c.Accounts, Limits: c.Limits, MaxDelay: c.Config.MaxEventDelayDuration, Log: c.Log,
	})
	if err != nil {
		return err
	}
	c.components = append(c.components, named{"delayed_events", c.Delayed})
	return nil
}
