package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

const (
	// fetchTimeout bounds a fetch with all that is asked.
	fetchTimeout = 45 * time.Second
	// notaryDelay is how long a server has to answer before notaries are asked as well.
	notaryDelay = 2 * time.Second
	// minPause and maxPause bound the wait after a fetch in vain, which doubles from one to the next; pauseBetween is how
	// long a server that answered is left alone even if other keys of it are asked for.
	minPause     = 5 * time.Second
	maxPause     = 30 * time.Minute
	pauseBetween = 5 * time.Second
)

// vainKey is a server with a key that it did not tell, or with "" if it did not answer.
type vainKey struct{ server, keyID string }

// vain says how often in a row something was asked for in vain, and until when (in milliseconds since the epoch) it is
// not asked for again.
type vain struct {
	times int
	until int64
}

func (r *Ring) paused(server, keyID string) bool {
	v, ok := r.vain.GetIfPresent(vainKey{server, keyID})
	return ok && r.now() < v.until
}

func (r *Ring) failed(server, keyID string) {
	k := vainKey{server, keyID}
	v, _ := r.vain.GetIfPresent(k)
	pause := min(minPause<<min(v.times, 12), maxPause)
	r.vain.Set(k, vain{v.times + 1, r.now() + pause.Milliseconds()})
}

// fetch asks for a key of a server, and returns what is known of the server then. Concurrent calls share the requests.
func (r *Ring) fetch(ctx context.Context, server, keyID string, validAt int64) (*entry, error) {
	if r.paused(server, keyID) || r.paused(server, "") {
		return nil, fmt.Errorf("%s of %s, asked for in vain lately: %w", keyID, server, event.ErrKeyNotFound)
	}
	// The server is asked for all its keys at once, but a notary for those it is named.
	ch := r.flight.DoChan(server+"\x00"+keyID, func() (any, error) {
		// It outlives a caller who gives up: others may wait for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return r.ask(ctx, server, keyID, validAt)
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*entry), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask asks the server, and the notaries where it does not answer in time or does not have the key.
func (r *Ring) ask(ctx context.Context, server, keyID string, validAt int64) (*entry, error) {
	// Another process may have asked since this one read the database.
	r.known.Invalidate(server)
	e, err := r.read(ctx, server)
	if err != nil {
		return nil, err
	}
	if _, ok := e.find(keyID, validAt); ok {
		return e, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	direct, notaries := make(chan error, 1), make(chan error, 1)
	go func() { direct <- r.askServer(ctx, server) }()
	running, more := 1, len(r.cfg.Notaries) > 0
	askNotaries := func() {
		if more {
			more = false
			running++
			go func() { notaries <- r.askNotaries(ctx, server, keyID, validAt) }()
		}
	}
	late := time.NewTimer(notaryDelay)
	defer late.Stop()
	answered := false
	var errs []error
	for running > 0 {
		select {
		case err = <-direct:
			answered = err == nil
		case err = <-notaries:
		case <-late.C:
			askNotaries()
			continue
		}
		running--
		errs = append(errs, err)
		if e, err = r.read(ctx, server); err != nil {
			return nil, err
		}
		if _, ok := e.find(keyID, validAt); ok {
			r.vain.Invalidate(vainKey{server, keyID})
			r.vain.Invalidate(vainKey{server, ""})
			return e, nil
		}
		askNotaries()
	}
	if answered {
		r.failed(server, keyID)
		r.vain.Set(vainKey{server, ""}, vain{0, r.now() + pauseBetween.Milliseconds()})
	} else {
		r.failed(server, "")
	}
	r.cfg.Log.Info().Err(errors.Join(errs...)).Str("destination", server).Str("key_id", keyID).Msg("Key of a server was not found")
	return e, nil
}

// askServer fetches all keys a server publishes. Concurrent calls for one server share the request.
func (r *Ring) askServer(ctx context.Context, server string) error {
	ch := r.flight.DoChan(server, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		response, err := r.cfg.Fetcher.ServerKeys(ctx, server)
		if err != nil {
			return nil, err
		}
		name, keys, err := parseResponse(response, r.now())
		if err == nil && name != server {
			err = fmt.Errorf("%w: they are of %q", errResponse, name)
		}
		if err != nil {
			return nil, err
		}
		return nil, r.keep(ctx, keys, true)
	})
	select {
	case res := <-ch:
		return res.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep stores keys of one server.
func (r *Ring) keep(ctx context.Context, keys []storage.ServerKey, direct bool) error {
	if err := storage.PutServerKeys(ctx, r.cfg.DB, keys, direct); err != nil {
		return err
	}
	r.known.Invalidate(keys[0].Server)
	return nil
}

// askNotaries asks one notary after the other until one has the key.
func (r *Ring) askNotaries(ctx context.Context, server, keyID string, validAt int64) error {
	var errs []error
	for _, n := range r.cfg.Notaries {
		if n.Server == server || n.Server == r.cfg.ServerName {
			continue
		}
		responses, err := r.cfg.Fetcher.QueryKeys(ctx, n.Server, map[string]map[string]int64{server: {keyID: validAt}})
		if err == nil {
			err = r.takeFrom(ctx, n, server, responses)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("notary %s: %w", n.Server, err))
			continue
		}
		if e, err := r.read(ctx, server); err == nil {
			if _, ok := e.find(keyID, validAt); ok {
				return nil
			}
		}
	}
	return errors.Join(errs...)
}

// takeFrom stores the keys of a server out of a notary's responses. Those that are not what they should be are passed
// over; the error says what was wrong with them.
func (r *Ring) takeFrom(ctx context.Context, n Notary, server string, responses []json.RawMessage) error {
	var errs []error
	for _, response := range responses {
		if err := n.check(response); err != nil {
			errs = append(errs, err)
			continue
		}
		name, keys, err := parseResponse(response, r.now())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if name == server {
			errs = append(errs, r.keep(ctx, keys, false))
		}
	}
	return errors.Join(errs...)
}

// check checks that the notary vouches for a response.
func (n *Notary) check(response []byte) error {
	if len(n.Keys) == 0 {
		return nil
	}
	ids, err := event.JSONSignatures(response, n.Server)
	if err != nil {
		return fmt.Errorf("%w: %w", errResponse, err)
	}
	for id, key := range n.Keys {
		if slices.Contains(ids, id) {
			return event.VerifyJSON(response, n.Server, id, key)
		}
	}
	return fmt.Errorf("%w: not signed with a known key of the notary", errResponse)
}
