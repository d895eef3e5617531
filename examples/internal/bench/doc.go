// Package bench measures whole clusters from outside, as `weftctl bench` runs it: the processes that an operator would
// run, on a private PostgreSQL and Redis, with clients that speak HTTP to them.
//
// What a machine can do varies from hour to hour, so the figures are CPU time, from /proc, of every process that takes
// part, PostgreSQL's and Redis's included, and each is set against what pgbench costs on the same PostgreSQL in the same
// run: a client that inserts single rows of an event's size. The CPU time of the clients that make the load is not counted;
// that of pgbench is, since what it does Weft's own processes do.
//
// Linux only: there is no /proc elsewhere.
package bench
