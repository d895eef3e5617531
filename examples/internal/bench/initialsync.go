package bench

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// syncTarget is the CPU time of one room in an initial sync, in milliseconds.
const syncTarget = 0.2

// Rooms of an initial sync have a few people in them, and more messages than a sync shows.
const (
	peopleInRoom   = 6
	messagesInRoom = 20
)

// initialSync measures the first sync of an account that is in many rooms.
func initialSync(ctx context.Context, cfg Config, r *Report) (err error) {
	const scenario = "initial-sync"
	i, err := startInstance(ctx, cfg, oneProcess())
	if err != nil {
		return err
	}
	defer func() { err = i.end(err) }()
	users, err := register(ctx, i.url, "person", peopleInRoom)
	defer closeAll(users)
	if err != nil {
		return err
	}
	// forEach runs several at once, and a connection is one request's.
	pool := make(chan []*client, setUpAtOnce)
	for range setUpAtOnce {
		var set []*client
		for _, u := range users {
			set = append(set, &client{address: u.address, token: u.token})
		}
		defer closeAll(set)
		pool <- set
	}
	err = forEach(ctx, cfg.Rooms, func(ctx context.Context, _ int) error {
		set := <-pool
		defer func() { pool <- set }()
		room, err := set[0].createRoom(ctx)
		if err != nil {
			return err
		}
		for _, u := range set[1:] {
			if err := u.join(ctx, room); err != nil {
				return err
			}
		}
		for k := range messagesInRoom {
			if _, err := set[k%len(set)].do(ctx, http.MethodPut, sayPath(room, "m"+strconv.Itoa(k)), message(time.Now())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	u := users[0]
	start := time.Now()
	body, err := u.do(ctx, http.MethodGet, "/_matrix/client/v3/sync", nil)
	if err != nil {
		return err
	}
	r.add(scenario, "rooms", float64(cfg.Rooms), "")
	r.add(scenario, "response", float64(len(body))/1024, "KiB")
	r.add(scenario, "first", milliseconds(time.Since(start)), "ms")
	spent, elapsed, err := i.measure(ctx, cfg, scenario, func() error {
		for range cfg.Syncs {
			if _, err := u.do(ctx, http.MethodGet, "/_matrix/client/v3/sync", nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	n := float64(cfg.Syncs * cfg.Rooms)
	r.add(scenario, "mean", milliseconds(elapsed)/float64(cfg.Syncs), "ms")
	r.add(scenario, "CPU of a room, "+postgresName, milliseconds(spent[postgresName])/n, "ms")
	r.addTarget(scenario, "CPU of a room", milliseconds(spent.total())/n, "ms", syncTarget)
	return nil
}
