package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// Rooms has users leave rooms. *room.Service does.
type Rooms interface {
	// Leave has a user leave a room, decline its invite, or take back a knock.
	Leave(ctx context.Context, who *Requester, roomID, reason string) error
}

// Writer writes events to rooms. *writer.Writer does.
type Writer interface {
	// Send writes drafts to a room in their order, all of them or none.
	Send(ctx context.Context, roomID string, drafts ...writer.Draft) ([]writer.Result, error)
}

// RoomWorkerConfig configures a RoomWorker.
type RoomWorkerConfig struct {
	// Accounts is the service whose changes are carried out promptly. Required.
	Accounts *Service
	// Rooms has users leave. Required.
	Rooms Rooms
	// Writer sends their names. Required.
	Writer Writer
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
	if cfg.Accounts == nil || cfg.Rooms == nil || cfg.Writer == nil {
		return nil, errors.New("account: RoomWorkerConfig.Accounts, Rooms and Writer are required")
	}
	if cfg.Poll == 0 {
		cfg.Poll = time.Minute
	}
	return &RoomWorker{cfg: cfg, log: cfg.Log.With().Str("component", "account_rooms").Logger()}, nil
}

// Run works until ctx is done.
func (w *RoomWorker) Run(ctx context.Context) error {
	task.Poll(ctx, w.cfg.Accounts.roomWork, func() time.Duration {
		if err := w.work(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn().Err(err).Msg("changes of accounts could not be brought into rooms yet")
		}
		return w.cfg.Poll
	})
	return nil
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
			if err := w.room(ctx, job, room); err != nil {
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
func (w *RoomWorker) room(ctx context.Context, job *storage.RoomWork, room storage.RoomName) error {
	for attempt := 1; ; attempt++ {
		var err error
		switch job.Kind {
		case storage.RoomWorkProfile:
			err = w.sendProfile(ctx, job, room)
		case storage.RoomWorkLeave:
			err = w.cfg.Rooms.Leave(ctx, &Requester{UserID: job.UserID}, room.RoomID, "")
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if _, refused := mxerr.As(err); refused || attempt == roomWorkRetries {
			w.log.Info().Err(err).Str("room_id", room.RoomID).Str("user_id", job.UserID).Msg("a change of an account did not reach a room")
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(attempt) * time.Second):
		}
	}
}

// sendProfile sends the m.room.member event with the profile as it is now.
func (w *RoomWorker) sendProfile(ctx context.Context, job *storage.RoomWork, room storage.RoomName) error {
	// Not from the cache: the change may have been made by another process, whose word to drop it is still on its way.
	profiles, err := storage.GetProfiles(ctx, w.cfg.Accounts.cfg.DB, []string{job.UserID})
	if err != nil {
		return err
	}
	p := profiles[job.UserID]
	if p == nil {
		return nil // deactivated meanwhile
	}
	// The list of rooms is some rooms old. Somebody who has left since must not come back by their new name.
	members, err := storage.GetMembers(ctx, w.cfg.Accounts.cfg.DB, room.NID, []storage.UserNID{job.UserNID})
	if err != nil {
		return err
	}
	if len(members) == 0 || members[0].Membership != storage.MembershipJoin {
		return nil
	}
	content, err := json.Marshal(struct {
		Membership  string `json:"membership"`
		DisplayName string `json:"displayname,omitempty"`
		AvatarURL   string `json:"avatar_url,omitempty"`
	}{"join", deref(p.DisplayName), deref(p.AvatarURL)})
	if err != nil {
		return err
	}
	_, err = w.cfg.Writer.Send(ctx, room.RoomID, writer.Draft{
		Type: "m.room.member", StateKey: &job.UserID, Sender: job.UserID, Content: content, SkipUnchanged: true,
	})
	return err
}
