package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// Config holds what a Service needs.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Store knows users and rooms. Required.
	Store *store.Store
	// Client follows the stream, and publishes it where this process writes it. It must not run yet. Required.
	Client *replication.Client
	// Writers says which process writes the stream. Required.
	Writers *replication.Writers
	// RPC reaches it. Required.
	RPC *rpc.Node
	// IDs numbers the rows where this process writes the stream. Required there.
	IDs *storage.StreamIDs
	// From is a position of the stream read from the database before the process serves anything. Defaults to the start
	// of the stream.
	From replication.Position
	// Evaluator is told of changes, those made here before their requests are answered. Nil in a process that writes no
	// events.
	Evaluator *Evaluator
}

// Service is push rules in one process. It is safe for concurrent use.
type Service struct {
	cfg      Config
	follower *replication.Follower[streams.PushRulesRow]
	writer   *streams.Writer[streams.PushRulesRow] // nil unless this process writes the stream
}

// stream is the stream's name.
const stream = "push_rules"

// MaxIDSQL is for the storage.StreamIDsConfig of the stream.
const MaxIDSQL = `SELECT coalesce(max(stream_id), 0) FROM push_rules`

var editMethod = rpc.Method[edit, struct{}]{
	Name: "change_push_rules", Args: func(e edit) []string { return []string{e.UserID, e.Op} },
}

// New makes the service, has cfg.Client follow the stream (and publish it where this process is its writer), and
// registers its methods with cfg.RPC. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.Store == nil || cfg.Client == nil || cfg.Writers == nil || cfg.RPC == nil {
		return nil, errors.New("push: Config.DB, Store, Client, Writers and RPC are required")
	}
	s := &Service{cfg: cfg}
	var err error
	s.follower, err = replication.Follow(cfg.Client, streams.PushRules(), replication.FollowConfig[streams.PushRulesRow]{
		Source: s.source,
		From:   cfg.From,
	})
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	if cfg.Evaluator != nil {
		s.follower.Handle(func(_ context.Context, u replication.Update[streams.PushRulesRow]) {
			for _, r := range u.Rows {
				cfg.Evaluator.Changed(r.Value.UserID)
			}
		})
	}
	if !cfg.Writers.Writes(stream) {
		return s, nil
	}
	s.writer, err = streams.NewWriter(streams.WriterConfig[streams.PushRulesRow]{
		DB: cfg.DB, IDs: cfg.IDs, Client: cfg.Client, Stream: streams.PushRules(), Source: s.source,
	})
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	mxrpc.Register(cfg.RPC, editMethod, func(ctx context.Context, e edit) (struct{}, error) {
		return struct{}{}, s.apply(ctx, &e)
	})
	return s, nil
}

// Rules returns all rules of a user.
func (s *Service) Rules(ctx context.Context, userID string) (*Ruleset, error) {
	user, err := s.cfg.Store.UserNID(ctx, userID)
	if err != nil {
		return nil, fmt.Errorf("read push rules: %w", err)
	}
	rows, err := storage.GetPushRules(ctx, s.cfg.DB, []storage.UserNID{user})
	if err != nil {
		return nil, err
	}
	var c *custom
	if len(rows) > 0 {
		if c, err = decode(rows[0].Rules); err != nil {
			return nil, fmt.Errorf("read push rules of %s: %w", userID, err)
		}
	}
	return c.ruleset(userID), nil
}

func decode(rules []byte) (*custom, error) {
	c := &custom{}
	if err := json.Unmarshal(rules, c); err != nil {
		return nil, fmt.Errorf("decode push rules: %w", err)
	}
	return c, nil
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

// PutRule stores a rule of a user. Errors are M_INVALID_PARAM, M_MISSING_PARAM or M_TOO_LARGE for a rule that cannot be
// one, M_UNKNOWN with status 400 where Draft.Before or Draft.After is none of the user's own rules of the kind.
func (s *Service) PutRule(ctx context.Context, userID string, k Kind, id string, d Draft) error {
	if !k.Known() {
		return mxerr.InvalidParam.WithMessage("There is no such kind of push rule")
	}
	if err := checkNewID(id); err != nil {
		return err
	}
	if err := d.check(k); err != nil {
		return err
	}
	return s.edit(ctx, &edit{UserID: userID, Op: opPut, Kind: k, RuleID: id, Draft: d})
}

// DeleteRule deletes one of the user's own rules, M_NOT_FOUND if there is none.
func (s *Service) DeleteRule(ctx context.Context, userID string, k Kind, id string) error {
	return s.edit(ctx, &edit{UserID: userID, Op: opDelete, Kind: k, RuleID: id})
}

// Enable switches a rule on or off, be it the server's. M_NOT_FOUND if there is none.
func (s *Service) Enable(ctx context.Context, userID string, k Kind, id string, enabled bool) error {
	e := &edit{UserID: userID, Op: opDisable, Kind: k, RuleID: id}
	if enabled {
		e.Op = opEnable
	}
	return s.edit(ctx, e)
}

// SetActions sets the actions of a rule, be it the server's. M_NOT_FOUND if there is none, M_MISSING_PARAM or
// M_INVALID_PARAM for what are no actions.
func (s *Service) SetActions(ctx context.Context, userID string, k Kind, id string, actions []json.RawMessage) error {
	if err := checkActions(actions); err != nil {
		return err
	}
	return s.edit(ctx, &edit{UserID: userID, Op: opActions, Kind: k, RuleID: id, Draft: Draft{Actions: actions}})
}

// CopyRoomSettings gives the room that replaces another the rules that a user has for that. It may be called more than
// once.
func (s *Service) CopyRoomSettings(ctx context.Context, userID, fromRoomID, toRoomID string) error {
	return s.edit(ctx, &edit{UserID: userID, Op: opCopy, From: fromRoomID, To: toRoomID})
}

// edit makes a change on the process that writes the stream.
func (s *Service) edit(ctx context.Context, e *edit) error {
	owner := s.cfg.Writers.Owner(stream, e.UserID)
	if owner == s.cfg.Client.Instance() {
		return s.apply(ctx, e)
	}
	_, err := mxrpc.Call(ctx, s.cfg.RPC, owner, editMethod, *e)
	return err
}

// apply makes a change here.
func (s *Service) apply(ctx context.Context, e *edit) error {
	user, err := s.cfg.Store.InternUsers(ctx, []string{e.UserID})
	if err != nil {
		return err
	}
	err = s.writer.Write(ctx, 1, func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]replication.Row[streams.PushRulesRow], error) {
		stored, err := storage.LockPushRules(ctx, tx, user[0])
		if err != nil {
			return nil, err
		}
		c, err := decode(stored)
		if err != nil {
			return nil, err
		}
		changed, err := c.apply(e)
		if err != nil {
			return nil, err
		}
		if !changed {
			return nil, errUnchanged
		}
		rules, err := json.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("encode push rules: %w", err)
		}
		if len(rules) > maxRules {
			return nil, mxerr.TooLarge.WithMessage("There are too many push rules")
		}
		if err := storage.PutPushRules(ctx, tx, storage.PushRules{UserNID: user[0], StreamID: ids[0], WriterNID: writer, Rules: rules}); err != nil {
			return nil, err
		}
		return []replication.Row[streams.PushRulesRow]{{Token: ids[0], Value: streams.PushRulesRow{UserID: e.UserID}}}, nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err == nil && s.cfg.Evaluator != nil {
		s.cfg.Evaluator.Changed(e.UserID)
	}
	return err
}

// errUnchanged rolls a change back that changes nothing.
var errUnchanged = errors.New("nothing to change")

// Position is how far this process has followed the stream.
func (s *Service) Position() replication.Position { return s.follower.Position() }

// Handle has fn called with each update of the stream.
func (s *Service) Handle(fn func(ctx context.Context, u replication.Update[streams.PushRulesRow])) {
	s.follower.Handle(fn)
}

func (s *Service) source(ctx context.Context, writer string, after, upTo int64, limit int) ([]replication.Row[streams.PushRulesRow], int64, error) {
	found, err := storage.PushRulesUpdates(ctx, s.cfg.DB, writer, after, upTo, limit)
	if err != nil {
		return nil, 0, err
	}
	reached := upTo
	if len(found) >= limit {
		reached = found[len(found)-1].StreamID
	}
	rows := make([]replication.Row[streams.PushRulesRow], len(found))
	for i, f := range found {
		rows[i] = replication.Row[streams.PushRulesRow]{Token: f.StreamID, Value: streams.PushRulesRow{UserID: f.UserID}}
	}
	return rows, reached, nil
}

// ForSync answers for /sync, which asks whether the rules have changed within a part of the stream.
type ForSync struct{ *Service }

// PushRules implements sync.PushRules.
func (s ForSync) PushRules(ctx context.Context, userID string, r sync.Range) (json.RawMessage, error) {
	if !r.Since.IsZero() {
		if r.Since.AtLeast(r.Now) {
			return nil, nil
		}
		user, err := s.cfg.Store.UserNID(ctx, userID)
		if err != nil {
			return nil, err
		}
		id, writer, err := storage.PushRulesPlace(ctx, s.cfg.DB, user)
		if err != nil || id == 0 || r.Since.Covers(writer, id) {
			return nil, err
		}
	}
	return s.Service.PushRules(ctx, userID)
}
