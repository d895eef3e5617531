package replication

// Command is a line of the replication protocol.
type Command interface {
	// Name is the first word of the line, such as "RDATA".
	Name() string
	// appendArgs appends the rest of the line.
	appendArgs(dst []byte) []byte
}
