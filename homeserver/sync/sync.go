package sync

import (
	"context"
	"io"
)

// Sync answers a request, after waiting up to its Timeout where there is nothing new. ctx ends the wait.
//
// Errors: M_INVALID_PARAM for a bad Since or an unknown filter, M_NOT_JSON and M_BAD_JSON for a bad filter.
func (s *Service) Sync(ctx context.Context, req Request) (*Response, error) {
	if _, err := s.filter(ctx, req.Requester.UserID, req.Filter); err != nil {
		return nil, err
	}
	return &Response{write: func(w io.Writer) error { return nil }}, nil
}
