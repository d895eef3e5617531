package replication

// Published is the token that this process, as a writer of a stream, last announced: what it published before the call
// lies at or below it. It returns false when the process does not write the stream. A process that is the only writer
// reads its own writes by waiting until its handlers have come as far.
func (c *Client) Published(stream string) (token int64, ok bool) {
	n, ok := c.node(stream).(interface{ published() (int64, bool) })
	if !ok {
		return 0, false
	}
	return n.published()
}

func (n *node[R]) published() (int64, bool) {
	if n.pub == nil {
		return 0, false
	}
	return n.pub.Position(), true
}
