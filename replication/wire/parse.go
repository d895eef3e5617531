package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// UnknownCommandError says that a line is not a command of the protocol as we know it. A
// newer process may send one; it is to be passed over.
type UnknownCommandError struct{ Name string }

// Error implements error.
func (e *UnknownCommandError) Error() string {
	return fmt.Sprintf("unknown replication command %.32q", e.Name)
}

// Parse reads a line. A line break at its end is dropped. It never panics; anything that is
// not a whole and well-formed command is an error.
func Parse(line string) (Command, error) {
	line = strings.TrimRight(line, "\r\n")
	name, rest, _ := strings.Cut(line, " ")
	cmd, err := parseArgs(name, rest)
	if err != nil {
		var unknown *UnknownCommandError
		if errors.As(err, &unknown) {
			return nil, err
		}
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	return cmd, nil
}

func parseArgs(name, rest string) (Command, error) {
	if strings.ContainsAny(rest, "\r\n") {
		return nil, errors.New("line break inside the line")
	}
	switch name {
	case "RDATA":
		return parseRData(rest)
	case "POSITION":
		return parsePosition(rest)
	case "SERVER":
		w, err := oneWord(rest)
		return Server{w}, err
	case "ERROR":
		return Error{rest}, nil
	case "PING":
		return Ping{rest}, nil
	case "NAME":
		if rest == "" {
			return nil, errors.New("no name")
		}
		return ClientName{rest}, nil
	case "REPLICATE":
		if rest == "" {
			return Replicate{}, nil
		}
		list := strings.Split(rest, " ")
		for _, w := range list {
			if err := checkWord(w); err != nil {
				return nil, err
			}
		}
		return Replicate{list}, nil
	case "USER_SYNC":
		return parseUserSync(rest)
	case "CLEAR_USER_SYNC":
		w, err := oneWord(rest)
		return ClearUserSync{w}, err
	case "FEDERATION_ACK":
		instance, n, _ := strings.Cut(rest, " ")
		if err := checkWord(instance); err != nil {
			return nil, err
		}
		token, err := parseNumber(n)
		return FederationAck{instance, token}, err
	case "LOCK_RELEASED":
		var list []string
		if err := json.Unmarshal([]byte(rest), &list); err != nil {
			return nil, err
		}
		if len(list) != 3 {
			return nil, fmt.Errorf("%d values, expected 3", len(list))
		}
		return LockReleased{list[0], list[1], list[2]}, nil
	case "NEW_ACTIVE_TASK":
		w, err := oneWord(rest)
		return NewActiveTask{w}, err
	case "CANCEL_TASK":
		w, err := oneWord(rest)
		return CancelTask{w}, err
	case "REMOTE_SERVER_UP":
		w, err := oneWord(rest)
		return RemoteServerUp{w}, err
	case "USER_IP":
		return parseUserIP(rest)
	case "REMOVE_PUSHER":
		list := strings.Split(rest, " ")
		if len(list) != 3 {
			return nil, fmt.Errorf("%d words, expected 3", len(list))
		}
		for _, w := range list {
			if err := checkWord(w); err != nil {
				return nil, err
			}
		}
		return RemovePusher{list[0], list[1], list[2]}, nil
	}
	return nil, &UnknownCommandError{name}
}

// ParseRData is Parse for a line that is known to begin with "RDATA ", without an
// allocation. ok is false when it does not.
func ParseRData(line string) (cmd RData, ok bool, err error) {
	rest, ok := strings.CutPrefix(line, "RDATA ")
	if !ok {
		return RData{}, false, nil
	}
	cmd, err = parseRData(rest)
	if err != nil {
		err = fmt.Errorf("parse RDATA: %w", err)
	}
	return cmd, true, err
}

// ParsePosition is Parse for a line that is known to begin with "POSITION ", without an
// allocation. ok is false when it does not.
func ParsePosition(line string) (cmd Position, ok bool, err error) {
	rest, ok := strings.CutPrefix(line, "POSITION ")
	if !ok {
		return Position{}, false, nil
	}
	cmd, err = parsePosition(rest)
	if err != nil {
		err = fmt.Errorf("parse POSITION: %w", err)
	}
	return cmd, true, err
}

func parseRData(rest string) (c RData, err error) {
	var token string
	c.Stream, rest, _ = strings.Cut(rest, " ")
	c.Instance, rest, _ = strings.Cut(rest, " ")
	token, c.Row, _ = strings.Cut(rest, " ")
	if err := checkWord(c.Stream); err != nil {
		return RData{}, err
	}
	if err := checkWord(c.Instance); err != nil {
		return RData{}, err
	}
	if token == "batch" {
		c.Batch = true
	} else if c.Token, err = parseNumber(token); err != nil {
		return RData{}, err
	}
	if c.Row == "" {
		return RData{}, errors.New("no row")
	}
	return c, nil
}

func parsePosition(rest string) (c Position, err error) {
	var prev string
	c.Stream, rest, _ = strings.Cut(rest, " ")
	c.Instance, rest, _ = strings.Cut(rest, " ")
	prev, rest, _ = strings.Cut(rest, " ")
	if err := checkWord(c.Stream); err != nil {
		return Position{}, err
	}
	if err := checkWord(c.Instance); err != nil {
		return Position{}, err
	}
	if c.Prev, err = parseNumber(prev); err != nil {
		return Position{}, err
	}
	if c.Token, err = parseNumber(rest); err != nil {
		return Position{}, err
	}
	return c, nil
}

// parseUserSync reads both forms: since device ids came in, and before. A device id may
// hold spaces, so it is what stands between the user and the last two words.
func parseUserSync(rest string) (Command, error) {
	var c UserSync
	c.InstanceID, rest, _ = strings.Cut(rest, " ")
	c.UserID, rest, _ = strings.Cut(rest, " ")
	if err := checkWord(c.InstanceID); err != nil {
		return nil, err
	}
	if err := checkWord(c.UserID); err != nil {
		return nil, err
	}
	i := strings.LastIndexByte(rest, ' ')
	if i < 0 {
		return nil, errors.New("too few words")
	}
	ms, err := parseNumber(rest[i+1:])
	if err != nil {
		return nil, err
	}
	c.LastSyncMS = ms
	state := rest[:i]
	if i := strings.LastIndexByte(state, ' '); i >= 0 {
		c.DeviceID, state = state[:i], state[i+1:]
		if c.DeviceID == "" {
			return nil, errors.New("empty device id")
		}
		if c.DeviceID == "None" {
			c.DeviceID = ""
		}
	}
	switch state {
	case "start":
		c.Syncing = true
	case "end":
	default:
		return nil, fmt.Errorf("state is %.32q, expected start or end", state)
	}
	return c, nil
}

func parseUserIP(rest string) (Command, error) {
	var c UserIP
	var data string
	c.UserID, data, _ = strings.Cut(rest, " ")
	if err := checkWord(c.UserID); err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(data), &list); err != nil {
		return nil, err
	}
	if len(list) != 5 {
		return nil, fmt.Errorf("%d values, expected 5", len(list))
	}
	for i, into := range []any{&c.AccessToken, &c.IP, &c.UserAgent, &c.DeviceID, &c.LastSeenMS} {
		if err := json.Unmarshal(list[i], into); err != nil {
			return nil, fmt.Errorf("value %d: %w", i, err)
		}
	}
	return c, nil
}

func oneWord(s string) (string, error) { return s, checkWord(s) }

func checkWord(s string) error {
	if s == "" {
		return errors.New("missing word")
	}
	if strings.ContainsAny(s, " \t") {
		return fmt.Errorf("unexpected white space in %.64q", s)
	}
	return nil
}

func parseNumber(s string) (int64, error) {
	if s == "" {
		return 0, errors.New("missing number")
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%.32q is not a number", s)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number %.32q is out of range", s)
	}
	return n, nil
}

// Channel is the name of the bus channel that cmd travels on: that of the server for most,
// one for each stream for its rows and positions, and one for USER_IP, which is frequent
// and concerns only whoever records addresses.
func Channel(serverName string, cmd Command) string {
	switch c := cmd.(type) {
	case RData:
		return StreamChannel(serverName, c.Stream)
	case Position:
		return StreamChannel(serverName, c.Stream)
	case UserIP:
		return StreamChannel(serverName, c.Name())
	}
	return serverName
}

// StreamChannel is the channel of a stream, or of a command that has one to itself.
func StreamChannel(serverName, stream string) string { return serverName + "/" + stream }

// LineChannel is Channel for a line that has not been parsed: it looks at the first words
// only. ok is false when there is no command in it.
func LineChannel(serverName, line string) (channel string, ok bool) {
	name, rest, _ := strings.Cut(line, " ")
	switch name {
	case "":
		return "", false
	case "RDATA", "POSITION":
		stream, _, _ := strings.Cut(rest, " ")
		return StreamChannel(serverName, stream), stream != ""
	case "USER_IP":
		return StreamChannel(serverName, name), true
	}
	return serverName, true
}
