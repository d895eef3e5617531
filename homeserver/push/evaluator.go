package push

import (
	"context"
	"errors"
	"fmt"
	"strings"
	gosync "sync"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// EvaluatorConfig holds what an Evaluator needs.
type EvaluatorConfig struct {
	// DB is the database. Required.
	DB *storage.DB
	// ServerName is the name of this server. Required.
	ServerName string
	// Log is silent by default.
	Log zerolog.Logger
}

// Evaluator evaluates push rules where events are written: it implements writer.Notifier. It is safe for concurrent use;
// the audiences it makes are not.
type Evaluator struct {
	cfg      EvaluatorConfig
	compiler *compiler
	// text and everybody are the shared program of those who have changed nothing.
	text      string
	everybody program

	mu gosync.Mutex
	// changed are the users whose rules were changed last; the first of them was the change number first.
	changed []string
	first   int
}

// maxChanged is how many changes of rules an audience may miss before it looks at everybody's again.
const maxChanged = 1024

// NewEvaluator makes an Evaluator. It does no I/O.
func NewEvaluator(cfg EvaluatorConfig) (*Evaluator, error) {
	if cfg.DB == nil || cfg.ServerName == "" {
		return nil, errors.New("push: EvaluatorConfig.DB and ServerName are required")
	}
	e := &Evaluator{cfg: cfg, compiler: newCompiler()}
	e.everybody = e.compiler.program(nil, "")
	e.text = e.everybody.shared().text()
	return e, nil
}

// Changed says that rules of users are no longer as they were.
func (e *Evaluator) Changed(userIDs ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.changed = append(e.changed, userIDs...)
	if drop := len(e.changed) - maxChanged; drop > 0 {
		e.changed = append([]string(nil), e.changed[drop:]...)
		e.first += drop
	}
}

// changes returns the users whose rules were changed since the change number seen, whether that is all of them, and the
// number to ask with next.
func (e *Evaluator) changes(seen int) (userIDs []string, all bool, next int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next = e.first + len(e.changed)
	if seen < e.first {
		return nil, false, next
	}
	return append([]string(nil), e.changed[seen-e.first:]...), true, next
}

// Audience implements writer.Notifier.
func (e *Evaluator) Audience(ctx context.Context, room *store.Room, fresh bool) (writer.Audience, error) {
	a := newAudience(e, room)
	// Before the rules are read, so that none that is changed meanwhile is missed.
	_, _, a.seen = e.changes(-1)
	if fresh {
		return a, nil
	}
	rows, err := storage.PushMembers(ctx, e.cfg.DB, room.NID)
	if err != nil {
		return nil, err
	}
	stats, err := storage.GetRoomStats(ctx, e.cfg.DB, []storage.RoomNID{room.NID})
	if err != nil {
		return nil, err
	}
	for _, s := range stats {
		a.joined = int64(s.Joined)
	}
	compiled := make(map[string]program)
	for i := range rows {
		a.add(e.member(&rows[i], room.ID, compiled))
	}
	return a, nil
}

// member makes a member of a room. compiled, which may be nil, are programs by what they were made from, so that people
// who have changed the same share one.
func (e *Evaluator) member(row *storage.PushMember, roomID string, compiled map[string]program) *member {
	m := &member{nid: row.UserNID, person: newPerson(row.UserID, row.DisplayName), recorded: row.Subject, program: e.everybody}
	if len(row.Rules) == 0 {
		return m
	}
	if p, ok := compiled[string(row.Rules)]; ok {
		m.program = p
		return m
	}
	c, err := decode(row.Rules)
	if err != nil {
		// As if nothing had been changed: the messages of the room must not fail over it.
		e.cfg.Log.Error().Err(err).Str("user_id", row.UserID).Msg("Push rules cannot be read")
		return m
	}
	m.program = e.compiler.program(c, row.UserID).in(roomID)
	if compiled != nil && !m.program.ownPersonal() {
		compiled[string(row.Rules)] = m.program
	}
	return m
}

// ownPersonal reports whether one of the user's own rules has a test for this user, so that it is no other's.
func (p program) ownPersonal() bool {
	for i := range p {
		for j := range p[i].tests {
			if p[i].own && p[i].tests[j].personal() {
				return true
			}
		}
	}
	return false
}

// group returns the number and the program of the group of a user with the given program.
func (e *Evaluator) group(p program) (storage.PushSubject, program) {
	shared := p.shared()
	if text := shared.text(); text != e.text {
		return subjectOf(text), shared
	}
	return storage.PushDefault, shared
}

func (e *Evaluator) isLocal(userID string) bool {
	_, server, _ := strings.Cut(userID, ":")
	return server == e.cfg.ServerName
}

var (
	_ writer.Notifier = (*Evaluator)(nil)
	_ writer.Audience = (*audience)(nil)
)

// readError wraps an error of reading what an event needs.
func readError(err error) error { return fmt.Errorf("read who is to be notified: %w", err) }
