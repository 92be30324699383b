package rediscluster

import (
	"bytes"
	"strconv"
	"strings"
	"sync"
)

// kind says how to treat the reply to a request.
type kind uint8

const (
	kindPlain    kind = iota
	kindSlots         // CLUSTER SLOTS
	kindShards        // CLUSTER SHARDS
	kindNodes         // CLUSTER NODES
	kindReplicas      // CLUSTER REPLICAS and SLAVES
	kindMulti
	kindExec
	kindDiscard
	kindReset
	kindHello // count is the protocol's version
	// Commands whose answers do not go by requests; count is the number of confirmations.
	kindSubscribe
	kindPSubscribe
	kindSSubscribe
	kindUnsubscribe
	kindPUnsubscribe
	kindSUnsubscribe
)

// isCluster reports whether replies have addresses of nodes.
func (k kind) isCluster() bool { return k >= kindSlots && k <= kindReplicas }

func (k kind) isPubSub() bool { return k >= kindSubscribe }

var kinds = map[string]kind{
	"multi": kindMulti, "exec": kindExec, "discard": kindDiscard, "reset": kindReset,
	"subscribe": kindSubscribe, "psubscribe": kindPSubscribe, "ssubscribe": kindSSubscribe,
	"unsubscribe": kindUnsubscribe, "punsubscribe": kindPUnsubscribe, "sunsubscribe": kindSUnsubscribe,
}

var clusterKinds = map[string]kind{
	"slots": kindSlots, "shards": kindShards, "nodes": kindNodes, "replicas": kindReplicas, "slaves": kindReplicas,
}

const (
	maxPending = 1 << 18 // entries of requests without a reply yet, where equal ones that follow each other are one
	maxInline  = 1 << 10 // bytes kept of a request or a part of one; the names of commands and options are shorter
	maxArg     = 16      // bytes kept of an argument
	keptArgs   = 3
)

// pending are requests without a reply yet: one, or count plain ones.
type pending struct {
	kind  kind
	count uint32
}

// tracker knows which requests wait for their replies, in order. The client's direction writes to it before the node
// sees a request, the node's direction reads from it.
//
// On some connections the tracker can lose the order. Their CLUSTER replies then stay unchanged, until a RESET makes the connection
// like a new one. Even so, replies rewrites redirections, which identify themselves.
type tracker struct {
	parser requestParser // of the client's direction alone

	mu         sync.Mutex
	queue      []pending
	head       int  // of queue
	pubsub     int  // entries of queue that are PubSub
	subscribed bool // messages may come
	lost       string
	resync     bool // lost, but a RESET is under way; queue begins with it
	replyOff   bool
	skipNext   bool
	inMulti    bool // as the requests have it
}

// sent takes in the client's bytes.
func (t *tracker) sent(p []byte) {
	for len(p) > 0 {
		var done bool
		if p, done = t.parser.next(p); done {
			t.request(t.parser.args, t.parser.count)
		}
		if t.parser.broken {
			t.mu.Lock()
			t.lose("malformed request")
			t.mu.Unlock()
			return
		}
	}
}

func (t *tracker) request(args [keptArgs]string, count int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := args[0]
	if name == "reset" {
		if t.lost != "" {
			t.queue, t.head, t.pubsub, t.lost, t.resync = nil, 0, 0, "", true
		}
		t.replyOff, t.skipNext, t.inMulti = false, false, false
		t.push(kindReset, 1)
		return
	}
	if t.lost != "" {
		return
	}
	silent := t.replyOff || t.skipNext
	t.skipNext = false
	switch {
	case name == "monitor" || name == "sync" || name == "psync" || name == "replconf":
		t.lose(name)
		return
	case name == "client" && args[1] == "reply" && count == 3 && t.inMulti:
		t.lose("CLIENT REPLY in a transaction")
		return
	case name == "client" && args[1] == "reply" && count == 3 && args[2] == "on":
		t.replyOff, silent = false, false
	case name == "client" && args[1] == "reply" && count == 3 && args[2] == "off":
		t.replyOff = true
		return
	case name == "client" && args[1] == "reply" && count == 3 && args[2] == "skip":
		t.skipNext = !t.replyOff
		return
	}
	k, n := classify(args, count)
	switch k {
	case kindMulti:
		t.inMulti = true
	case kindExec, kindDiscard:
		t.inMulti = false
	}
	if k.isPubSub() {
		t.subscribed = true
	}
	if !silent {
		t.push(k, n)
	}
}

func classify(args [keptArgs]string, count int64) (kind, uint32) {
	switch args[0] {
	case "cluster":
		return clusterKinds[args[1]], 1
	case "hello":
		if v := args[1]; v == "2" || v == "3" {
			return kindHello, uint32(v[0] - '0')
		}
		return kindPlain, 1
	}
	k := kinds[args[0]]
	if k.isPubSub() {
		return k, uint32(min(max(count-1, 1), 1<<30))
	}
	return k, 1
}

// push needs the lock, as all below.
func (t *tracker) push(k kind, n uint32) {
	if last := len(t.queue) - 1; k == kindPlain && last >= t.head && t.queue[last].kind == k &&
		t.queue[last].count < 1<<31 {
		t.queue[last].count++
		return
	}
	if t.head > 64 && t.head > len(t.queue)/2 {
		t.queue = append(t.queue[:0], t.queue[t.head:]...)
		t.head = 0
	}
	if len(t.queue)-t.head >= maxPending {
		t.lose("too many requests without a reply")
		return
	}
	t.queue = append(t.queue, pending{k, n})
	if k.isPubSub() {
		t.pubsub++
	}
}

// pop takes a request off the front. There must be one.
func (t *tracker) pop() pending {
	p := t.queue[t.head]
	if p.kind == kindPlain && p.count > 1 {
		t.queue[t.head].count--
		return p
	}
	if p.kind.isPubSub() {
		t.pubsub--
	}
	if t.head++; t.head == len(t.queue) {
		t.queue, t.head = t.queue[:0], 0
		if cap(t.queue) > 1<<12 {
			t.queue = nil
		}
	}
	return p
}

func (t *tracker) empty() bool { return t.head == len(t.queue) }

// front returns the oldest request's kind.
func (t *tracker) front() kind { return t.queue[t.head].kind }

// skipPubSub removes requests that have only confirmations, which may come late or never.
func (t *tracker) skipPubSub() {
	for !t.empty() && t.front().isPubSub() {
		t.pop()
	}
}

func (t *tracker) lose(why string) {
	t.queue, t.head, t.pubsub, t.resync, t.lost = nil, 0, 0, false, why
}

// requestParser splits a client's bytes into requests, and keeps the first arguments' beginnings, in lower case.
type requestParser struct {
	args   [keptArgs]string
	count  int64 // of arguments
	broken bool  // the server will end the connection

	line []byte // the current line or argument, as far as it is kept
	long bool   // it is longer
	left int64  // arguments still to come
	body int64  // bytes of the argument still to come, with its line's end
	in   bool   // an argument
}

// next takes in a part of p and returns the rest, and whether a request that gets a reply is complete.
func (r *requestParser) next(p []byte) (rest []byte, done bool) {
	if r.in {
		n := int(min(int64(len(p)), r.body))
		r.keep(p[:n])
		if r.body -= int64(n); r.body > 0 {
			return p[n:], false
		}
		r.in = false
		if i := r.count - r.left; i < keptArgs {
			r.args[i] = r.arg(r.line[:max(0, len(r.line)-2)])
		}
		r.reset()
		r.left--
		return p[n:], r.left == 0
	}
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		r.keep(p)
		return nil, false
	}
	r.keep(p[:end+1])
	done = r.lineDone()
	r.reset()
	return p[end+1:], done
}

func (r *requestParser) keep(p []byte) {
	if n := maxInline - len(r.line); n < len(p) {
		p, r.long = p[:n], true
	}
	r.line = append(r.line, p...)
}

func (r *requestParser) reset() { r.line, r.long = r.line[:0], false }

func (r *requestParser) arg(b []byte) string {
	if r.long || len(b) > maxArg {
		return ""
	}
	return strings.ToLower(string(b))
}

func (r *requestParser) lineDone() bool {
	line := strings.TrimSuffix(strings.TrimSuffix(string(r.line), "\n"), "\r")
	switch {
	case r.left > 0:
		n, err := strconv.ParseInt(strings.TrimPrefix(line, "$"), 10, 64)
		if r.long || line == "" || line[0] != '$' || err != nil || n < 0 || n > 1<<60 {
			r.broken = true
			return false
		}
		r.in, r.body = true, n+2
	case strings.HasPrefix(line, "*"):
		n, err := strconv.ParseInt(line[1:], 10, 32)
		if r.long || err != nil {
			r.broken = true
			return false
		}
		r.args, r.count, r.left = [keptArgs]string{}, n, max(0, n) // none: no request
	default: // what one types into telnet
		fields := strings.Fields(line)
		if len(fields) == 0 && !r.long {
			return false
		}
		r.args, r.count = [keptArgs]string{}, int64(len(fields))
		for i := range min(len(fields), keptArgs) {
			if f := strings.Trim(fields[i], `"'`); len(f) <= maxArg {
				r.args[i] = strings.ToLower(f)
			}
		}
		return true
	}
	return false
}
