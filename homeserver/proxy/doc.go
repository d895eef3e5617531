// Package proxy is the reverse proxy that stands before the processes of a homeserver. It turns the endpoint
// groups that the processes serve into groups that forward to them, so that one declaration drives both:
// the same router matches, the same metrics count, and a load balancer of another make can be configured
// from the same data (weftctl routes).
//
// Which process gets a request follows from the route's affinity: requests of one user, or about one room,
// reach the same process as long as it is there, by rendezvous hashing; a stream's writer gets the routes
// it serves best; the rest goes round robin. Any process answers correctly, so when the chosen one cannot
// be reached the next one is tried.
package proxy
