package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// setUpAtOnce is how many requests of a preparation are under way at once.
const setUpAtOnce = 16

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	return addr, l.Close()
}

// register makes accounts, each with a connection of its own to the address.
func register(ctx context.Context, address, prefix string, n int) ([]*client, error) {
	users := make([]*client, n)
	err := forEach(ctx, n, func(ctx context.Context, k int) error {
		c := &client{address: address}
		users[k] = c
		var out struct {
			AccessToken string `json:"access_token"`
		}
		err := c.call(ctx, http.MethodPost, "/_matrix/client/v3/register", map[string]any{
			"username": prefix + strconv.Itoa(k), "password": "bench", "device_id": "BENCH", "auth": map[string]any{"type": "m.login.dummy"},
		}, &out)
		c.token = out.AccessToken
		return err
	})
	return users, err
}

func closeAll(users []*client) {
	for _, u := range users {
		if u != nil {
			u.close()
		}
	}
}

func (c *client) createRoom(ctx context.Context) (roomID string, err error) {
	var out struct {
		RoomID string `json:"room_id"`
	}
	err = c.call(ctx, http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"}, &out)
	return out.RoomID, err
}

func (c *client) join(ctx context.Context, roomID string) error {
	return c.call(ctx, http.MethodPost, "/_matrix/client/v3/join/"+url.PathEscape(roomID), map[string]any{}, nil)
}

// sayPath is the path under which a message with a transaction id is sent.
func sayPath(roomID, txnID string) string {
	return "/_matrix/client/v3/rooms/" + url.PathEscape(roomID) + "/send/m.room.message/" + txnID
}

// message is the content of a message of usual length. sent is when it was sent, as those who receive it look for it.
func message(sent time.Time) []byte {
	return fmt.Appendf(nil, `{"msgtype":"m.text","body":"some words of a usual length, as people write them in rooms","bench.sent":%d}`, sent.UnixMicro())
}

// forEach calls f for 0 to n-1, some at once.
func forEach(ctx context.Context, n int, f func(ctx context.Context, k int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(setUpAtOnce)
	for k := range n {
		g.Go(func() error { return f(ctx, k) })
	}
	return g.Wait()
}

// quantile returns the value below which a share of the values lies. It sorts them.
func quantile(values []time.Duration, share float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(share*float64(len(values))))]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
