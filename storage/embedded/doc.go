// Package embedded runs a private PostgreSQL server from the binaries on the
// machine, so that a homeserver starts with one command on the same SQL as in
// production.
//
// The first [Start] on a directory makes a database cluster there; later ones
// start it again. The server listens on a unix socket only and belongs to the
// process that started it: [Server.Stop] stops it, and so does the death of the
// process, however it dies (on Linux at once; elsewhere the next Start finds the
// orphan and stops it first). A lock on the directory keeps a second process
// out.
//
// PostgreSQL refuses to run as root. Started by root, the server runs as the
// system user postgres, or else nobody, and the data belongs to that user.
package embedded
