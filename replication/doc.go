// Package replication keeps the processes of a server in step: streams of rows, the
// positions in them, the bus that carries them, and the registry of who writes what.
package replication
