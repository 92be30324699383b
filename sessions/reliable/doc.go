// Package reliable has the parts that both ends of an SSM data channel share: the client (package sessions) and the node (package
// node).
//
//   - [End] numbers messages, sends them again until the peer acknowledges them, acknowledges the peer's messages and puts them in
//     order. It knows neither the handshake nor the meaning of a payload, nor which end it is: that are two message types.
//   - [Upkeep] decides when to make a websocket, when to ping on it, and when to give up.
//   - [ByteRing] is a queue of bytes between the channel and its user.
//
// All of them are pure: no I/O, no goroutine, no lock, no clock. Time comes as an argument, and Deadline says when to call OnTimer.
// They are not safe for concurrent use, and times must not go back. The package knows no other implementation and no AWS service
// (docs/adr/0013-data-channel-machine.md).
package reliable
