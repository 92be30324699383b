package rediscluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// toLocal translates the hosts that begin with "10." or "node", and the host of the connection.
func toLocal(a announced) (string, int, bool) {
	if a.host != "" && !strings.HasPrefix(a.host, "10.") && !strings.HasPrefix(a.host, "node") {
		return "", 0, false
	}
	return "127.0.0.1", a.port + 10000, true
}

// talk is a connection in a test: what the client sends and what the node answers.
type talk struct {
	t       *tracker
	r       *replies
	chunk   int // bytes at a time; 0: all
	in, out []byte
}

func newTalk(chunk int) *talk {
	t := new(tracker)
	return &talk{t: t, r: &replies{t: t, tr: toLocal}, chunk: chunk}
}

func (k *talk) pieces(s string, f func([]byte)) {
	for s != "" {
		n := len(s)
		if k.chunk > 0 {
			n = min(n, k.chunk)
		}
		f([]byte(s[:n]))
		s = s[n:]
	}
}

func (k *talk) send(commands ...string) {
	for _, c := range commands {
		k.pieces(command(strings.Fields(c)...), k.t.sent)
	}
}

// answer feeds what the node sends and returns what the client gets.
func (k *talk) answer(s string) string {
	var out []byte
	k.in = append(k.in, s...)
	k.pieces(s, func(p []byte) { out = k.r.feed(out, p) })
	k.out = append(k.out, out...)
	return string(out)
}

func command(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		b.WriteString(bulk(a))
	}
	return b.String()
}

const (
	slots2 = "*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$8\r\n10.0.0.1\r\n:6379\r\n$2\r\nid\r\n*0\r\n"
	local2 = "*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:16379\r\n$2\r\nid\r\n*0\r\n"
)

func verbatim(s string) string { return fmt.Sprintf("=%d\r\ntxt:%s\r\n", len(s)+4, s) }

func TestRewrite(t *testing.T) {
	nodes := "aa 10.0.0.1:6379@16379,,tls-port=0,shard-id=ff myself,master - 0 0 1 connected 0-5460 [93-<-bb]\n" +
		"bb 10.0.0.2:6379@16379,node2.example master - 0 1 2 connected 5461-10922\n" +
		"cc 192.168.0.1:6379@16379 slave,fail aa 0 1 1 connected\n" +
		"dd :0@0 master,noaddr - 0 1 3 disconnected\n" +
		"ee fd00::1:6379@16379 slave aa 0 1 1 connected\n" +
		"ff 10.0.0.3:6379 slave aa 0 1 1 connected\n"
	localNodes := "aa 127.0.0.1:16379@16379,,tls-port=0,shard-id=ff myself,master - 0 0 1 connected 0-5460 [93-<-bb]\n" +
		"bb 127.0.0.1:16379@16379,127.0.0.1 master - 0 1 2 connected 5461-10922\n" +
		"cc 192.168.0.1:6379@16379 slave,fail aa 0 1 1 connected\n" +
		"dd :0@0 master,noaddr - 0 1 3 disconnected\n" +
		"ee fd00::1:6379@16379 slave aa 0 1 1 connected\n" +
		"ff 127.0.0.1:16379 slave aa 0 1 1 connected\n"
	tests := []struct{ name, request, reply, want string }{
		{"moved", "GET x", "-MOVED 3999 10.0.0.2:6379\r\n", "-MOVED 3999 127.0.0.1:16379\r\n"},
		{"ask", "GET x", "-ASK 3999 10.0.0.2:6379\r\n", "-ASK 3999 127.0.0.1:16379\r\n"},
		{"moved to a name", "GET x", "-MOVED 1 node2.example:6380\r\n", "-MOVED 1 127.0.0.1:16380\r\n"},
		{"moved to the same host", "GET x", "-MOVED 1 :6380\r\n", "-MOVED 1 127.0.0.1:16380\r\n"},
		{"moved to a stranger", "GET x", "-MOVED 1 192.168.0.1:6380\r\n", ""},
		{"moved nowhere", "GET x", "-MOVED 1 ?:6380\r\n", ""},
		{"moved, too long", "GET x", "-MOVED 1 10.0.0.2:6379" + strings.Repeat(" ", 600) + "\r\n", ""},
		{"moved, no port", "GET x", "-MOVED 1 10.0.0.2:0\r\n", ""},
		{"another error", "GET x", "-MOVEDX 1 10.0.0.2:6379\r\n", ""},
		{"a string", "GET x", "$26\r\n-MOVED 3999 10.0.0.2:6379\n\r\n", ""},
		{"a status", "GET x", "+MOVED 3999 10.0.0.2:6379\r\n", ""},
		{"an element", "EVAL x 0", "*1\r\n-MOVED 3999 10.0.0.2:6379\r\n", ""},

		{"slots", "CLUSTER SLOTS", slots2, local2},
		{"slots in lower case", "cluster slots", slots2, local2},
		{
			"slots with more names", "CLUSTER SLOTS",
			"*1\r\n*4\r\n:0\r\n:5\r\n" +
				"*4\r\n$5\r\nnode1\r\n:6379\r\n$1\r\na\r\n*2\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n" +
				"*4\r\n$-1\r\n:6380\r\n$1\r\nb\r\n*2\r\n$8\r\nhostname\r\n$5\r\nnode2\r\n",
			"*1\r\n*4\r\n:0\r\n:5\r\n" +
				"*4\r\n$9\r\n127.0.0.1\r\n:16379\r\n$1\r\na\r\n*2\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n" +
				"*4\r\n$9\r\n127.0.0.1\r\n:16380\r\n$1\r\nb\r\n*2\r\n$8\r\nhostname\r\n$9\r\n127.0.0.1\r\n",
		},
		{
			"slots in RESP3", "CLUSTER SLOTS",
			"*1\r\n*3\r\n:0\r\n:5\r\n*4\r\n_\r\n:6379\r\n$1\r\na\r\n%1\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n",
			"*1\r\n*3\r\n:0\r\n:5\r\n*4\r\n$9\r\n127.0.0.1\r\n:16379\r\n$1\r\na\r\n%1\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n",
		},
		{"slots with an unknown name", "CLUSTER SLOTS", "*1\r\n*3\r\n:0\r\n:5\r\n*3\r\n$1\r\n?\r\n:6379\r\n$1\r\na\r\n", ""},
		{"no slots", "CLUSTER SLOTS", "*0\r\n", ""},
		{"no cluster", "CLUSTER SLOTS", "-ERR This instance has cluster support disabled\r\n", ""},
		{"not its form", "CLUSTER SLOTS", "*1\r\n*1\r\n$8\r\n10.0.0.1\r\n", ""},
		{"another command", "CLUSTER INFO", "$16\r\n10.0.0.1:6379@77\r\n", ""},
		{"what looks like it", "LRANGE x 0 -1", slots2, ""},

		{"nodes", "CLUSTER NODES", bulk(nodes), bulk(localNodes)},
		{"nodes in RESP3", "CLUSTER NODES", verbatim(nodes), verbatim(localNodes)},
		{
			"replicas", "CLUSTER REPLICAS aa", "*1\r\n" + bulk("ff 10.0.0.3:6379@1 slave aa 0 1 1 connected"),
			"*1\r\n" + bulk("ff 127.0.0.1:16379@1 slave aa 0 1 1 connected"),
		},
		{
			"shards", "CLUSTER SHARDS",
			"*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:5\r\n$5\r\nnodes\r\n*1\r\n" +
				"*10\r\n$2\r\nid\r\n$1\r\na\r\n$4\r\nport\r\n:6379\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n" +
				"$8\r\nendpoint\r\n$5\r\nnode1\r\n$8\r\nhostname\r\n$5\r\nnode1\r\n",
			"*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:5\r\n$5\r\nnodes\r\n*1\r\n" +
				"*10\r\n$2\r\nid\r\n$1\r\na\r\n$4\r\nport\r\n:16379\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n" +
				"$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$8\r\nhostname\r\n$9\r\n127.0.0.1\r\n",
		},
		{
			"shards in RESP3", "CLUSTER SHARDS",
			"*1\r\n%2\r\n$5\r\nslots\r\n*0\r\n$5\r\nnodes\r\n*1\r\n%2\r\n$4\r\nport\r\n:6379\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n",
			"*1\r\n%2\r\n$5\r\nslots\r\n*0\r\n$5\r\nnodes\r\n*1\r\n%2\r\n$4\r\nport\r\n:16379\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n",
		},
		{
			"attributes", "CLUSTER SLOTS", "|1\r\n$3\r\nttl\r\n*1\r\n:3\r\n" + slots2,
			"|1\r\n$3\r\nttl\r\n*1\r\n:3\r\n" + local2,
		},
	}
	for _, tt := range tests {
		if tt.want == "" {
			tt.want = tt.reply
		}
		for _, chunk := range []int{0, 1, 7} {
			k := newTalk(chunk)
			k.send("PING", tt.request, "CLUSTER SLOTS")
			got := k.answer("+PONG\r\n" + tt.reply + slots2)
			if want := "+PONG\r\n" + tt.want + local2; got != want {
				t.Errorf("%s, in pieces of %d:\n got %q\nwant %q", tt.name, chunk, got, want)
			}
		}
	}
}

// With TLS the nodes' TLS ports are the ones to dial, and the client is told of them as ports without.
func TestRewriteTLSPort(t *testing.T) {
	node := "*1\r\n%1\r\n$5\r\nnodes\r\n*1\r\n%3\r\n$8\r\ntls-port\r\n:6379\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n$1\r\nx\r\n:1\r\n"
	want := "*1\r\n%1\r\n$5\r\nnodes\r\n*1\r\n%3\r\n$4\r\nport\r\n:16379\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$1\r\nx\r\n:1\r\n"
	if got := rewriteReply(kindShards, []byte(node), true, toLocal); string(got) != want {
		t.Errorf("got %q", got)
	}
	if got := rewriteReply(kindShards, []byte(node), false, toLocal); string(got) != node {
		t.Errorf("without TLS: got %q", got)
	}
}

// Requests and replies stay matched whatever is between them. The steps are "> REQUEST" and "< REPLY". At the end comes a CLUSTER
// SLOTS, whose reply is rewritten unless the connection is lost.
func TestMatching(t *testing.T) {
	const queued = "< +QUEUED\r\n"
	tests := []struct {
		name  string
		lost  bool
		steps []string
	}{
		{"pipelining", false, []string{"> GET a", "> GET b", "> PING", "< $-1\r\n$3\r\nabc\r\n+PONG\r\n"}},
		{"an empty line", false, []string{">> \r\n\r\n*0\r\n*-1\r\nPING\r\n", "< +PONG\r\n"}},
		{"inline", false, []string{">> set a \"b c\"\r\n", "< +OK\r\n"}},
		{"blocking", false, []string{"> BLPOP x 0", "> PING", "< *2\r\n$1\r\nx\r\n$1\r\ny\r\n+PONG\r\n"}},
		{"push", false, []string{
			"> HELLO 3", "< %1\r\n$5\r\nproto\r\n:3\r\n", "> PING", "< >2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nx\r\n+PONG\r\n",
		}},
		{"attributes", false, []string{"> PING", "< |1\r\n+a\r\n:1\r\n+PONG\r\n"}},
		{"RESP3 subscribe", false, []string{
			"> HELLO 3", "> SUBSCRIBE a b", "> PING",
			"< %0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n+PONG\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n",
			"< >3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n",
		}},
		{"RESP3 subscribe, and a list like a message", false, []string{
			"> HELLO 3", "> SUBSCRIBE a", "< %0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
			"> LRANGE x 0 -1", "< *3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n",
		}},
		{"RESP3 subscribe refused", false, []string{
			"> HELLO 3", "> SUBSCRIBE a", "> PING", "< %0\r\n-NOPERM no\r\n+PONG\r\n",
		}},
		{"RESP2 subscribe and back", false, []string{
			"> SUBSCRIBE a b", "< *3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", "> PING",
			"< *3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n",
			"> UNSUBSCRIBE", "< *3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n",
			"> LRANGE x 0 -1", "< *3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n",
		}},
		{"RESP2 unsubscribe from nothing", false, []string{"> UNSUBSCRIBE", "< *3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"}},
		{"a list like a message", false, []string{"> LRANGE x 0 -1", "< *3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"}},
		{"transaction", false, []string{
			"> MULTI", "> SET a b", "> EXEC", "< +OK\r\n", queued, "< *1\r\n+OK\r\n",
		}},
		{"transaction refused", false, []string{
			"> MULTI", "> SET a", "> EXEC", "< +OK\r\n-ERR wrong number\r\n-EXECABORT x\r\n",
		}},
		{"transaction discarded", false, []string{"> MULTI", "> GET a", "> DISCARD", "< +OK\r\n+QUEUED\r\n+OK\r\n"}},
		{"transaction aborted by WATCH", false, []string{"> MULTI", "> GET a", "> EXEC", "< +OK\r\n+QUEUED\r\n*-1\r\n"}},
		{"reply off and on", false, []string{
			"> CLIENT REPLY OFF", "> SET a b", "> CLUSTER SLOTS", "> CLIENT REPLY ON", "< +OK\r\n",
		}},
		{"reply skip", false, []string{"> CLIENT REPLY SKIP", "> CLUSTER NODES", "> PING", "< +PONG\r\n"}},
		{"reply off refused", true, []string{"> CLIENT REPLY OFF", "< -NOPERM no\r\n", "> CLIENT REPLY ON", "< +OK\r\n"}},
		{"reply off in a transaction", true, []string{
			"> MULTI", "> CLIENT REPLY OFF", "> EXEC", "< +OK\r\n", queued, "< *0\r\n",
		}},
		{"subscribe in a transaction", true, []string{
			"> MULTI", "> SUBSCRIBE a b", "> EXEC", "< +OK\r\n", queued,
			"< *1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n",
		}},
		{"monitor", true, []string{"> MONITOR", "< +OK\r\n+1 \"get\" \"x\"\r\n"}},
		{"monitor and reset", false, []string{
			"> MONITOR", "< +OK\r\n+1 \"get\" \"x\"\r\n", "> RESET", "< +1 \"get\" \"y\"\r\n+RESET\r\n",
		}},
		{"reset", false, []string{
			"> SUBSCRIBE a", "> RESET", "< *3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n+RESET\r\n",
			"> LRANGE x 0 -1", "< *3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n",
		}},
		{"replication", true, []string{"> PSYNC ? -1", "< +FULLRESYNC x 0\r\n$4\r\nabcd*1\r\n$4\r\nPING\r\n"}},
		{"an answer to nothing", true, []string{"< -ERR max number of clients reached\r\n"}},
		{"no request", true, []string{">> *1\r\nx\r\n", "< -ERR Protocol error\r\n"}},
		{"a length without an end", true, []string{"> PING", "< $" + strings.Repeat("1", 100)}},
		{"a length of nothing", true, []string{"> PING", "< *-7\r\n"}},
		{"a streamed string", true, []string{"> PING", "< $?\r\n;4\r\nabcd\r\n;0\r\n"}},
		{"a string longer than it says", true, []string{"> PING", "< $1\r\nabc\r\n"}},
		{"another protocol", true, []string{"< HTTP/1.1 400 Bad Request\r\n\r\n"}},
		{"too deep", true, []string{"> PING", "< " + strings.Repeat("*1\r\n", maxDepth+1)}},
	}
	for _, tt := range tests {
		for _, chunk := range []int{0, 1, 5} {
			k := newTalk(chunk)
			for _, step := range tt.steps {
				switch text := step[2:]; {
				case strings.HasPrefix(step, ">> "):
					k.pieces(step[3:], k.t.sent)
				case step[0] == '>':
					k.send(text)
				default:
					if got := k.answer(text); got != text {
						t.Errorf("%s: %q became %q", tt.name, text, got)
					}
				}
			}
			k.send("CLUSTER SLOTS")
			want := local2
			if tt.lost {
				want = slots2
			}
			if got := k.answer(slots2); got != want {
				t.Errorf("%s, in pieces of %d: got %q (lost: %q)", tt.name, chunk, got, k.t.lost)
			}
		}
	}
}

// What need not be fed is the inside of a string, and never its end.
func TestPasses(t *testing.T) {
	k := newTalk(0)
	k.send("GET x", "CLUSTER SLOTS")
	k.answer("$30\r\n0123456789")
	if n := k.r.passes(); n != 20 {
		t.Fatalf("%d bytes pass, want 20", n)
	}
	k.r.passed(20)
	if n := k.r.passes(); n != 0 {
		t.Errorf("%d bytes pass at the end", n)
	}
	if got := k.answer("\r\n" + slots2); got != "\r\n"+local2 {
		t.Errorf("got %q", got)
	}
	if n := k.r.passes(); n != 0 {
		t.Errorf("%d bytes pass between replies", n)
	}
}

// In a transaction CLUSTER commands are answered within the reply to EXEC.
func TestTransactionWithCluster(t *testing.T) {
	for _, chunk := range []int{0, 1} {
		k := newTalk(chunk)
		k.send("MULTI", "GET x", "CLUSTER SLOTS", "BAD", "LRANGE y 0 -1", "CLUSTER SLOTS", "EXEC", "CLUSTER SLOTS")
		head := "+OK\r\n+QUEUED\r\n+QUEUED\r\n-ERR unknown\r\n+QUEUED\r\n+QUEUED\r\n*4\r\n$-1\r\n"
		// Redis would abort here; what counts is that the error has taken no place in the queue.
		got := k.answer(head + slots2 + slots2 + slots2 + slots2)
		if want := head + local2 + slots2 + local2 + local2; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// A connection that is lost still has its redirections rewritten.
func TestLostRedirects(t *testing.T) {
	k := newTalk(0)
	k.send("MONITOR", "GET x")
	if got := k.answer("+OK\r\n-MOVED 1 10.0.0.1:6379\r\n"); got != "+OK\r\n-MOVED 1 127.0.0.1:16379\r\n" {
		t.Errorf("got %q", got)
	}
}

// What a hostile node sends costs no more memory than the bounds say, and passes.
func TestHostile(t *testing.T) {
	giant := "$9223372036854775807\r\n"
	for name, s := range map[string]string{
		"a giant length":        "$1000000000000000\r\n" + strings.Repeat("x", 1<<20),
		"a length that wraps":   giant + strings.Repeat("x", 1<<16),
		"a giant array":         "*1000000000000000\r\n" + strings.Repeat("*1000000000000000\r\n", 100),
		"depth":                 strings.Repeat("*1\r\n", 1<<18),
		"depth of attributes":   strings.Repeat("|1\r\n", 1<<18),
		"an endless line":       "+" + strings.Repeat("x", 1<<20),
		"an endless error":      "-MOVED 1 " + strings.Repeat("1", 1<<20),
		"an endless number":     "(" + strings.Repeat("1", 1<<20),
		"an endless reply":      "*100000000\r\n" + strings.Repeat("*0\r\n", maxCapture/2),
		"an endless reply text": "$1000000000\r\n" + strings.Repeat("x", 2*maxCapture),
		"answers to nothing":    strings.Repeat("+OK\r\n", 1<<16),
	} {
		k := newTalk(4096)
		k.send("CLUSTER SLOTS")
		got := k.answer(s)
		if len(k.r.held) > maxCapture || cap(k.r.stack) > 2*maxDepth || cap(k.r.line) > 2*maxLine {
			t.Errorf("%s: keeps %d bytes, %d frames, a line of %d", name, len(k.r.held), cap(k.r.stack), cap(k.r.line))
		}
		if got += string(k.r.flush(nil)); got != s {
			t.Errorf("%s: %d bytes became %d", name, len(s), len(got))
		}
	}

	k := newTalk(0)
	for range maxPending / 1000 {
		k.pieces(strings.Repeat(command("MULTI")+command("EXEC"), 1000), k.t.sent)
	}
	if k.t.lost == "" || len(k.t.queue) > 0 {
		t.Errorf("%d requests are remembered", len(k.t.queue))
	}
	k = newTalk(0)
	k.pieces(strings.Repeat(command("PING"), 100_000), k.t.sent)
	if len(k.t.queue) != 1 {
		t.Errorf("%d entries for equal requests", len(k.t.queue))
	}
	k = newTalk(4096)
	k.pieces("*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$"+strconv.Itoa(1<<22)+"\r\n"+strings.Repeat("x", 1<<22)+"\r\n", k.t.sent)
	if cap(k.t.parser.line) > 2*maxInline {
		t.Errorf("a line of %d bytes is kept", cap(k.t.parser.line))
	}
}

var corpus = []string{
	slots2, local2, "+OK\r\n", "-MOVED 1 10.0.0.1:6379\r\n", "-ASK 1 h:1\r\n", "$3\r\nabc\r\n", "*-1\r\n",
	"%1\r\n+a\r\n:1\r\n",
	"|1\r\n+a\r\n:1\r\n+x\r\n", ">2\r\n$7\r\nmessage\r\n_\r\n", "=7\r\ntxt:abc\r\n", "+QUEUED\r\n", "+RESET\r\n",
	"$40\r\nid 10.0.0.1:6379@16379,h master - 0 1 2\n\r\n", "*1\r\n%1\r\n$5\r\nnodes\r\n*1\r\n%1\r\n$2\r\nip\r\n$1\r\nx\r\n",
	"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n",
}

var requests = []string{
	"CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER SHARDS", "CLUSTER REPLICAS x", "PING", "MULTI", "EXEC", "DISCARD", "RESET",
	"SUBSCRIBE a", "UNSUBSCRIBE", "HELLO 3", "CLIENT REPLY SKIP", "CLIENT REPLY OFF", "CLIENT REPLY ON", "MONITOR",
}

// FuzzReplies: without a translation, the output equals the input, whatever the requests and the pieces. With translations it is
// the same for all ways of cutting the input.
func FuzzReplies(f *testing.F) {
	for i, s := range corpus {
		f.Add([]byte{byte(i)}, []byte(s), uint64(i))
	}
	f.Add([]byte{5, 0, 4, 6}, []byte("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n"+slots2+"+PONG\r\n"), uint64(1))
	f.Fuzz(func(t *testing.T, asked, reply []byte, seed uint64) {
		run := func(tr translator, cut bool) string {
			rng := rand.New(rand.NewPCG(seed, 1))
			k := newTalk(0)
			k.r.tr = tr
			for _, b := range asked {
				k.send(requests[int(b)%len(requests)])
			}
			var out []byte
			for rest := reply; len(rest) > 0; {
				n := len(rest)
				if cut {
					n = 1 + rng.IntN(n)
				}
				if limit := k.r.passes(); limit > 0 {
					n = int(min(int64(n), limit))
					out = append(out, rest[:n]...)
					k.r.passed(n)
				} else {
					out = k.r.feed(out, rest[:n])
				}
				rest = rest[n:]
			}
			return string(k.r.flush(out))
		}
		nothing := func(announced) (string, int, bool) { return "", 0, false }
		if got := run(nothing, true); got != string(reply) {
			t.Errorf("%q became %q", reply, got)
		}
		whole := run(toLocal, false)
		if got := run(toLocal, true); got != whole {
			t.Errorf("%q became %q in pieces, %q whole", reply, got, whole)
		}
		if !bytes.Contains(reply, []byte("10.")) && !bytes.Contains(reply, []byte("node")) &&
			!bytes.Contains(reply, []byte("$0")) && !bytes.Contains(reply, []byte("-1")) &&
			!bytes.Contains(reply, []byte("_")) && !bytes.Contains(reply, []byte(" :")) &&
			!bytes.Contains(reply, []byte("+\r\n")) && whole != string(reply) {
			t.Errorf("%q became %q", reply, whole)
		}
	})
}

// FuzzRequests: however the client's bytes are cut, the same requests wait.
func FuzzRequests(f *testing.F) {
	for i, s := range requests {
		f.Add([]byte(command(strings.Fields(s)...)+s+"\r\n"), uint64(i))
	}
	f.Add([]byte("*2\r\n$1\r\n\r\n\r\n$99999999999\r\nx"), uint64(3))
	f.Fuzz(func(t *testing.T, sent []byte, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var whole, cut tracker
		whole.sent(sent)
		for rest := sent; len(rest) > 0; {
			n := 1 + rng.IntN(len(rest))
			cut.sent(rest[:n])
			rest = rest[n:]
		}
		a, b := fmt.Sprint(whole.queue[whole.head:], whole.lost), fmt.Sprint(cut.queue[cut.head:], cut.lost)
		if a != b {
			t.Errorf("%q: %s, in pieces %s", sent, a, b)
		}
	})
}
