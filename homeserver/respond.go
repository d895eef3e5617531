package homeserver

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// minCompress is the size in bytes below which compression does not pay.
const minCompress = 1024

// bodies recycles the buffers responses are encoded into. Large ones are left to the collector.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxRecycled = 64 << 10

var emptyObject = []byte("{}")

// respond writes a handler's result.
func (x *exchange) respond(result any) error {
	switch v := result.(type) {
	case nil:
		return x.write(http.StatusOK, emptyObject)
	case json.RawMessage:
		return x.write(http.StatusOK, v)
	case *Response:
		return x.respondWith(v)
	case Response:
		return x.respondWith(&v)
	default:
		return x.encode(http.StatusOK, v)
	}
}

func (x *exchange) respondWith(res *Response) error {
	h := x.w.Header()
	for k, v := range res.Header {
		h[k] = v
	}
	if res.ContentType != "" {
		h["Content-Type"] = []string{res.ContentType}
	}
	status := res.Status
	if status == 0 {
		status = http.StatusOK
	}
	switch {
	case res.Write != nil:
		return x.stream(status, res.Write)
	case res.Body != nil:
		return x.write(status, res.Body)
	case res.JSON != nil:
		return x.encode(status, res.JSON)
	case status == http.StatusNoContent || status == http.StatusNotModified:
		x.status = status
		x.w.WriteHeader(status)
		return nil
	}
	return x.write(status, emptyObject)
}

// encode writes v as JSON.
func (x *exchange) encode(status int, v any) error {
	buf := bodies.Get().(*bytes.Buffer)
	buf.Reset()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode response: %w", err)
	}
	err := x.write(status, bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
	if buf.Cap() <= maxRecycled {
		bodies.Put(buf)
	}
	return err
}

// write sends a whole body.
func (x *exchange) write(status int, body []byte) error {
	h := x.w.Header()
	if _, set := h["Content-Type"]; !set {
		h["Content-Type"] = contentTypeJSON
	}
	if len(body) >= minCompress && x.acceptsGzip() {
		return x.stream(status, func(w io.Writer) error {
			_, err := w.Write(body)
			return err
		})
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	x.status = status
	x.w.WriteHeader(status)
	n, _ := x.w.Write(body) // an error means that the client is gone, and net/http has noticed
	x.size = int64(n)
	return nil
}

// stream sends a body piece by piece.
func (x *exchange) stream(status int, fn func(io.Writer) error) error {
	h := x.w.Header()
	if _, set := h["Content-Type"]; !set {
		h["Content-Type"] = contentTypeJSON
	}
	out := &counter{w: x.w, x: x, status: status}
	if !x.acceptsGzip() {
		if err := fn(out); err != nil {
			return err
		}
		out.begin()
		return nil
	}
	h["Content-Encoding"] = []string{"gzip"}
	h.Add("Vary", "Accept-Encoding")
	z := gzip.NewWriter(out)
	if err := fn(z); err != nil {
		h.Del("Content-Encoding")
		return err
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("compress response: %w", err)
	}
	return nil
}

// acceptsGzip reports whether the response may be compressed: the listener asks for it, the client takes it, and the
// type is worth it.
func (x *exchange) acceptsGzip() bool {
	if !x.rt.opts.compress || !strings.Contains(x.req.Header.Get("Accept-Encoding"), "gzip") {
		return false
	}
	h := x.w.Header()
	if _, set := h["Content-Encoding"]; set {
		return false
	}
	ct := h.Get("Content-Type")
	return strings.HasPrefix(ct, "application/json") || strings.HasPrefix(ct, "text/")
}

// counter sends the status with the first bytes, so that an error before them can still become an error response.
type counter struct {
	w      http.ResponseWriter
	x      *exchange
	status int
}

func (c *counter) begin() {
	if c.x.status == 0 {
		c.x.status = c.status
		c.w.WriteHeader(c.status)
	}
}

func (c *counter) Write(b []byte) (int, error) {
	c.begin()
	n, err := c.w.Write(b)
	c.x.size += int64(n)
	return n, err
}

// bodyOf makes a request body of bytes that have been read.
func bodyOf(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }
