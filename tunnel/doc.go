// Package tunnel carries local connections through an SSH connection to a bastion.
//
// A [Link] keeps that SSH connection up. It connects over the byte stream that its [Connector] makes, and reconnects with backoff
// when the stream is lost. It moves to a new connection before a draining bastion ends. To bastiond the stream is a bond of SSM
// sessions, which outlives each of them. [Forward] and [ServeProxy] accept local connections and [Splice] each of them to a
// connection dialed through the link. They keep listening while the link is down; new clients then wait for it. [Pipe] splices one
// connection to stdin and stdout. A [Pool] is several Links to one place, for a transport that is slow by itself.
//
// The package knows neither AWS nor how to start a bastion: that is the Connector's part. One rule holds throughout. The package
// passes on the end of a byte stream as an end (FIN) only if the bastion said that it has ended. A stream that a lost link cut
// short ends in an error (RST). So a client never takes half an answer for a whole one.
//
// # Latency beside bulk transfers
//
// All connections of a Link share one SSH connection. x/crypto/ssh writes one packet at a time. Its writers queue on a mutex, which
// is first come, first served for those that wait longer than a millisecond. So a keystroke beside k connections uploading at full
// speed waits for at most k packets of 32 KiB, and for the transport's buffer. The other direction is the same with packets of 8
// KiB, which bastiond sends: downloads come at a few MB/s, where 32 KiB take long. SSH's channel window bounds them (2 MiB for each
// connection that reads slowly). The transport's own send buffer therefore decides the latency under load. In a bond, no more bytes
// wait to be sent than its sessions send in a few milliseconds.
package tunnel
