package push

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/weft-im/weft/homeserver/mxerr"
)

// Service is push rules in one process. It is safe for concurrent use.
type Service struct{}

// New makes the service.
func New() *Service { return &Service{} }

var errNoRule = mxerr.NotFound.WithMessage("The push rule was not found")

// Rules returns all rules of a user.
func (s *Service) Rules(_ context.Context, userID string) (*Ruleset, error) {
	return (*custom)(nil).ruleset(userID), nil
}

// Rule returns one rule of a user, M_NOT_FOUND if there is none.
func (s *Service) Rule(ctx context.Context, userID string, k Kind, id string) (*Rule, error) {
	rules, err := s.Rules(ctx, userID)
	if err != nil {
		return nil, err
	}
	r := rules.Find(k, id)
	if r == nil {
		return nil, errNoRule
	}
	return r, nil
}

// PushRules returns the content of a user's m.push_rules event.
func (s *Service) PushRules(ctx context.Context, userID string) (json.RawMessage, error) {
	rules, err := s.Rules(ctx, userID)
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(map[string]*Ruleset{"global": rules})
	if err != nil {
		return nil, fmt.Errorf("write push rules of %s: %w", userID, err)
	}
	return content, nil
}
