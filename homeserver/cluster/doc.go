// Package cluster starts and supervises all the processes of a homeserver on one
// machine: a private PostgreSQL and Redis where none are configured, the main
// process, its workers and the router before them.
//
// A [Topology] says which processes there are. [Generate] writes the
// configuration files that they read, the same files an admin would write by
// hand, and a [Supervisor] starts them, waits until each is ready, starts again
// those that die and stops them all in order. [ReadState] tells another program,
// such as weftctl, what runs where.
//
// Everything lies in one directory:
//
//	conf/       configuration: homeserver.yaml (shared) and one file a worker
//	run/        unix sockets and pid files
//	logs/       one log a process
//	postgres/   the private database
//	redis/      the private Redis
//	cluster.json  what runs: names, pids, addresses
package cluster
