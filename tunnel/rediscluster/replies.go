package rediscluster

import (
	"bytes"
	"math"
	"strconv"
)

const (
	maxLine    = 512     // bytes of a redirection
	maxHeader  = 64      // bytes of a line that says a length
	maxDepth   = 1024    // of aggregates in each other
	maxCapture = 8 << 20 // bytes of a CLUSTER reply; that of 1000 nodes has a fraction of it
	maxMarks   = 256     // CLUSTER commands in a transaction
	maxShort   = 16      // bytes of a string that may name a kind of message
)

// replies rewrites a node's replies. It belongs to the goroutine that reads from the node.
//
// It follows the outline of RESP2 and RESP3, and passes its input on at once. It only holds lines that may be redirections, and
// replies to CLUSTER commands, until they are complete. After input that it does not understand, it passes everything on.
type replies struct {
	t   *tracker
	tls bool
	tr  translator

	raw   bool // all passes
	stack []frame
	line  []byte // the current line up to maxLine
	size  int    // of the current line
	prev  byte   // the line's last byte so far
	body  int64  // bytes of a string still to come, with its line's end
	short bool   // the string is kept in line

	held    []byte
	hold    hold
	holdAt  int  // the depth of the reply that is held
	holdFor kind // and its kind

	top  outline // of the current reply
	exec bool    // which is that of EXEC

	// The connection's state as its replies have it.
	protocol  uint32 // version of RESP; 0 is 2
	multi     bool   // a transaction is being queued
	queued    int64  // its commands
	marks     []mark // those of CLUSTER among them
	irregular bool   // its replies will not match its commands
}

type hold uint8

const (
	holdNothing hold = iota
	holdError        // a line that may be a redirection
	holdReply        // to a CLUSTER command
)

// frame is an aggregate that is not complete.
type frame struct {
	left       int64 // elements
	attributes bool  // the element that they are about comes after them
}

// mark is a CLUSTER command in a transaction.
type mark struct {
	at   int64
	kind kind
}

// outline has the needed facts about a whole reply.
type outline struct {
	typ   byte
	n     int64  // elements of an aggregate
	text  string // of a simple string
	first string // of an aggregate: the first element, if it is a short string
	third string // the third, if it is an integer
}

// feed appends the rewritten in to out.
func (r *replies) feed(out, in []byte) []byte {
	for len(in) > 0 {
		if r.raw {
			return append(out, in...)
		}
		var n int
		if r.body > 0 {
			n, out = r.inString(out, in)
		} else {
			n, out = r.inLine(out, in)
		}
		in = in[n:] // n is 0 only if r is raw now
	}
	return out
}

// flush appends the held bytes, because the node has ended the connection.
func (r *replies) flush(out []byte) []byte { return r.release(out) }

// passes returns how many bytes need not be fed, because they would pass unseen. The caller reports those that did to passed.
func (r *replies) passes() int64 {
	switch {
	case r.raw:
		return math.MaxInt64
	case r.hold == holdNothing && !r.short:
		return max(0, r.body-2)
	}
	return 0
}

func (r *replies) passed(n int) {
	if !r.raw {
		r.body -= int64(n)
	}
}

// giveUp passes on the held bytes and all later ones.
func (r *replies) giveUp(out []byte, why string) []byte {
	r.raw = true
	r.stack, r.line, r.marks = nil, nil, nil
	r.t.mu.Lock()
	r.t.lose(why)
	r.t.mu.Unlock()
	return r.release(out)
}

func (r *replies) release(out []byte) []byte {
	out = append(out, r.held...)
	r.held, r.hold = nil, holdNothing
	return out
}

// emit passes p on or holds it.
func (r *replies) emit(out, p []byte) []byte {
	limit := maxLine
	switch r.hold {
	case holdNothing:
		return append(out, p...)
	case holdReply:
		limit = maxCapture
	case holdError:
	}
	if len(r.held)+len(p) > limit {
		return append(r.release(out), p...)
	}
	r.held = append(r.held, p...)
	return out
}

func (r *replies) inString(out, in []byte) (int, []byte) {
	n := int(min(int64(len(in)), r.body))
	for i, want := range []byte("\r\n") {
		if at := r.body - 2 + int64(i); at >= 0 && at < int64(n) && in[at] != want {
			return 0, r.giveUp(out, "a string is longer than its length")
		}
	}
	if r.short {
		r.line = append(r.line, in[:n]...)
	}
	out = r.emit(out, in[:n])
	if r.body -= int64(n); r.body > 0 {
		return n, out
	}
	if r.short {
		r.top.first = string(r.line[:len(r.line)-2])
		r.line, r.short = r.line[:0], false
	}
	return n, r.complete(out)
}

func (r *replies) inLine(out, in []byte) (int, []byte) {
	if r.size == 0 && !r.begin(in[0]) {
		return 0, r.giveUp(out, "no RESP")
	}
	end := bytes.IndexByte(in, '\n')
	n := end + 1
	if end < 0 {
		n = len(in)
	}
	if end == 0 && r.prev != '\r' || end > 0 && in[end-1] != '\r' {
		return 0, r.giveUp(out, "a line without its end")
	}
	r.line = append(r.line, in[:min(n, maxLine-len(r.line))]...)
	r.size += n
	r.prev = in[n-1]
	if r.size > maxHeader && isHeader(r.line[0]) {
		return 0, r.giveUp(out, "a length without end")
	}
	out = r.emit(out, in[:n])
	if end < 0 {
		return n, out
	}
	return n, r.lineDone(out)
}

// isHeader reports whether a line of this type has a length.
func isHeader(typ byte) bool { return bytes.IndexByte([]byte("$!=*%~>|"), typ) >= 0 }

// begin looks at the first byte of an element.
func (r *replies) begin(typ byte) bool {
	if !isHeader(typ) && bytes.IndexByte([]byte("+-:,#_("), typ) < 0 {
		return false
	}
	switch {
	case len(r.stack) == 0:
		r.top, r.exec = outline{typ: typ}, false
		if typ == '-' {
			r.hold = holdError
			return true
		}
		k := r.t.peek(typ)
		if k.isCluster() {
			r.hold, r.holdAt, r.holdFor = holdReply, 0, k
		}
		r.exec = k == kindExec && typ == '*'
	case len(r.stack) == 1 && r.exec && r.top.n == r.queued && r.hold == holdNothing:
		at := r.top.n - r.stack[0].left
		if len(r.marks) > 0 && r.marks[0].at == at {
			r.hold, r.holdAt, r.holdFor = holdReply, 1, r.marks[0].kind
			r.marks = r.marks[1:]
		}
	}
	return true
}

func (r *replies) lineDone(out []byte) []byte {
	typ := r.line[0]
	var text []byte // not of lines longer than maxLine
	if r.size <= maxLine {
		text = r.line[1 : r.size-2]
	}
	index := int64(-1) // in the reply, of an element directly in it
	if len(r.stack) == 1 && !r.stack[0].attributes {
		index = r.top.n - r.stack[0].left
	}
	r.size, r.prev, r.line = 0, 0, r.line[:0] // text stays as it is until the next line
	if !isHeader(typ) {
		switch {
		case len(r.stack) == 0 && typ == '+' && len(text) <= maxShort:
			r.top.text = string(text)
		case index == 2 && typ == ':' && len(text) <= maxShort:
			r.top.third = string(text)
		}
		return r.complete(out)
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < -1 || n > 1<<60 {
		return r.giveUp(out, "no length")
	}
	if n == -1 { // null
		return r.complete(out)
	}
	switch typ {
	case '$', '!', '=':
		r.body = n + 2
		r.short = index == 0 && typ == '$' && n <= maxShort
		return out
	case '%', '|':
		n *= 2
	}
	if len(r.stack) == 0 {
		r.top.n = n
	}
	if n == 0 && typ == '|' {
		return out
	}
	if n == 0 {
		return r.complete(out)
	}
	if len(r.stack) == maxDepth {
		return r.giveUp(out, "too deep")
	}
	r.stack = append(r.stack, frame{left: n, attributes: typ == '|'})
	return out
}

// complete ends the element that ends here, and those of which it is the last.
func (r *replies) complete(out []byte) []byte {
	for {
		depth := len(r.stack)
		if r.hold == holdReply && depth == r.holdAt {
			held, k := r.held, r.holdFor
			r.held, r.hold = nil, holdNothing
			if depth == 0 && r.t.isMessage(&r.top, r.protocol) {
				k = kindPlain
			}
			out = append(out, rewriteReply(k, held, r.tls, r.tr)...)
		}
		if depth == 0 {
			if r.hold == holdError {
				out = append(out, rewriteRedirect(r.held, r.tr)...)
				r.held, r.hold = r.held[:0], holdNothing
			}
			r.replied()
			return out
		}
		f := &r.stack[depth-1]
		if f.left--; f.left > 0 {
			return out
		}
		attributes := f.attributes
		r.stack = r.stack[:depth-1]
		if attributes {
			return out
		}
	}
}

// replied reports a whole reply to the tracker, and records its effects.
func (r *replies) replied() {
	t := r.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.resync && r.top.typ == '+' && r.top.text == "RESET" {
		t.resync = false
		r.protocol, r.multi = 0, false
		t.subscribed = t.pubsub > 0
		t.pop()
		return
	}
	if t.lost != "" || t.resync {
		return
	}
	p, ok := t.replied(&r.top, r.protocol)
	if !ok {
		return
	}
	if r.multi && r.top.typ == '+' && r.top.text == "QUEUED" {
		switch {
		case p.kind.isCluster() && len(r.marks) < maxMarks:
			r.marks = append(r.marks, mark{r.queued, p.kind})
		case p.kind.isPubSub() || p.kind == kindHello:
			r.irregular = true
		}
		r.queued++
		return
	}
	isError := r.top.typ == '-'
	switch p.kind {
	case kindMulti:
		if !isError {
			r.multi, r.queued, r.marks, r.irregular = true, 0, nil, false
		}
	case kindExec:
		if r.irregular && !isError {
			t.lose("a transaction with commands whose replies have no fixed number")
		}
		r.multi, r.marks, r.irregular = false, nil, false
	case kindDiscard:
		r.multi = r.multi && isError
	case kindReset:
		if !isError {
			r.protocol, r.multi = 0, false
			t.subscribed = t.pubsub > 0
		}
	case kindHello:
		if !isError {
			r.protocol = p.count
		}
	}
}

// peek returns the kind of request that a reply beginning with typ answers, as far as known yet.
func (t *tracker) peek(typ byte) kind {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost != "" || t.resync || typ == '>' || typ == '|' {
		return kindPlain
	}
	if typ != '*' && typ != '-' && typ != '+' { // no confirmation, no refusal, no QUEUED
		t.skipPubSub()
	}
	if t.empty() {
		return kindPlain
	}
	return t.front()
}

// isMessage reports whether a reply is a message of PubSub, which answers no request. RESP3 marks messages itself; in RESP2 it has
// a message's form and comes while messages may come.
func (t *tracker) isMessage(o *outline, protocol uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.message(o, protocol)
}

func (t *tracker) message(o *outline, protocol uint32) bool {
	if o.typ == '>' {
		return true
	}
	if o.typ != '*' || protocol > 2 || !t.subscribed {
		return false
	}
	switch o.first {
	case "message", "smessage":
		return o.n == 3
	case "pmessage":
		return o.n == 4
	default:
		return kinds[o.first].isPubSub() && o.n == 3 && o.third != ""
	}
}

// replied returns the request that a whole reply answers, or false if it answers none.
func (t *tracker) replied(o *outline, protocol uint32) (pending, bool) {
	if t.message(o, protocol) {
		t.confirmed(o)
		return pending{}, false
	}
	if o.typ != '-' && o.text != "QUEUED" {
		t.skipPubSub()
	}
	if t.empty() {
		t.lose("a reply to no request")
		return pending{}, false
	}
	return t.pop(), true
}

// confirmed takes in a message, which may confirm a subscription or its end.
func (t *tracker) confirmed(o *outline) {
	k := kinds[o.first]
	if !k.isPubSub() {
		return
	}
	if !t.empty() && t.front() == k {
		if t.queue[t.head].count--; t.queue[t.head].count == 0 {
			t.pop()
		}
	}
	if (k == kindUnsubscribe || k == kindPUnsubscribe) && o.third == "0" && t.pubsub == 0 {
		t.subscribed = false
	}
}
