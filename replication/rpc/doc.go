// Package rpc is how the processes of a server call one another where they must wait for an
// answer: to have an event sent by the writer of its room, say.
//
// A method is declared once as a value, registered by the process that serves it and
// called by name of the instance that should run it:
//
//	var SendEvents = rpc.Method[SendRequest, SendReply]{Name: "send_events"}
//
//	rpc.Register(node, SendEvents, writer.Send)            // in the writer
//	reply, err := rpc.Call(ctx, node, owner, SendEvents, req) // anywhere
//
// # On the wire
//
//	POST /_synapse/replication/{name}/{args...}/{request id}
//	Authorization: Bearer {worker_replication_secret}
//	Weft-Deadline-Ms: {milliseconds left}
//
// with the request as body and the reply as body of a 200. An error has its own status and
// the body {"errcode": ..., "error": ..., further fields}. Every answer of this package
// carries the header Weft-Instance; one without it comes from something in between and
// counts as a broken connection. Connections are kept open; they speak HTTP/1.1, or HTTP/2
// (without TLS too) where Config.HTTP2 asks for it.
//
// # Acting once
//
// A call whose connection breaks is sent again with the same request id. The callee runs a
// call on, even when its caller is gone, keeps the outcome for Config.ResultTTL, gives it
// to whoever asks again and lets a second request join the first while it runs. Only the
// process that began a call knows of it: when the callee was restarted in between, the
// retry is refused and Call returns ErrOutcomeUnknown, unless the method says that it does
// no harm (Repeatable) or is recognised in another way (Durable).
//
// # Trust
//
// With a secret only its bearers are served. Without one only callers on unix sockets and
// loopback addresses are, and of these none that was forwarded by a proxy, since a proxy
// on the same machine would let in everybody.
package rpc
