package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/storage"
)

// maxConcurrent bounds the servers asked at a time for one query to a notary.
const maxConcurrent = 16

// Responses returns what servers publish as keys, each as its server signed it, for a notary to hand on: of each server
// the keys wanted by id, with the time in milliseconds since the epoch at which they should be valid; all keys where none
// is named. Servers that do not answer are represented by what they last said, or left out.
func (r *Ring) Responses(ctx context.Context, wanted map[string]map[string]int64) ([]json.RawMessage, error) {
	servers := make([]string, 0, len(wanted))
	for s := range wanted {
		if s != r.cfg.ServerName && id.ValidateServerName(s) == nil {
			servers = append(servers, s)
		}
	}
	slices.Sort(servers)
	if err := r.Warm(ctx, servers); err != nil {
		return nil, err
	}
	entries := make([]*entry, len(servers))
	var group errgroup.Group
	group.SetLimit(maxConcurrent)
	for i, s := range servers {
		group.Go(func() (err error) {
			entries[i], err = r.refreshed(ctx, s, wanted[s])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []json.RawMessage
	for i, s := range servers {
		out = append(out, entries[i].responses(wanted[s])...)
	}
	return out, nil
}

// refreshed returns what is known of a server, asked anew where that is not enough. A response is handed on for half of
// the time that it is valid.
func (r *Ring) refreshed(ctx context.Context, server string, keys map[string]int64) (*entry, error) {
	e, err := r.read(ctx, server)
	if err != nil {
		return nil, err
	}
	now := r.now()
	stale := len(e.keys) == 0
	fresh := func(k storage.ServerKey) bool {
		return k.IsOld || now < k.FetchedTS+(k.ValidUntilTS-k.FetchedTS)/2
	}
	if len(keys) == 0 {
		inUse := false
		for _, k := range e.keys {
			inUse = inUse || !k.IsOld && fresh(k)
		}
		stale = stale || !inUse
	}
	for keyID, validAt := range keys {
		k, ok := e.keys[keyID]
		stale = stale || !ok || !k.IsOld && k.ValidUntilTS < validAt || !fresh(k)
	}
	if !stale || r.paused(server, "") {
		return e, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout/3)
	defer cancel()
	if err := r.askServer(ctx, server); err != nil {
		r.cfg.Log.Info().Err(err).Str("destination", server).Msg("Keys of a server could not be fetched for another")
		r.failed(server, "")
		return e, nil
	}
	r.vain.Set(vainKey{server, ""}, vain{0, r.now() + pauseBetween.Milliseconds()})
	return r.read(ctx, server)
}

// responses returns the responses that hold the keys named, or all keys where none is.
func (e *entry) responses(keys map[string]int64) []json.RawMessage {
	var out []json.RawMessage
	for keyID, k := range e.keys {
		_, named := keys[keyID]
		if len(keys) > 0 && !named {
			continue
		}
		if !slices.ContainsFunc(out, func(have json.RawMessage) bool { return bytes.Equal(have, k.Response) }) {
			out = append(out, k.Response)
		}
	}
	return out
}
