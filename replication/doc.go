// Package replication keeps the processes of a server in step: streams of rows, positions
// in them, the bus that carries them, and the registry of who writes what.
//
// # Overview
//
//	writer                                                follower
//	------                                                --------
//	commit to the database
//	     |
//	Publisher.Publish --- RDATA + POSITION ---> Bus ---> inbox (bounded)
//	     |                                                  |
//	     | rows of this process's own                       v
//	     | streams go directly                     one goroutine a stream:
//	     +-----------------------------------------> known already?  drop
//	                                                 gap before it?  read Source
//	                                                 handlers, in order
//	                                                 position moves on, WaitFor wakes
//
// A Stream is declared once, as a value. Follow hands out its rows; NewPublisher announces
// them; a Client does both for one process, and Run runs it. Without a Bus the process is
// alone, and its streams work the same inside it. NewLocalBus, redisbus and tcpbus connect
// processes; package rpc carries what must wait for an answer.
//
// # Positions
//
// Rows have tokens: numbers that grow with each writer. A Position has one number for each
// writer, kept as a floor that all have reached and the writers ahead of it. A writer
// announces a position when nothing of its own at or below it is in flight any more.
// Idle writers follow the positions of others (PublisherConfig.OnForeignPosition), so that
// a floor is held back by work, never by idleness.
//
// # On the wire
//
// A message is a run of RDATA lines and the POSITION line that ends them:
//
//	RDATA events persister1 batch ["ev",{...}]
//	RDATA events persister1 57 ["ev",{...}]
//	POSITION events persister1 55 57
//
// which says: what persister1 wrote in (55, 57] is exactly this. So a message is worth
// something by itself, whatever became of those before it: one whose first number is above
// what the follower has seen shows a gap, one whose second is not above it is old. What
// happens to be ready together travels together. RDATA lines without a POSITION, as
// Synapse sends them, are taken as they come.
//
// # What holds
//
//   - Handlers see each row of a writer once, in token order, and rows of one token
//     together, whatever the bus loses, repeats or reorders.
//   - Client.Position never covers a row before every handler has returned from it. So a
//     cache that a handler invalidates is fresh once WaitFor has returned.
//   - A follower that fell behind, whose queue was full or whose bus was away, reads what
//     it missed from the Source and then goes on; memory stays bounded.
//   - A Source that fails is asked again; rows of that writer wait, those of others do not.
//   - Rows that cannot be had any more (no Source, ErrRowsGone) are reported to OnGap, in
//     order with the rows; whatever was derived from the stream is then to be thrown away.
//   - Publish never blocks and never fails because of the bus.
//
// A gap is found when a later message arrives, at the latest with the position that a
// writer repeats after a second of silence and then ever less often, or 200 ms after
// somebody waits for it in vain. When the bus connects, every process asks all writers
// where they stand (REPLICATE) and tells where it stands itself.
//
// # What must be kept
//
//   - Publish after the commit, and count an id as in flight until its rows were handed to
//     Publish. A position that passes rows which nobody was told of loses them for all
//     followers; Publisher.Doubt is for commits that may or may not have happened.
//   - A token is used once, also over restarts. In-memory writers start above all they
//     have used before, at the time in milliseconds for example.
//   - Give Config.Writers for streams with several writers: a writer that nobody expects
//     counts for the floor only once it was heard of. A new one must run its client before
//     it takes its first id.
//
// # Locks
//
// Publisher.mu comes before inbox.mu; tracker.mu and Client.mu stand alone. No lock is held
// while a handler, a Source or the Bus is called.
package replication
