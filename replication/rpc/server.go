package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// ConfigureServer lets srv speak HTTP/2 without TLS beside what it speaks already, for
// callers with Config.HTTP2. Call it before Serve.
func ConfigureServer(srv *http.Server) {
	if srv.Protocols == nil {
		srv.Protocols = new(http.Protocols)
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetHTTP2(true)
	}
	srv.Protocols.SetUnencryptedHTTP2(true)
}

// Handler serves the registered methods under PathPrefix. Mount it on listeners with the
// "replication" resource and prepare their servers with ConfigureServer.
func (n *Node) Handler() http.Handler { return http.HandlerFunc(n.serveHTTP) }

func (n *Node) serveHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()[headerInstance] = []string{n.boot}
	if !n.trusts(r) {
		n.log.Warn().Str("remote_addr", r.RemoteAddr).Msg("refused a replication call: no trusted address or wrong worker_replication_secret")
		refuse(w, refusedSecret, &Error{Status: http.StatusUnauthorized, Code: "M_UNAUTHORIZED", Message: "Invalid worker_replication_secret"})
		return
	}
	name, id, ok := splitPath(r.URL.EscapedPath())
	var m *registered
	if ok {
		n.mu.RLock()
		m = n.methods[name]
		n.mu.RUnlock()
	}
	if m == nil {
		refuse(w, refusedMethod, &Error{Status: http.StatusNotFound, Code: "M_UNRECOGNIZED", Message: "Unrecognized request"})
		return
	}
	if r.Method != http.MethodPost {
		refuse(w, "", &Error{Status: http.StatusMethodNotAllowed, Code: "M_UNRECOGNIZED", Message: "Unrecognized request"})
		return
	}
	body, err := readBody(r.Body, r.ContentLength, n.cfg.MaxBodyBytes)
	if err != nil {
		if errors.Is(err, errTooLarge) {
			refuse(w, "", &Error{Status: http.StatusRequestEntityTooLarge, Code: "M_TOO_LARGE", Message: "Request too large"})
		}
		return // otherwise the caller is gone
	}
	var out outcome
	if m.repeatable {
		out = n.run(r.Context(), r, name, m, body)
	} else {
		res, first := n.results.begin(id)
		switch {
		case !first:
			select {
			case <-res.done:
			case <-r.Context().Done():
				return
			}
		case n.restarted(r):
			n.results.drop(id, res)
			refuse(w, refusedBoot, &Error{Status: http.StatusConflict, Code: "M_UNKNOWN", Message: "Restarted during the call"})
			return
		default:
			// The caller may have broken off only to ask again: the call goes on.
			res.out = n.run(context.WithoutCancel(r.Context()), r, name, m, body)
			n.results.end(id, res)
		}
		out = res.out
	}
	write(w, out)
}

// restarted reports whether the call may have been begun by an earlier run of this process.
func (n *Node) restarted(r *http.Request) bool {
	expect := r.Header[headerExpect]
	return len(expect) > 0 && expect[0] != n.boot
}

// run runs a method under the caller's deadline.
func (n *Node) run(ctx context.Context, r *http.Request, name string, m *registered, body []byte) (out outcome) {
	timeout := n.cfg.Timeout
	if v := r.Header[headerDeadline]; len(v) > 0 {
		if ms, err := strconv.ParseInt(v[0], 10, 64); err == nil && ms > 0 && ms < int64(24*time.Hour/time.Millisecond) {
			timeout = time.Duration(ms) * time.Millisecond
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			n.log.Error().Str("method", name).Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).Msg("replication method panicked")
			out = failure(errors.New("panic"))
		}
	}()
	reply, err := m.serve(ctx, body)
	if err != nil {
		out = failure(err)
		if out.status >= 500 {
			n.log.Error().Err(err).Str("method", name).Int("status", out.status).Msg("replication call failed")
		}
		return out
	}
	return outcome{status: http.StatusOK, body: reply}
}

// outcome is the answer to a call.
type outcome struct {
	status int
	body   []byte
}

func failure(err error) outcome {
	e := toError(err)
	b, err := json.Marshal(e)
	if err != nil {
		// A field is not JSON. The error itself must still arrive.
		b, _ = json.Marshal(&Error{Code: e.Code, Message: e.Message})
	}
	return outcome{status: e.Status, body: b}
}

func refuse(w http.ResponseWriter, reason string, e *Error) {
	if reason != "" {
		w.Header()[headerRefused] = []string{reason}
	}
	write(w, failure(e))
}

// Shared header values; they must not be changed.
var contentTypeJSON = []string{"application/json"}

func write(w http.ResponseWriter, out outcome) {
	h := w.Header()
	h["Content-Type"] = contentTypeJSON
	h["Content-Length"] = []string{strconv.Itoa(len(out.body))}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // a caller that is gone asks again
}

// splitPath takes the method's name and the request id out of an escaped path.
func splitPath(path string) (name, id string, ok bool) {
	rest, ok := strings.CutPrefix(path, PathPrefix)
	if !ok {
		return "", "", false
	}
	name, rest, ok = strings.Cut(rest, "/")
	if !ok {
		return "", "", false
	}
	id = rest[strings.LastIndexByte(rest, '/')+1:]
	return name, id, name != "" && id != "" && len(id) <= 128
}

// trusts reports whether the caller may call.
func (n *Node) trusts(r *http.Request) bool {
	if n.bearer != "" {
		v := r.Header["Authorization"]
		if len(v) != 1 {
			return false
		}
		got := sha256.Sum256([]byte(v[0]))
		return subtle.ConstantTimeCompare(got[:], n.secret[:]) == 1
	}
	if r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "" {
		return false
	}
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && addr.Network() == "unix" {
		return true
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && remote.Addr().Unmap().IsLoopback()
}
