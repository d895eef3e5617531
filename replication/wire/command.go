// Package wire is the line protocol between the processes of a server: one command a line,
// a name and its arguments separated by single spaces, as Synapse's replication protocol
// has it.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Command is one line of the protocol. The types of this package are all there are.
type Command interface {
	// Name is the first word of the line, such as "RDATA".
	Name() string
	// args appends the rest of the line with a leading space, or nothing.
	args(dst []byte) ([]byte, error)
}

// The commands. A field that is a word must not be empty or hold white space; Append says
// so when it is.
type (
	// Server opens a TCP connection, from the server's side: the name of the homeserver.
	Server struct{ ServerName string }

	// RData is a row of a stream.
	RData struct {
		Stream   string
		Instance string // the writer
		Token    int64  // the row's token, 0 when Batch
		Batch    bool   // the row belongs to the token of the next row that has one
		Row      string // JSON, in one line
	}

	// Position says that a writer went from Prev to Token, and that the rows between, if
	// any, were sent before it. As answer to REPLICATE both are where it stands.
	Position struct {
		Stream   string
		Instance string
		Prev     int64
		Token    int64
	}

	// Error reports a problem to the other end of a TCP connection.
	Error struct{ Text string }

	// Ping keeps a TCP connection alive; the text is by custom the time in ms.
	Ping struct{ Text string }

	// ClientName names the process at the other end of a TCP connection: NAME.
	ClientName struct{ Client string }

	// Replicate asks all writers for their positions. Over TCP it also starts the flow of
	// everything. With Streams, our addition, it limits the flow of rows to the named
	// streams, asks for nothing, and is answered with the same line once it is in force;
	// "-" alone stops the flow of commands too.
	Replicate struct{ Streams []string }

	// UserSync says that a device of a user began or ended syncing with an instance.
	UserSync struct {
		InstanceID string
		UserID     string
		DeviceID   string // may be empty
		Syncing    bool   // start or end
		LastSyncMS int64
	}

	// ClearUserSync says that nobody syncs with an instance any more.
	ClearUserSync struct{ InstanceID string }

	// FederationAck says how far a federation sender has come in the federation stream.
	FederationAck struct {
		Instance string
		Token    int64
	}

	// LockReleased says that a lock that others may wait for is free.
	LockReleased struct {
		Instance string
		Lock     string
		Key      string
	}

	// NewActiveTask says that a task was scheduled for now.
	NewActiveTask struct{ TaskID string }

	// CancelTask asks whoever runs a task to stop it.
	CancelTask struct{ TaskID string }

	// RemoteServerUp says that a remote server was heard of after it had been down.
	RemoteServerUp struct{ Server string }

	// UserIP reports a request of a user, for the record of clients' addresses.
	UserIP struct {
		UserID      string
		AccessToken string
		IP          string
		UserAgent   string
		DeviceID    string // may be empty
		LastSeenMS  int64
	}

	// RemovePusher asks for a pusher to be deleted.
	RemovePusher struct {
		AppID   string
		PushKey string
		UserID  string
	}
)

// Name implements Command.
func (Server) Name() string { return "SERVER" }

// Name implements Command.
func (RData) Name() string { return "RDATA" }

// Name implements Command.
func (Position) Name() string { return "POSITION" }

// Name implements Command.
func (Error) Name() string { return "ERROR" }

// Name implements Command.
func (Ping) Name() string { return "PING" }

// Name implements Command.
func (ClientName) Name() string { return "NAME" }

// Name implements Command.
func (Replicate) Name() string { return "REPLICATE" }

// Name implements Command.
func (UserSync) Name() string { return "USER_SYNC" }

// Name implements Command.
func (ClearUserSync) Name() string { return "CLEAR_USER_SYNC" }

// Name implements Command.
func (FederationAck) Name() string { return "FEDERATION_ACK" }

// Name implements Command.
func (LockReleased) Name() string { return "LOCK_RELEASED" }

// Name implements Command.
func (NewActiveTask) Name() string { return "NEW_ACTIVE_TASK" }

// Name implements Command.
func (CancelTask) Name() string { return "CANCEL_TASK" }

// Name implements Command.
func (RemoteServerUp) Name() string { return "REMOTE_SERVER_UP" }

// Name implements Command.
func (UserIP) Name() string { return "USER_IP" }

// Name implements Command.
func (RemovePusher) Name() string { return "REMOVE_PUSHER" }

// Append appends cmd as a line, without a newline. It fails when a field cannot be
// written: an empty word, white space in a word, a line break, a negative number.
func Append(dst []byte, cmd Command) ([]byte, error) {
	n := len(dst)
	dst = append(dst, cmd.Name()...)
	dst, err := cmd.args(dst)
	if err != nil {
		return dst[:n], fmt.Errorf("format %s: %w", cmd.Name(), err)
	}
	return dst, nil
}

// Format is Append to a new string.
func Format(cmd Command) (string, error) {
	b, err := Append(nil, cmd)
	return string(b), err
}

func (c Server) args(dst []byte) ([]byte, error) { return word(dst, c.ServerName) }
func (c Error) args(dst []byte) ([]byte, error)  { return tail(dst, c.Text) }
func (c Ping) args(dst []byte) ([]byte, error)   { return tail(dst, c.Text) }

func (c RData) args(dst []byte) ([]byte, error) {
	dst, err := words(dst, c.Stream, c.Instance)
	switch {
	case err != nil:
		return dst, err
	case c.Batch:
		dst = append(dst, " batch"...)
	default:
		if dst, err = number(dst, c.Token); err != nil {
			return dst, err
		}
	}
	if c.Row == "" {
		return dst, errors.New("no row")
	}
	return tail(dst, c.Row)
}

func (c Position) args(dst []byte) ([]byte, error) {
	dst, err := words(dst, c.Stream, c.Instance)
	if err != nil {
		return dst, err
	}
	if dst, err = number(dst, c.Prev); err != nil {
		return dst, err
	}
	return number(dst, c.Token)
}

func (c ClientName) args(dst []byte) ([]byte, error) {
	if c.Client == "" {
		return dst, errors.New("no name")
	}
	return tail(dst, c.Client)
}

func (c Replicate) args(dst []byte) ([]byte, error) { return words(dst, c.Streams...) }

func (c UserSync) args(dst []byte) ([]byte, error) {
	dst, err := words(dst, c.InstanceID, c.UserID)
	if err != nil {
		return dst, err
	}
	device := c.DeviceID
	if device == "" {
		device = "None"
	}
	if dst, err = tail(dst, device); err != nil {
		return dst, err
	}
	if c.Syncing {
		dst = append(dst, " start"...)
	} else {
		dst = append(dst, " end"...)
	}
	return number(dst, c.LastSyncMS)
}

func (c ClearUserSync) args(dst []byte) ([]byte, error) { return word(dst, c.InstanceID) }

func (c FederationAck) args(dst []byte) ([]byte, error) {
	dst, err := word(dst, c.Instance)
	if err != nil {
		return dst, err
	}
	return number(dst, c.Token)
}

func (c LockReleased) args(dst []byte) ([]byte, error) {
	return jsonTail(dst, [3]string{c.Instance, c.Lock, c.Key})
}

func (c NewActiveTask) args(dst []byte) ([]byte, error)  { return word(dst, c.TaskID) }
func (c CancelTask) args(dst []byte) ([]byte, error)     { return word(dst, c.TaskID) }
func (c RemoteServerUp) args(dst []byte) ([]byte, error) { return word(dst, c.Server) }

func (c UserIP) args(dst []byte) ([]byte, error) {
	dst, err := word(dst, c.UserID)
	if err != nil {
		return dst, err
	}
	var device *string
	if c.DeviceID != "" {
		device = &c.DeviceID
	}
	return jsonTail(dst, [5]any{c.AccessToken, c.IP, c.UserAgent, device, c.LastSeenMS})
}

func (c RemovePusher) args(dst []byte) ([]byte, error) {
	return words(dst, c.AppID, c.PushKey, c.UserID)
}

func word(dst []byte, s string) ([]byte, error) {
	if s == "" {
		return dst, errors.New("empty word")
	}
	if strings.ContainsAny(s, " \t\r\n") {
		return dst, fmt.Errorf("white space in %.64q", s)
	}
	return append(append(dst, ' '), s...), nil
}

func words(dst []byte, list ...string) (_ []byte, err error) {
	for _, s := range list {
		if dst, err = word(dst, s); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func number(dst []byte, n int64) ([]byte, error) {
	if n < 0 {
		return dst, fmt.Errorf("negative number %d", n)
	}
	return strconv.AppendInt(append(dst, ' '), n, 10), nil
}

// tail appends the free text that ends a line.
func tail(dst []byte, s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return dst, errors.New("line break in text")
	}
	if s == "" {
		return dst, nil
	}
	return append(append(dst, ' '), s...), nil
}

func jsonTail(dst []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	return append(append(dst, ' '), b...), nil
}
