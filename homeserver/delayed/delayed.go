// Package delayed sends events later (MSC4140): when a time has passed that clients can start anew, or on request.
//
// Scheduled events are rows in the database. Every process sends what is due, whoever scheduled it: it takes the row for
// itself first, and sends the event under its delay id as transaction id, so that a process that dies in between leaves
// the event to another and it is still sent once.
package delayed

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/ratelimit"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/storage"
)

// Requester is who makes a request.
type Requester = requester.Requester

const (
	// maxContent bounds the content of an event, whose size is checked exactly when it is sent.
	maxContent = 64 << 10
	// page is how many events a list has.
	page = 100
	// keepFinalised is how long it is told what became of an event.
	keepFinalised = 7 * 24 * time.Hour
)

// Rooms sends events. *room.Service does.
type Rooms interface {
	// Send sends a message event and returns its event id.
	Send(ctx context.Context, who *Requester, roomID string, req room.SendRequest) (string, error)
	// SendState sends a state event and returns its event id.
	SendState(ctx context.Context, who *Requester, roomID, stateKey string, req room.SendRequest) (string, error)
}

// Accounts knows the accounts of this server. *account.Service does.
type Accounts interface {
	// Account returns the account of a user.
	Account(ctx context.Context, userID string) (*storage.Account, error)
}

// Config configures a Service.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Rooms sends the events. Required.
	Rooms Rooms
	// Accounts says whose events are still to be sent. Required.
	Accounts Accounts
	// Limits limits the events sent (rc_message). Without it nothing is limited.
	Limits *ratelimit.Limiter
	// MaxDelay is the longest delay. Zero refuses all.
	MaxDelay time.Duration
	// MaxScheduled bounds the events one user has scheduled at a time. Defaults to 100.
	MaxScheduled int
	// Poll is how often the database is asked for events that other processes have scheduled. Defaults to 2 seconds.
	Poll time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Service schedules events and sends them when they are due. It is safe for concurrent use.
type Service struct {
	cfg  Config
	log  zerolog.Logger
	wake task.Wake
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.Rooms == nil || cfg.Accounts == nil {
		return nil, errors.New("delayed: Config.DB, Rooms and Accounts are required")
	}
	if cfg.MaxScheduled == 0 {
		cfg.MaxScheduled = 100
	}
	if cfg.Poll == 0 {
		cfg.Poll = 2 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg, log: cfg.Log.With().Str("component", "delayed_events").Logger(), wake: task.NewWake()}, nil
}

// Enabled reports whether the server takes delayed events.
func (s *Service) Enabled() bool { return s.cfg.MaxDelay > 0 }

// Request is an event to be sent later.
type Request struct {
	RoomID, Type string
	// StateKey makes it a state event.
	StateKey *string
	// TxnID makes the request idempotent for the user's device; "" for none.
	TxnID string
	// Content is a JSON object.
	Content json.RawMessage
	// TS is the time of the event, which only application services may set; 0 for that of its sending.
	TS int64
	// Delay is how long to wait.
	Delay time.Duration
}

// Scheduled returns the delay id of what the device has scheduled under the same transaction id before, or "". Such a
// request need not say again what to send.
func (s *Service) Scheduled(ctx context.Context, who *Requester, roomID, txnID string) (string, error) {
	if txnID == "" {
		return "", nil
	}
	user, err := s.user(ctx, who)
	if err != nil {
		return "", err
	}
	return storage.FindDelayedTxn(ctx, s.cfg.DB, user, who.DeviceID, roomID, txnID)
}

// Schedule has an event sent later and returns its delay id. Whether the user may send it is only looked at then.
//
// Errors: M_FORBIDDEN where the server takes none; M_INVALID_PARAM; M_UNKNOWN with org.matrix.msc4140.errcode
// M_MAX_DELAY_EXCEEDED; M_LIMIT_EXCEEDED for a user who has too many scheduled; M_BAD_JSON; M_TOO_LARGE.
func (s *Service) Schedule(ctx context.Context, who *Requester, req Request) (string, error) {
	if err := s.check(who, &req); err != nil {
		return "", err
	}
	user, err := s.user(ctx, who)
	if err != nil {
		return "", err
	}
	now := s.cfg.Now()
	e := storage.DelayedEvent{
		DelayID: rand.Text(), UserNID: user, DeviceID: who.DeviceID, RoomID: req.RoomID, Type: req.Type, StateKey: req.StateKey,
		Content: req.Content, Delay: req.Delay.Milliseconds(), RunningSince: now.UnixMilli(),
	}
	if req.TxnID != "" {
		e.TxnID = &req.TxnID
	}
	if req.TS != 0 {
		e.OriginServerTS = &req.TS
	}
	var delayID string
	err = storage.InTx(ctx, s.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
		delayID, err = storage.InsertDelayedEvent(ctx, tx, e, s.cfg.MaxScheduled)
		return err
	})
	if errors.Is(err, storage.ErrTooManyDelayed) {
		next, err := storage.NextDelayedTS(ctx, s.cfg.DB, user)
		if err != nil {
			return "", err
		}
		return "", mxerr.RetryAfter(time.UnixMilli(next).Sub(now)).WithMessage("The maximum number of delayed events has been reached")
	}
	if err != nil {
		return "", err
	}
	s.wake.Up()
	return delayID, nil
}

func (s *Service) check(who *Requester, req *Request) error {
	switch {
	case !s.Enabled():
		return mxerr.Forbidden.WithMessage("This server does not take delayed events")
	case req.Delay <= 0:
		return mxerr.InvalidParam.WithMessage("The delay must be positive")
	case req.Delay > s.cfg.MaxDelay:
		return mxerr.Unknown.WithStatus(400).WithMessage("The requested delay exceeds the allowed maximum").
			WithField("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED").
			WithField("org.matrix.msc4140.max_delay", s.cfg.MaxDelay.Milliseconds())
	case !id.IsRoom(req.RoomID):
		return mxerr.InvalidParam.WithMessage("That is not a room ID")
	case req.Type == "":
		return mxerr.InvalidParam.WithMessage("The event type must not be empty")
	case len(req.Type) > 255 || req.StateKey != nil && len(*req.StateKey) > 255:
		return mxerr.TooLarge.WithMessage("The event type or state key is too long")
	case len(req.Content) > maxContent:
		return mxerr.TooLarge.WithMessage("The event is too large")
	case !bytes.HasPrefix(bytes.TrimLeft(req.Content, " \t\r\n"), []byte("{")):
		return mxerr.BadJSON.WithMessage("The content must be a JSON object")
	case req.TS != 0 && who.AppserviceID == "":
		return mxerr.Forbidden.WithMessage("Only application services may set the time of an event")
	case who.Suspended:
		return mxerr.UserSuspended
	}
	return nil
}

func (s *Service) user(ctx context.Context, who *Requester) (storage.UserNID, error) {
	users, err := storage.InternUsers(ctx, s.cfg.DB, []string{who.UserID})
	if err != nil {
		return 0, err
	}
	return users[0].NID, nil
}

// Details describes a delayed event to its user.
type Details struct {
	DelayID  string          `json:"delay_id"`
	RoomID   string          `json:"room_id"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key,omitempty"`
	Delay    int64           `json:"delay"`
	Since    int64           `json:"running_since"`
	Content  json.RawMessage `json:"content"`
	// Error, EventID and FinalisedTS are of events that were refused, sent, or are done with in any way.
	Error       json.RawMessage `json:"error,omitempty"`
	EventID     *string         `json:"event_id,omitempty"`
	FinalisedTS *int64          `json:"origin_server_ts,omitempty"`
}

func details(e *storage.DelayedEvent) Details {
	return Details{
		DelayID: e.DelayID, RoomID: e.RoomID, Type: e.Type, StateKey: e.StateKey, Delay: e.Delay, Since: e.RunningSince,
		Content: e.Content, Error: e.Error, EventID: e.EventID, FinalisedTS: e.FinalisedTS,
	}
}

// List is a page of a user's delayed events.
type List struct {
	Events []Details `json:"delayed_events"`
	// NextBatch is the token of the next page, "" on the last.
	NextBatch string `json:"next_batch,omitempty"`
}

// ListRequest says which events to list.
type ListRequest struct {
	// Finalised lists what became of events instead of those that are scheduled.
	Finalised bool
	// RoomID, if not "", lists those of one room.
	RoomID string
	// From is the NextBatch of the page before, or "".
	From string
}

// List returns the user's events in the order of their time.
func (s *Service) List(ctx context.Context, who *Requester, req ListRequest) (*List, error) {
	var afterTS int64
	var afterID string
	if req.From != "" {
		if n, err := fmt.Sscanf(req.From, "%d_%s", &afterTS, &afterID); err != nil || n != 2 {
			return nil, mxerr.InvalidParam.WithMessage("Query parameter from is not a token of this endpoint")
		}
	}
	user, err := s.user(ctx, who)
	if err != nil {
		return nil, err
	}
	rows, err := storage.ListDelayedEvents(ctx, s.cfg.DB, user, req.Finalised, req.RoomID, afterTS, afterID, page+1)
	if err != nil {
		return nil, err
	}
	out := &List{Events: make([]Details, 0, len(rows))}
	for i := range rows[:min(len(rows), page)] {
		out.Events = append(out.Events, details(&rows[i]))
	}
	if len(rows) > page {
		out.NextBatch = fmt.Sprintf("%d_%s", rows[page-1].SendTS, rows[page-1].DelayID)
	}
	return out, nil
}

// Get returns one of the user's events: M_NOT_FOUND where there is none.
func (s *Service) Get(ctx context.Context, who *Requester, delayID string) (*Details, error) {
	e, err := s.find(ctx, delayID)
	if err != nil {
		return nil, err
	}
	if e.UserID != who.UserID {
		return nil, notFound()
	}
	d := details(e)
	return &d, nil
}

func notFound() error { return mxerr.NotFound.WithMessage("Delayed event not found") }

func (s *Service) find(ctx context.Context, delayID string) (*storage.DelayedEvent, error) {
	e, err := storage.GetDelayedEvent(ctx, s.cfg.DB, delayID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, notFound()
	}
	return e, err
}
