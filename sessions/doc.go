// Package sessions opens SSM sessions and carries byte streams over them: a port of a target, or a command in an ECS task.
//
// It knows the AWS API calls that start, resume and end a session, and the session's data channel: its messages, their order,
// acknowledgement and retransmission, encryption with KMS, and the loss of the websocket. It does not look into the bytes, and
// knows nothing of SSH.
//
// A [Client] starts sessions, and a [Stream] is one session to its callers. Inside a Stream, machine is the client's end of the
// data channel without I/O, goroutines, locks or clock (docs/adr/0013-data-channel-machine.md). Its parts, which are as pure:
//
//   - reliable: numbers, acks, resending and order, the same for both ends. It has a sendQueue and a recvQueue.
//   - handshake: the opening of the session, and what a payload means in it.
//   - upkeep: when to make a websocket, when to ping on it, and when to give up.
//
// Around the machine the Stream has one lock, a reader and a writer for each websocket (link.go), a timer, and a goroutine for
// each call that the machine asks for. Package frame is the codec of the messages.
package sessions
