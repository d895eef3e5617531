package account

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// uiaSessionLifetime is how long user-interactive authentication may take.
const uiaSessionLifetime = 48 * time.Hour

// Interactive is a request that needs user-interactive authentication.
type Interactive struct {
	// Operation names what is to be done, "DELETE /devices/ABC": a session authorises one operation. Required.
	Operation string
	// Who is the requester, nil where nobody is logged in.
	Who *Requester
	// Body is the request's body, a JSON object.
	Body json.RawMessage
	// Flows are the ways to pass, each a list of stages. Required.
	Flows [][]string
	// Params tells clients what they need to know for a stage. Optional.
	Params map[string]any
	// MayReuse lets the requester through without asking where they passed not long ago (ui_auth.session_timeout).
	MayReuse bool
	// Keep leaves the session in place once it is passed, for operations that answer a repeated request from it.
	Keep bool
	// Forget lists keys of the body that must not be stored with the session, such as passwords.
	Forget []string
}

// Passed is what came of user-interactive authentication that succeeded.
type Passed struct {
	// SessionID is the session, "" where one request was enough.
	SessionID string
	// Stages are the completed stages and what each proved.
	Stages map[string]string
	// Request is the request without "auth": this one's, or, where that is empty, the one the session began with.
	Request json.RawMessage
	// Data is what was stored with SetInteractiveData.
	Data map[string]string
}

// Challenge is the error of a request that has to authenticate (further). It is sent with status 401 as it is.
//
// Spec: client-server API, "User-Interactive Authentication API" (v1.19).
type Challenge struct {
	// Code and Message are set where an attempt failed.
	Code      string         `json:"errcode,omitempty"`
	Message   string         `json:"error,omitempty"`
	Completed []string       `json:"completed,omitempty"`
	Flows     []Flow         `json:"flows"`
	Params    map[string]any `json:"params"`
	Session   string         `json:"session"`
}

// Flow is one way to authenticate.
type Flow struct {
	Stages []string `json:"stages"`
}

// Error implements error.
func (c *Challenge) Error() string {
	if c.Code != "" {
		return "authentication failed: " + c.Code + ": " + c.Message
	}
	return "authentication required"
}

type authDict struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Identifier *Identifier `json:"identifier"`
	User       string      `json:"user"`
	Password   string      `json:"password"`
	Token      string      `json:"token"`
}

// Interact takes a request through user-interactive authentication. It returns a *Challenge as the error where there is
// more to do; M_FORBIDDEN where somebody else's password was given, or the session belongs to another operation.
func (s *Service) Interact(ctx context.Context, in Interactive) (*Passed, error) {
	auth, request, err := splitAuth(in.Body)
	if err != nil {
		return nil, err
	}
	if auth == nil {
		if ok, err := s.recentlyPassed(ctx, &in); err != nil || ok {
			return &Passed{Request: request}, err
		}
		return nil, s.challengeNew(ctx, &in, request)
	}
	if auth.Session == "" {
		return s.interactOnce(ctx, &in, auth, request)
	}

	sess, err := storage.GetUIASession(ctx, s.cfg.DB, auth.Session)
	switch {
	case errors.Is(err, storage.ErrNotFound), err == nil && s.now()-sess.CreatedTS > uiaSessionLifetime.Milliseconds():
		return nil, mxerr.Unknown.WithStatus(400).WithMessage("Unknown session ID: " + auth.Session)
	case err != nil:
		return nil, err
	}
	if err := s.sameOperation(ctx, sess, &in); err != nil {
		return nil, err
	}
	if len(sess.Stages) > 0 && s.completed(in.Flows, sess.Stages) {
		return s.pass(ctx, &in, sess, request)
	}
	if auth.Type != "" && sess.Stages[auth.Type] == "" {
		if !offered(in.Flows, auth.Type, sess.Stages) {
			return nil, s.challenge(&in, sess, mxerr.Unknown.Code, "This stage is not offered now")
		}
		result, err := s.attempt(ctx, &in, auth)
		if fail, ok := mxerr.As(err); ok && fail.Status == 401 {
			return nil, s.challenge(&in, sess, fail.Code, fail.Message)
		}
		if err != nil {
			return nil, err
		}
		if err := storage.CompleteUIAStage(ctx, s.cfg.DB, sess.SessionID, auth.Type, result, s.now()); err != nil {
			return nil, err
		}
		sess.Stages[auth.Type] = result
	}
	if !s.completed(in.Flows, sess.Stages) {
		return nil, s.challenge(&in, sess, "", "")
	}
	return s.pass(ctx, &in, sess, request)
}

// interactOnce serves a client that has guessed the flow and sends its proof at once. Where that suffices no session is
// made.
func (s *Service) interactOnce(ctx context.Context, in *Interactive, auth *authDict, request json.RawMessage) (*Passed, error) {
	sess := &storage.UIASession{Stages: map[string]string{}}
	if auth.Type == "" {
		return nil, s.challengeNew(ctx, in, request)
	}
	var fail *mxerr.Error
	if offered(in.Flows, auth.Type, nil) {
		result, err := s.attempt(ctx, in, auth)
		var ok bool
		if fail, ok = mxerr.As(err); err != nil && (!ok || fail.Status != 401) {
			return nil, err
		}
		if err == nil {
			sess.Stages[auth.Type] = result
			if s.completed(in.Flows, sess.Stages) {
				return s.pass(ctx, in, sess, request)
			}
		}
	} else {
		fail = mxerr.Unknown.WithMessage("This stage is not offered")
	}
	var challenge *Challenge
	if err := s.challengeNew(ctx, in, request); !errors.As(err, &challenge) {
		return nil, err
	}
	for stage, result := range sess.Stages {
		if err := storage.CompleteUIAStage(ctx, s.cfg.DB, challenge.Session, stage, result, s.now()); err != nil {
			return nil, err
		}
		challenge.Completed = append(challenge.Completed, stage)
	}
	if fail != nil {
		challenge.Code, challenge.Message = fail.Code, fail.Message
	}
	return nil, challenge
}

// attempt checks the proof of one stage and returns what it proves. A failure the client may try to mend is a Matrix
// error with status 401.
func (s *Service) attempt(ctx context.Context, in *Interactive, auth *authDict) (string, error) {
	switch auth.Type {
	case StageDummy:
		return "true", nil
	case LoginPassword:
		return s.attemptPassword(ctx, in, auth)
	case StageRegToken:
		return s.attemptRegistrationToken(ctx, auth)
	}
	return "", mxerr.Unknown.WithStatus(401).WithMessage("Unknown authentication type")
}

func (s *Service) attemptPassword(ctx context.Context, in *Interactive, auth *authDict) (string, error) {
	ident := auth.Identifier
	if ident == nil {
		user := auth.User
		if user == "" && in.Who != nil {
			user = in.Who.UserID
		}
		ident = &Identifier{Type: identifierUser, User: user}
	}
	if auth.Password == "" {
		return "", mxerr.MissingParam.WithMessage("Missing param: password")
	}
	a, err := s.CheckPassword(ctx, *ident, auth.Password)
	if err != nil {
		if errors.Is(err, mxerr.Forbidden) || errors.Is(err, mxerr.UserDeactivated) {
			return "", mxerr.Forbidden.WithStatus(401).WithMessage("Invalid username or password")
		}
		return "", err
	}
	if in.Who != nil && a.UserID != in.Who.UserID {
		return "", mxerr.Forbidden.WithMessage("You must authenticate as the user who makes the request")
	}
	return a.UserID, nil
}

func (s *Service) attemptRegistrationToken(ctx context.Context, auth *authDict) (string, error) {
	invalid := mxerr.Unauthorized.WithStatus(401).WithMessage("Invalid registration token")
	if auth.Token == "" {
		return "", mxerr.MissingParam.WithMessage("Missing registration token")
	}
	if checkText("token", auth.Token, 64) != nil {
		return "", invalid
	}
	// The use is counted now, so that a token for one account cannot start two; a session that is never finished gives it
	// back when the token's pending uses are reset by an administrator.
	ok, err := storage.UseRegistrationToken(ctx, s.cfg.DB, auth.Token, s.now())
	if err != nil {
		return "", err
	}
	if !ok {
		return "", invalid
	}
	return auth.Token, nil
}

// CompleteStage completes a stage of a session from outside of its request, as the fallback pages do. It is M_NOT_FOUND
// where there is no such session.
func (s *Service) CompleteStage(ctx context.Context, sessionID, stage, token string) error {
	sess, err := storage.GetUIASession(ctx, s.cfg.DB, sessionID)
	if errors.Is(err, storage.ErrNotFound) {
		return mxerr.NotFound.WithMessage("Unknown session")
	}
	if err != nil {
		return err
	}
	if sess.Stages[stage] != "" {
		return nil
	}
	if stage == LoginPassword {
		return mxerr.NotFound.WithMessage("This stage has no web page")
	}
	result, err := s.attempt(ctx, &Interactive{}, &authDict{Type: stage, Token: token})
	if err != nil {
		return err
	}
	return storage.CompleteUIAStage(ctx, s.cfg.DB, sessionID, stage, result, s.now())
}

// SetInteractiveData remembers a value with a session. Without a session it does nothing.
func (s *Service) SetInteractiveData(ctx context.Context, sessionID, key, value string) error {
	if sessionID == "" {
		return nil
	}
	return storage.SetUIAData(ctx, s.cfg.DB, sessionID, key, value)
}

// InteractiveData returns what was remembered with the session a body names, nil where it names none that exists.
func (s *Service) InteractiveData(ctx context.Context, body json.RawMessage) (map[string]string, error) {
	auth, _, err := splitAuth(body)
	if err != nil || auth == nil || auth.Session == "" {
		return nil, err
	}
	sess, err := storage.GetUIASession(ctx, s.cfg.DB, auth.Session)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return dataOf(sess), nil
}

func dataOf(sess *storage.UIASession) map[string]string {
	data := map[string]string{}
	if len(sess.ServerData) > 0 {
		_ = json.Unmarshal(sess.ServerData, &data) // written by SetUIAData: strings only
	}
	return data
}

func (s *Service) sameOperation(ctx context.Context, sess *storage.UIASession, in *Interactive) error {
	other := mxerr.Forbidden.WithMessage("Requested operation has changed during the UI authentication session")
	if sess.Operation != in.Operation || (sess.UserNID != nil) != (in.Who != nil) {
		return other
	}
	if in.Who == nil {
		return nil
	}
	user, err := s.userNID(ctx, in.Who.UserID)
	if err == nil && user != *sess.UserNID {
		return other
	}
	return err
}

func (s *Service) completed(flows [][]string, done map[string]string) bool {
	return slices.ContainsFunc(flows, func(stages []string) bool {
		return !slices.ContainsFunc(stages, func(stage string) bool { return done[stage] == "" })
	})
}

// offered reports whether a stage comes next in a flow.
func offered(flows [][]string, stage string, done map[string]string) bool {
	for _, stages := range flows {
		for _, next := range stages {
			if next == stage {
				return true
			}
			if done[next] == "" {
				break
			}
		}
	}
	return false
}

// pass ends an authentication that succeeded.
func (s *Service) pass(ctx context.Context, in *Interactive, sess *storage.UIASession, request json.RawMessage) (*Passed, error) {
	if in.Who != nil && in.Who.TokenID != 0 && s.cfg.Login.UIAuth.SessionTimeout > 0 {
		if err := storage.SetTokenValidated(ctx, s.cfg.DB, in.Who.TokenID, s.now()); err != nil {
			return nil, err
		}
	}
	if sess.SessionID != "" && !in.Keep {
		if err := storage.DeleteUIASession(ctx, s.cfg.DB, sess.SessionID); err != nil {
			return nil, err
		}
	}
	if isEmptyObject(request) && len(sess.Request) > 0 {
		request = sess.Request
	}
	return &Passed{SessionID: sess.SessionID, Stages: sess.Stages, Request: request, Data: dataOf(sess)}, nil
}

// recentlyPassed reports whether the requester passed not long ago and the operation lets that count.
func (s *Service) recentlyPassed(ctx context.Context, in *Interactive) (bool, error) {
	timeout := s.cfg.Login.UIAuth.SessionTimeout
	if !in.MayReuse || timeout <= 0 || in.Who == nil || in.Who.TokenID == 0 {
		return false, nil
	}
	ts, err := storage.GetTokenValidated(ctx, s.cfg.DB, in.Who.TokenID)
	return err == nil && ts > s.now()-timeout.Milliseconds(), err
}

// challengeNew begins a session and returns its challenge as the error.
func (s *Service) challengeNew(ctx context.Context, in *Interactive, request json.RawMessage) error {
	sess := &storage.UIASession{SessionID: RandomLetters(24), CreatedTS: s.now(), Operation: in.Operation, Request: forget(request, in.Forget)}
	if in.Who != nil {
		user, err := s.userNID(ctx, in.Who.UserID)
		if err != nil {
			return err
		}
		sess.UserNID = &user
	}
	if err := storage.InsertUIASession(ctx, s.cfg.DB, *sess); err != nil {
		return err
	}
	return s.challenge(in, sess, "", "")
}

func (s *Service) challenge(in *Interactive, sess *storage.UIASession, code, message string) error {
	c := &Challenge{Code: code, Message: message, Session: sess.SessionID, Params: in.Params}
	if c.Params == nil {
		c.Params = map[string]any{}
	}
	for _, stages := range in.Flows {
		c.Flows = append(c.Flows, Flow{stages})
	}
	for stage := range sess.Stages {
		c.Completed = append(c.Completed, stage)
	}
	slices.Sort(c.Completed)
	return c
}

// splitAuth takes the "auth" key out of a body. auth is nil where there is none.
func splitAuth(body json.RawMessage) (*authDict, json.RawMessage, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, json.RawMessage("{}"), nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, nil, mxerr.NotJSON.Wrap(err)
	}
	raw, ok := m["auth"]
	delete(m, "auth")
	request, err := json.Marshal(m)
	if err != nil {
		return nil, nil, mxerr.NotJSON.Wrap(err)
	}
	if !ok || string(raw) == "null" {
		return nil, request, nil
	}
	var auth authDict
	if err := json.Unmarshal(raw, &auth); err != nil {
		return nil, nil, mxerr.BadJSON.WithMessage("Key \"auth\" is not as it should be").Wrap(err)
	}
	for _, text := range []string{auth.Session, auth.Type} {
		if err := checkText("auth", text, 255); err != nil {
			return nil, nil, err
		}
	}
	return &auth, request, nil
}

func forget(request json.RawMessage, keys []string) json.RawMessage {
	if len(keys) == 0 {
		return request
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(request, &m) != nil {
		return json.RawMessage("{}")
	}
	for _, k := range keys {
		delete(m, k)
	}
	out, err := json.Marshal(m)
	if err != nil {
		return json.RawMessage("{}")
	}
	return out
}

func isEmptyObject(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "{}" }
