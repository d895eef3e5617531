package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// requestTimeout is how long one answer may take, a long poll included.
const requestTimeout = 2 * time.Minute

// client is one connection to a process. It does what a load needs and no more, so that 1,000 of them leave the machine
// to what is measured. One goroutine at a time may use it.
type client struct {
	address string // "unix:PATH" or "http://HOST:PORT"
	token   string
	conn    net.Conn
	in      *bufio.Reader
	out     []byte
	body    bytes.Buffer
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *client) dial(ctx context.Context) error {
	network, addr := "tcp", strings.TrimPrefix(c.address, "http://")
	if path, ok := strings.CutPrefix(c.address, "unix:"); ok {
		network, addr = "unix", path
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	c.conn, c.in = conn, bufio.NewReaderSize(conn, 4<<10)
	return nil
}

// do makes a request and returns the body of its answer, which is valid until the next. Any status but 200 is an error.
func (c *client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return nil, err
		}
	}
	status, err := c.exchange(method, path, body)
	if err != nil {
		c.close()
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %d %s", method, path, status, c.body.Bytes())
	}
	return c.body.Bytes(), nil
}

func (c *client) exchange(method, path string, body []byte) (status int, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return 0, err
	}
	b := append(c.out[:0], method...)
	b = append(append(b, ' '), path...)
	b = append(b, " HTTP/1.1\r\nHost: bench\r\n"...)
	if c.token != "" {
		b = append(append(append(b, "Authorization: Bearer "...), c.token...), "\r\n"...)
	}
	if method != http.MethodGet {
		b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
		b = append(strconv.AppendInt(b, int64(len(body)), 10), "\r\n"...)
	}
	b = append(append(b, "\r\n"...), body...)
	c.out = b
	if _, err := c.conn.Write(b); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	c.body.Reset()
	_, err = io.Copy(&c.body, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, err
}

// call is do with JSON on both sides; out may be nil.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := c.do(ctx, method, path, body)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
