// Package tunnel carries local connections through an SSH connection to a bastion.
//
// A [Link] keeps that SSH connection up: it connects over whatever byte stream its [Connector] brings, reconnects with
// back-off when the stream is lost, and moves to a new connection before a draining bastion goes away. To bastiond the
// stream is a bond of SSM sessions, which outlives each of them. [Forward] and [ServeProxy] accept local connections and
// [Splice] each of them to a connection dialed through the link; they keep listening while the link is down, and the
// clients that come meanwhile wait for it. [Pipe] does the same for one connection on stdin and stdout. A [Pool] is
// several Links to one place, for a transport that is slow by itself.
//
// The package knows neither AWS nor how a bastion is started: that is the Connector's part. One rule holds throughout:
// the end of a byte stream is passed on as an end (FIN) only if the bastion said that it has ended. A stream cut short
// because the link was lost ends in an error (RST), so that a client never takes half an answer for a whole one.
//
// # Latency beside bulk transfers
//
// All connections of a Link share one SSH connection. x/crypto/ssh writes one packet at a time, and its writers queue on
// a mutex, which is first come, first served for those that wait longer than a millisecond: with k connections
// uploading at full speed, a keystroke waits for at most k packets of 32 KiB and for what the transport has already
// buffered, no more. The other way it is the same with packets of 8 KiB, which are what bastiond sends: downloads come
// at a few MB/s, where 32 KiB take long. They are bounded by SSH's channel window (2 MiB for each connection that reads
// slowly). The transport's own send buffer is therefore what decides about latency under load; of what is written to a
// bond, no more waits to be sent than its sessions send in a few milliseconds.
package tunnel
