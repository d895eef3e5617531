package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// Rooms is what a change of an account does in rooms.
type Rooms interface {
	// SetMemberProfile sends the m.room.member event of a user who is joined to a room with another display name and
	// avatar, each "" for none. Where nothing changes, nothing need be sent.
	SetMemberProfile(ctx context.Context, roomID, userID, displayName, avatarURL string) error
	// LeaveRoom has a user leave a room, decline its invite, or take back a knock.
	LeaveRoom(ctx context.Context, roomID, userID string) error
}

// RoomWorkerConfig configures a RoomWorker.
type RoomWorkerConfig struct {
	// Accounts is the service whose changes are carried out promptly. Required.
	Accounts *Service
	// Rooms carries them out. Required.
	Rooms Rooms
	// Poll is how often the database is asked for work that another process has left undone. Defaults to a minute.
	Poll time.Duration
	// Log is silent by default.
	Log zerolog.Logger
}

// RoomWorker brings changes of accounts into the users' rooms: a new name or avatar, a deactivation. The work stands in
// the database from the transaction of the change on, and is taken up by whichever process has a RoomWorker: the one
// that made the change at once, any other when that has died.
type RoomWorker struct {
	cfg RoomWorkerConfig
	log zerolog.Logger
}

const (
	roomWorkBatch = 20
	// roomWorkClaim is how long a claim outlives a process that died. It is renewed after each batch of rooms.
	roomWorkClaim   = 2 * time.Minute
	roomWorkRetries = 3
)

// NewRoomWorker checks the configuration. It does no I/O.
func NewRoomWorker(cfg RoomWorkerConfig) (*RoomWorker, error) {
	if cfg.Accounts == nil || cfg.Rooms == nil {
		return nil, errors.New("account: RoomWorkerConfig.Accounts and Rooms are required")
	}
	if cfg.Poll == 0 {
		cfg.Poll = time.Minute
	}
	return &RoomWorker{cfg: cfg, log: cfg.Log.With().Str("component", "account_rooms").Logger()}, nil
}

func (s *Service) wakeRoomWork() {
	select {
	case s.roomWork <- struct{}{}:
	default:
	}
}

// Run works until ctx is done.
func (w *RoomWorker) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-w.cfg.Accounts.roomWork:
		}
		if err := w.work(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn().Err(err).Msg("changes of accounts could not be brought into rooms yet")
		}
		timer.Reset(w.cfg.Poll)
	}
}

// work does all that nobody is at.
func (w *RoomWorker) work(ctx context.Context) error {
	db := w.cfg.Accounts.cfg.DB
	for {
		now := time.Now()
		job, err := storage.ClaimRoomWork(ctx, db, now.UnixMilli(), now.Add(roomWorkClaim).UnixMilli())
		if err != nil || job == nil {
			return err
		}
		if err := w.do(ctx, job); err != nil {
			return fmt.Errorf("%s of %s: %w", job.Kind, job.UserID, err)
		}
	}
}

// do takes one job to its end, or until it is asked for anew.
func (w *RoomWorker) do(ctx context.Context, job *storage.RoomWork) error {
	db := w.cfg.Accounts.cfg.DB
	memberships := []storage.Membership{storage.MembershipJoin}
	if job.Kind == storage.RoomWorkLeave {
		memberships = append(memberships, storage.MembershipInvite, storage.MembershipKnock)
	}
	for {
		rooms, err := storage.GetRoomsAfter(ctx, db, job.UserNID, memberships, job.AfterRoomNID, roomWorkBatch)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			if err := w.room(ctx, job, room.RoomID); err != nil {
				return err
			}
			job.AfterRoomNID = room.NID
		}
		if len(rooms) < roomWorkBatch {
			return storage.FinishRoomWork(ctx, db, job)
		}
		same, err := storage.AdvanceRoomWork(ctx, db, job, job.AfterRoomNID, time.Now().Add(roomWorkClaim).UnixMilli())
		if err != nil {
			return err
		}
		if !same {
			return storage.FinishRoomWork(ctx, db, job) // lets go of the claim; the later change is claimed next
		}
	}
}

// room does the work of one room. A room that refuses (the user was banned meanwhile, say) is passed over.
func (w *RoomWorker) room(ctx context.Context, job *storage.RoomWork, roomID string) error {
	for attempt := 1; ; attempt++ {
		var err error
		switch job.Kind {
		case storage.RoomWorkProfile:
			var name, avatar string
			if name, avatar, err = w.cfg.Accounts.Profile(ctx, job.UserID); err == nil {
				err = w.cfg.Rooms.SetMemberProfile(ctx, roomID, job.UserID, name, avatar)
			}
		case storage.RoomWorkLeave:
			err = w.cfg.Rooms.LeaveRoom(ctx, roomID, job.UserID)
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if _, refused := mxerr.As(err); refused || attempt == roomWorkRetries {
			w.log.Info().Err(err).Str("room_id", roomID).Str("user_id", job.UserID).Msg("a change of an account did not reach a room")
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(attempt) * time.Second):
		}
	}
}

// MemberContent returns the content of the m.room.member event of a user who is joined.
func MemberContent(displayName, avatarURL string) json.RawMessage {
	b, err := json.Marshal(struct {
		Membership  string `json:"membership"`
		DisplayName string `json:"displayname,omitempty"`
		AvatarURL   string `json:"avatar_url,omitempty"`
	}{"join", displayName, avatarURL})
	if err != nil {
		panic(err) // three strings
	}
	return b
}
