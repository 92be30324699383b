package server

import (
	"bufio"
	"errors"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// maxLogLine is the most bytes of one of sshd's lines that are read at a time.
const maxLogLine = 16 << 10

// sshdLog turns the lines that one sshd writes to standard error into audit events. The client chooses some of the words: sshd
// escapes line ends, and refuses a destination that is not, letter by letter, on the list. So only a refused destination may be
// misread.
type sshdLog struct {
	client *client
	s      *Server
	late   *time.Timer // ends a client that has not signed in; nil: none

	signed   bool   // the client has signed in
	refusal  string // why it has not
	user     string
	asked    string // the destination of the latest request
	address  string // that sshd connects to for it
	channels map[string]*sshdChannel
}

// sshdChannel is a forwarded connection, or one that is being opened.
type sshdChannel struct {
	number               uint64
	destination, address string
	began                time.Time
	connected            bool
	late                 bool // opened when the bastion was already about to stop, for which that does not wait
}

// function matches the begin of a line about a function that LogVerbose names in sshd_config. What a client chose comes later in a line.
func function(file, name, rest string) func() *regexp.Regexp {
	return pattern.Lazy(`^(?:debug\d: )?` + file + `\.c:` + name + `\(\):\d+ \(pid=\d+\): ` + rest)
}

// Lines of sshd at its log level VERBOSE. Seen with OpenSSH 9.2.
var (
	linePassing  = pattern.Lazy(`^(Connection from|Accepted key|Postponed|Connection (closed|reset) by) `)
	lineFailed   = pattern.Lazy(`^Failed publickey for (?:invalid user )?(.*) from \S+ port \d+ ssh2: \S+ (SHA256:\S+)$`)
	lineAccepted = pattern.Lazy(`^Accepted publickey for (.*) from \S+ port \d+ ssh2: \S+ (SHA256:\S+)$`)
	lineInvalid  = pattern.Lazy(`^(?:Invalid user|User) (.*) (?:from \S+ port \d+|not allowed because .*)$`)
	lineDenied   = pattern.Lazy(`^Received request from .* to connect to host (.*) port (\d+), but the request was denied\.$`)
	lineUnknown  = pattern.Lazy(`^(?:error: )?(?:channels\.c:connect_to_helper\(\):\d+ \(pid=\d+\): )?` +
		`connect_to .*: unknown host \((.*)\)$`)
	lineTarget    = function("serverloop", "server_request_direct_tcpip", `originator .* target (.*) port (\d+)$`)
	lineRefused   = function("serverloop", "server_input_channel_open", `failure (\S+)$`)
	lineForward   = function("serverloop", "server_input_global_request", `rtype (tcpip-forward|streamlocal-forward@openssh\.com) want_reply`)
	lineConnect   = function("channels", "connect_next", `connect host .* \(\[(\S+)\]:(\d+)\) in progress, fd=\d+$`)
	lineNew       = function("channels", "channel_new", `channel (\d+): new direct-tcpip `)
	lineConnected = function("channels", "channel_post_connecting", `channel (\d+): connected to `)
	lineBroken    = function("channels", "channel_post_connecting", `channel (\d+): connection failed: (.*)$`)
	lineFree      = function("channels", "channel_free", `channel (\d+): free: `)
)

// read handles the lines until their end.
func (l *sshdLog) read(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := lines.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); text != "" {
			l.line(text)
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long says nothing
			_, err = lines.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func (l *sshdLog) line(text string) {
	if !l.signed { // only the process for clients that have not signed in marks its lines so
		text = strings.TrimSuffix(text, " [preauth]")
	}
	l.s.config.Logger.Debug("sshd", "conn", l.client.number, "says", auditText(text))
	if !l.signed {
		l.signIn(text)
		return
	}
	for _, h := range sshdLines {
		if m := h.line().FindStringSubmatch(text); m != nil {
			h.handle(l, m[1:])
			return
		}
	}
}

// sshdLines are the lines that matter once the client has signed in, and what they mean, by the words that the expression holds.
var sshdLines = []struct {
	line   func() *regexp.Regexp
	handle func(l *sshdLog, words []string)
}{
	{lineTarget, func(l *sshdLog, w []string) { l.asked, l.address = destination(w[0], w[1]), "" }},
	{lineConnect, func(l *sshdLog, w []string) { l.address = destination(w[0], w[1]) }},
	{lineNew, (*sshdLog).opened},
	{lineConnected, (*sshdLog).connected},
	{lineBroken, (*sshdLog).broken},
	{lineFree, func(l *sshdLog, w []string) { l.freed(w[0]) }},
	{lineDenied, func(l *sshdLog, w []string) {
		l.client.auditDenied(audit.Record{Request: directTCPIP, Destination: destination(w[0], w[1]), Reason: errNotListed.Error()})
	}},
	{lineUnknown, func(l *sshdLog, w []string) {
		l.s.auditClient(l.client, audit.Record{
			Event: audit.Connect, Result: audit.Failed, Destination: l.asked, Reason: "cannot resolve the name: " + strings.ToLower(w[0]),
		})
	}},
	{lineRefused, func(l *sshdLog, w []string) {
		if w[0] != directTCPIP { // there it was the list, or the network, which say so themselves
			l.client.auditDenied(audit.Record{Request: w[0], Reason: "channel type is never permitted"})
		}
	}},
	{lineForward, func(l *sshdLog, w []string) {
		l.client.auditDenied(audit.Record{Request: w[0], Reason: "remote forwarding is never permitted"})
	}},
}

// signIn handles the lines until the client has signed in.
func (l *sshdLog) signIn(text string) {
	if m := lineAccepted().FindStringSubmatch(text); m != nil {
		l.client.user, l.client.slot = m[1], l.s.slotByFingerprint(m[2])
		if err := l.s.attach(l.client); err != nil {
			l.refusal = err.Error()
			l.client.end(err.Error())
			return
		}
		l.signed = true
		if l.late != nil {
			l.late.Stop()
		}
		l.s.auditClient(l.client, audit.Record{Event: audit.Auth, Result: audit.OK})
	} else if m := lineFailed().FindStringSubmatch(text); m != nil {
		l.user, l.refusal = m[1], l.s.whyNot(m[2])
	} else if m := lineInvalid().FindStringSubmatch(text); m != nil {
		l.user, l.refusal = m[1], "unknown user: OpenSSH takes only those of the image"
	} else if l.refusal == "" && !linePassing().MatchString(text) {
		l.refusal = "handshake: " + text
	}
}

// opened notes a channel to the destination that was asked for last: sshd has one request at a time. An sshd cannot be told to open none
// while the bastion drains: such a channel ends with the drain, and does not prolong it.
func (l *sshdLog) opened(w []string) {
	l.s.mu.Lock()
	l.s.channels++
	late := l.s.draining
	if !late {
		l.s.open++
		l.client.open++
	}
	number := l.s.channels
	l.s.mu.Unlock()
	l.channels[w[0]] = &sshdChannel{number: number, destination: l.asked, address: l.address, began: time.Now(), late: late}
}

// about is a record of an event of a channel.
func (c *sshdChannel) about(event, result string) audit.Record {
	return audit.Record{
		Event: event, Result: result, Channel: c.number, Destination: c.destination, Address: c.address, DurationMS: since(c.began),
	}
}

func (l *sshdLog) connected(w []string) {
	if c := l.channels[w[0]]; c != nil {
		c.connected = true
		r := c.about(audit.Connect, audit.OK)
		r.DurationMS = nil
		l.s.auditClient(l.client, r)
	}
}

func (l *sshdLog) broken(w []string) {
	if c := l.channels[w[0]]; c != nil {
		r := c.about(audit.Connect, audit.Failed)
		r.Reason = "cannot connect: " + strings.ToLower(w[1])
		l.s.auditClient(l.client, r)
	}
}

// freed notes the end of a channel. sshd does not tell how many bytes it carried.
func (l *sshdLog) freed(id string) {
	c := l.channels[id]
	if c == nil {
		return
	}
	delete(l.channels, id)
	if !c.late {
		l.s.releaseChannel(l.client)
	}
	if c.connected {
		l.s.auditClient(l.client, c.about(audit.Close, audit.OK))
	}
}

// end notes the end of the channels that ended with the connection.
func (l *sshdLog) end() {
	for id := range l.channels {
		l.freed(id)
	}
}
