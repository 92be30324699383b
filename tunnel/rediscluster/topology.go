package rediscluster

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// announced is a node's address as a reply has it.
type announced struct {
	host string // empty: the host that the client is connected to
	port int
	also []string // more names of the same node, at the same port; may be empty strings or "?"
	weak bool     // the cluster may prefer another of the names
}

// translator returns the local address in place of an announced one, or false if that is to stay.
type translator func(announced) (host string, port int, ok bool)

// maxHost is the longest host that is taken for one: a DNS name's length.
const maxHost = 253

// isHost reports whether s can be a name or an address. Redis writes "?" for an unknown name.
func isHost(s string) bool {
	if s == "" || len(s) > maxHost {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == ':':
		default:
			return false
		}
	}
	return true
}

// parsePort accepts a port as Redis writes it.
func parsePort(s string) (int, bool) {
	if s == "" || len(s) > 5 || s[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil
}

// splitAddr splits Redis's HOST:PORT, in which an IPv6 address has no brackets.
func splitAddr(s string) (host string, port int, ok bool) {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return "", 0, false
	}
	host = s[:colon]
	if host != "" && !isHost(host) {
		return "", 0, false
	}
	port, ok = parsePort(s[colon+1:])
	return host, port, ok
}

// rewriteRedirect rewrites the line of an error, with its end: "-MOVED SLOT HOST:PORT" and "-ASK SLOT HOST:PORT". It
// returns line itself if it is another.
func rewriteRedirect(line []byte, tr translator) []byte {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || !bytes.HasPrefix(text, []byte("-MOVED ")) && !bytes.HasPrefix(text, []byte("-ASK ")) {
		return line
	}
	fields := strings.Split(string(text), " ")
	if len(fields) != 3 {
		return line
	}
	host, port, ok := splitAddr(fields[2])
	if !ok {
		return line
	}
	toHost, toPort, ok := tr(announced{host: host, port: port})
	if !ok {
		return line
	}
	return []byte(fields[0] + " " + fields[1] + " " + toHost + ":" + strconv.Itoa(toPort) + "\r\n")
}

// rewriteReply rewrites a whole reply to a CLUSTER command. A reply of another form comes back unchanged.
//
// tls says that the forward speaks TLS with the nodes, in place of its clients.
func rewriteReply(k kind, raw []byte, tls bool, tr translator) []byte {
	w := walker{raw: raw, tls: tls, tr: tr}
	switch k {
	case kindSlots:
		w.slots()
	case kindShards:
		w.shards()
	case kindNodes:
		w.nodes()
	case kindReplicas:
		w.each(w.nodes)
	default:
		return raw
	}
	if w.failed || w.at != len(raw) || len(w.edits) == 0 {
		return raw
	}
	return w.apply()
}

// walker goes through a reply and collects the edits. A reply's outline has been checked before: it is complete.
type walker struct {
	raw    []byte
	at     int
	failed bool
	edits  []edit // disjoint
	tls    bool
	tr     translator
}

type edit struct {
	from, to int
	with     string
}

func (w *walker) apply() []byte {
	slices.SortFunc(w.edits, func(a, b edit) int { return a.from - b.from })
	out := make([]byte, 0, len(w.raw)+64)
	at := 0
	for _, e := range w.edits {
		out = append(out, w.raw[at:e.from]...)
		out = append(out, e.with...)
		at = e.to
	}
	return append(out, w.raw[at:]...)
}

// line reads a header: its type, and the text after it.
func (w *walker) line() (byte, string) {
	end := bytes.Index(w.raw[w.at:], []byte("\r\n"))
	if w.failed || end < 1 {
		w.failed = true
		return 0, ""
	}
	typ, text := w.raw[w.at], string(w.raw[w.at+1:w.at+end])
	w.at += end + 2
	return typ, text
}

// count reads the header of an aggregate and returns how many elements it has, keys and values each counting as one.
func (w *walker) count() int {
	typ, text := w.line()
	n, err := strconv.Atoi(text)
	if w.failed || err != nil || n < 0 || n > len(w.raw) { // no element is shorter than a byte
		w.failed = true
		return 0
	}
	switch typ {
	case '*', '~':
		return n
	case '%':
		return 2 * n
	default:
		w.failed = true
		return 0
	}
}

// value is an element that is no aggregate.
type value struct {
	from, to int
	typ      byte
	text     string // of a string, without the format of a verbatim one
	null     bool
}

func (w *walker) value() value {
	v := value{from: w.at}
	v.typ, v.text = w.line()
	switch v.typ {
	case '$', '=':
		n, err := strconv.Atoi(v.text)
		switch {
		case n == -1:
			v.null, v.text = true, ""
		case w.failed || err != nil || n < 0 || n > len(w.raw)-w.at-2:
			w.failed = true
			return value{}
		default:
			v.text = string(w.raw[w.at : w.at+n])
			w.at += n + 2
		}
	case '_':
		v.null = true
	case '+', ':', ',', '#', '-', '(':
	default:
		w.failed = true
	}
	v.to = w.at
	return v
}

// skip passes over an element of any kind.
func (w *walker) skip() {
	for left := 1; left > 0 && !w.failed; left-- {
		if w.at >= len(w.raw) {
			w.failed = true
			return
		}
		switch w.raw[w.at] {
		case '*', '~', '%':
			if bytes.HasPrefix(w.raw[w.at:], []byte("*-1\r\n")) {
				w.at += len("*-1\r\n")
				continue
			}
			left += w.count()
		default:
			w.value()
		}
	}
}

// each calls f for the elements of an array.
func (w *walker) each(f func()) {
	if w.failed || w.at >= len(w.raw) || w.raw[w.at] != '*' {
		w.failed = true
		return
	}
	n := w.count()
	for i := 0; i < n && !w.failed; i++ {
		f()
	}
}

func (w *walker) edit(v value, with string) {
	if string(w.raw[v.from:v.to]) != with {
		w.edits = append(w.edits, edit{v.from, v.to, with})
	}
}

func bulk(s string) string { return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n" }

// slots walks *[FROM TO [HOST PORT ID [META]] ...].
func (w *walker) slots() {
	w.each(func() {
		n := w.count()
		if n < 2 {
			w.failed = true
			return
		}
		w.skip()
		w.skip()
		for i := 2; i < n && !w.failed; i++ {
			w.slotNode()
		}
	})
}

func (w *walker) slotNode() {
	n := w.count()
	if n < 2 {
		w.failed = true
		return
	}
	host, port := w.value(), w.value()
	var more []value // the node's other names
	for i := 2; i < n && !w.failed; i++ {
		if i == 3 && w.at < len(w.raw) && (w.raw[w.at] == '*' || w.raw[w.at] == '%') {
			for pairs := w.count() / 2; pairs > 0 && !w.failed; pairs-- {
				key := w.value()
				if key.text == "ip" || key.text == "hostname" {
					more = append(more, w.value())
				} else {
					w.skip()
				}
			}
			continue
		}
		w.skip()
	}
	number, ok := parsePort(port.text)
	if w.failed || !ok || port.typ != ':' || !host.null && host.typ != '$' && host.typ != '+' {
		return
	}
	w.place(announced{host: host.text, port: number}, append(more, host), []value{port})
}

// place collects the edits of a node's names and ports if its address has a translation.
func (w *walker) place(a announced, names, ports []value) {
	for _, v := range names {
		if !v.null && v.text != a.host {
			a.also = append(a.also, v.text)
		}
	}
	if a.host != "" && !isHost(a.host) {
		return
	}
	host, port, ok := w.tr(a)
	if !ok {
		return
	}
	for _, v := range names {
		w.edit(v, bulk(host))
	}
	for _, v := range ports {
		w.edit(v, ":"+strconv.Itoa(port)+"\r\n")
	}
}

// shards walks *[{slots, nodes: [{id, port, tls-port, ip, endpoint, hostname, ...}]}], where maps may be flat arrays.
func (w *walker) shards() {
	w.each(func() {
		for pairs := w.count() / 2; pairs > 0 && !w.failed; pairs-- {
			if key := w.value(); key.text == "nodes" {
				w.each(w.shardNode)
			} else {
				w.skip()
			}
		}
	})
}

func (w *walker) shardNode() {
	var names, ports []value
	var endpoint, ip, port, tlsPort, tlsKey value
	for pairs := w.count() / 2; pairs > 0 && !w.failed; pairs-- {
		key := w.value()
		switch key.text {
		case "endpoint":
			endpoint = w.value()
			names = append(names, endpoint)
		case "ip":
			ip = w.value()
			names = append(names, ip)
		case "hostname":
			names = append(names, w.value())
		case "port":
			port = w.value()
			ports = append(ports, port)
		case "tls-port":
			tlsKey, tlsPort = key, w.value()
			ports = append(ports, tlsPort)
		default:
			w.skip()
		}
	}
	if w.failed {
		return
	}
	a := announced{host: endpoint.text}
	if endpoint.typ == 0 {
		a.host = ip.text
	}
	remote, renamed := port, false
	if w.tls && tlsPort.typ != 0 {
		remote, renamed = tlsPort, port.typ == 0 // the client, which speaks no TLS, looks for "port"
	}
	number, ok := parsePort(remote.text)
	if !ok || remote.typ != ':' {
		return
	}
	a.port = number
	before := len(w.edits)
	w.place(a, names, ports)
	if renamed && len(w.edits) > before {
		w.edit(tlsKey, bulk("port"))
	}
}

// nodes walks a string of lines, "ID IP:PORT@BUSPORT[,HOSTNAME[,KEY=VALUE...]] FLAGS ...".
func (w *walker) nodes() {
	v := w.value()
	if w.failed || v.null || v.typ != '$' && v.typ != '=' {
		return
	}
	text, format := v.text, ""
	if v.typ == '=' {
		if len(text) < 4 {
			return
		}
		format, text = text[:4], text[4:]
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(w.nodeLine(line))
	}
	if text = format + out.String(); text != v.text {
		w.edit(v, string(v.typ)+bulk(text)[1:])
	}
}

func (w *walker) nodeLine(line string) string {
	id, rest, ok := strings.Cut(line, " ")
	addr, rest, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 {
		return line
	}
	addr, aux, hasAux := strings.Cut(addr, ",")
	addr, bus, hasBus := strings.Cut(addr, "@")
	host, port, ok := splitAddr(addr)
	if !ok {
		return line
	}
	name, more, hasMore := strings.Cut(aux, ",")
	a := announced{host: host, port: port, weak: true}
	if name != "" {
		a.also = []string{name}
	}
	toHost, toPort, ok := w.tr(a)
	if !ok {
		return line
	}
	addr = toHost + ":" + strconv.Itoa(toPort)
	if hasBus {
		addr += "@" + bus
	}
	if hasAux {
		if name != "" {
			name = toHost
		}
		addr += "," + name
	}
	if hasMore {
		addr += "," + more
	}
	return id + " " + addr + " " + rest
}
