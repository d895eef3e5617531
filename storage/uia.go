package storage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// UIASession is user-interactive authentication in progress.
type UIASession struct {
	SessionID string `db:"session_id"`
	// CreatedTS is in milliseconds since the epoch.
	CreatedTS int64 `db:"created_ts"`
	// Operation names what the session authorises.
	Operation string `db:"operation"`
	// UserNID is who asks, nil where nobody is logged in.
	UserNID *UserNID `db:"user_nid"`
	// Request is the request's body without its "auth" key.
	Request json.RawMessage `db:"request"`
	// ServerData is what the server remembers between the stages, a JSON object.
	ServerData json.RawMessage `db:"server_data"`
	// Stages are the completed stages and what each proved.
	Stages map[string]string `db:"-"`
}

// InsertUIASession stores a new session.
func InsertUIASession(ctx context.Context, q Querier, s UIASession) error {
	_, err := q.Exec(ctx, `INSERT INTO ui_auth_sessions (session_id, created_ts, operation, user_nid, request) VALUES ($1, $2, $3, $4, $5)`,
		s.SessionID, s.CreatedTS, s.Operation, s.UserNID, []byte(s.Request))
	if err != nil {
		return fmt.Errorf("insert authentication session: %w", TranslateError(err))
	}
	return nil
}

// By the primary keys; one row, and one a completed stage.
const (
	getUIASessionSQL = `SELECT session_id, created_ts, operation, user_nid, request, server_data FROM ui_auth_sessions WHERE session_id = $1`
	getUIAStagesSQL  = `SELECT stage, result FROM ui_auth_stages WHERE session_id = $1`
)

// GetUIASession returns a session with its completed stages, or [ErrNotFound].
func GetUIASession(ctx context.Context, q Querier, sessionID string) (*UIASession, error) {
	type row struct {
		SessionID  string   `db:"session_id"`
		CreatedTS  int64    `db:"created_ts"`
		Operation  string   `db:"operation"`
		UserNID    *UserNID `db:"user_nid"`
		Request    []byte   `db:"request"`
		ServerData []byte   `db:"server_data"`
	}
	var s *UIASession
	b := &pgx.Batch{}
	b.Queue(getUIASessionSQL, sessionID).Query(func(rows pgx.Rows) error {
		r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
		if err != nil {
			return err
		}
		s = &UIASession{r.SessionID, r.CreatedTS, r.Operation, r.UserNID, r.Request, r.ServerData, map[string]string{}}
		return nil
	})
	b.Queue(getUIAStagesSQL, sessionID).Query(func(rows pgx.Rows) error {
		var stage, result string
		_, err := pgx.ForEachRow(rows, []any{&stage, &result}, func() error {
			s.Stages[stage] = result
			return nil
		})
		return err
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("get authentication session: %w", TranslateError(err))
	}
	return s, nil
}

// CompleteUIAStage records that a stage of a session was completed. It is a [*ConflictError] where there is no such
// session.
func CompleteUIAStage(ctx context.Context, q Querier, sessionID, stage, result string, nowTS int64) error {
	_, err := q.Exec(ctx, `INSERT INTO ui_auth_stages (session_id, stage, result, done_ts) VALUES ($1, $2, $3, $4) ON CONFLICT (session_id, stage) DO NOTHING`,
		sessionID, stage, result, nowTS)
	if err != nil {
		return fmt.Errorf("complete authentication stage: %w", TranslateError(err))
	}
	return nil
}

// SetUIAData sets one key of what the server remembers with a session.
func SetUIAData(ctx context.Context, q Querier, sessionID, key, value string) error {
	_, err := q.Exec(ctx, `UPDATE ui_auth_sessions SET server_data = server_data || jsonb_build_object($2::text, $3::text) WHERE session_id = $1`,
		sessionID, key, value)
	if err != nil {
		return fmt.Errorf("set authentication data: %w", TranslateError(err))
	}
	return nil
}

// DeleteUIASession deletes a session.
func DeleteUIASession(ctx context.Context, q Querier, sessionID string) error {
	if _, err := q.Exec(ctx, `DELETE FROM ui_auth_sessions WHERE session_id = $1`, sessionID); err != nil {
		return fmt.Errorf("delete authentication session: %w", TranslateError(err))
	}
	return nil
}
