package sync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// filterIDBytes is how much of the hash of a filter makes its id. Ids are per user, so nobody but the user can choose
// two filters that collide.
const filterIDBytes = 12

// StoreFilter checks and stores a filter of a user and returns its id. Equal filters have equal ids.
//
// Errors: M_NOT_JSON, M_BAD_JSON.
func (s *Service) StoreFilter(ctx context.Context, userID string, raw []byte) (string, error) {
	if !utf8.Valid(raw) {
		return "", mxerr.NotJSON.WithMessage("Content is not valid UTF-8")
	}
	f, err := filter.Parse(raw)
	if err != nil {
		return "", err
	}
	plain, err := plainJSON(raw)
	if err != nil {
		return "", mxerr.NotJSON.Wrap(err)
	}
	sum := sha256.Sum256(plain)
	filterID := base64.RawURLEncoding.EncodeToString(sum[:filterIDBytes])
	if err := storage.InsertFilter(ctx, s.cfg.DB, userID, filterID, plain); err != nil {
		return "", err
	}
	s.filters.Set(filterKey{userID, filterID}, f)
	return filterID, nil
}

// StoredFilter returns a stored filter of a user as JSON, or M_NOT_FOUND.
func (s *Service) StoredFilter(ctx context.Context, userID, filterID string) ([]byte, error) {
	raw, err := storage.GetFilter(ctx, s.cfg.DB, userID, filterID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.WithMessage("No such filter")
	}
	return raw, err
}

type filterKey struct{ userID, filterID string }

// filter returns what the filter parameter of a request means.
func (s *Service) filter(ctx context.Context, userID, param string) (*filter.Filter, error) {
	switch {
	case param == "":
		return s.noFilter, nil
	case param[0] == '{':
		return filter.Parse([]byte(param))
	}
	key := filterKey{userID, param}
	if f, ok := s.filters.GetIfPresent(key); ok {
		return f, nil
	}
	raw, err := storage.GetFilter(ctx, s.cfg.DB, userID, param)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.InvalidParam.WithMessage("No such filter")
	}
	if err != nil {
		return nil, err
	}
	f, err := filter.Parse(raw)
	if err != nil {
		return nil, err
	}
	s.filters.Set(key, f)
	return f, nil
}

// plainJSON writes a JSON value with its keys sorted and without spaces, so that equal values have equal bytes.
func plainJSON(raw []byte) ([]byte, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
