// Package sessions opens SSM sessions and carries byte streams over them. A session leads to a port of a target, or to a command in
// an ECS task.
//
// The package knows the AWS API calls that start, resume and end a session. It also implements the session's data channel: the
// messages, their order, acknowledgement, retransmission, encryption with KMS, and the loss of the websocket. It does not look into
// the bytes, and knows nothing of SSH.
//
// A [Client] starts sessions; each is a [Stream] to its caller. Inside a Stream, machine is the client's end of the data channel,
// without I/O, goroutines, locks or clock (docs/adr/0013-data-channel-machine.md). Its parts are as pure:
//
//   - reliable.End: numbering, acknowledgement, retransmission and order, the same for both ends of a channel.
//   - reliable.Upkeep: when to make a websocket, when to ping on it, and when to give up.
//   - handshake: the opening of the session, and the meaning of payloads during it.
//
// The Stream's driver (package transport) guards the machine with one lock. It has a reader and a writer for each websocket, a timer,
// and a goroutine for each call that the machine requests. Package frame is the codec of the messages, and
// package transport the websocket.
package sessions
