package bond

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
)

// The worked example of docs/bond.md is what the code does. A failure prints the example as it should be.
func TestSpecificationExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/bond.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	line := func(name string, b []byte) {
		const perLine = 32
		for len(b) > perLine {
			fmt.Fprintf(&want, "%-16s %s\n", name, hex.EncodeToString(b[:perLine]))
			name, b = "", b[perLine:]
		}
		fmt.Fprintf(&want, "%-16s %s\n", name, hex.EncodeToString(b))
	}
	private := func(first byte) *ecdh.PrivateKey {
		key, err := ecdh.X25519().NewPrivateKey(bytesFrom(first+nonceLen, keyLen))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	serverKey, clientKey := private(0x00), private(0x40)
	shared, err := serverKey.ECDH(clientKey.PublicKey())
	if err != nil {
		t.Fatal(err)
	}

	line("server nonce", bytesFrom(0x00, nonceLen))
	line("server private", serverKey.Bytes())
	line("server public", serverKey.PublicKey().Bytes())
	line("client nonce", bytesFrom(0x40, nonceLen))
	line("client private", clientKey.Bytes())
	line("client public", clientKey.PublicKey().Bytes())
	line("connection id", sampleID[:])
	line("shared secret", shared)
	x := fixedExchange(t, openNew, secret{})
	line("key", x.key[:])
	want.WriteString("\n")
	line("HELLO", x.hello)
	line("OPEN (NEW)", x.open)
	line("ACCEPT", x.accept)
	want.WriteString("\n")
	join := fixedExchange(t, openJoin, x.key)
	if !bytes.Equal(join.hello, x.hello) {
		t.Fatal("another HELLO")
	}
	line("OPEN (JOIN 1)", join.open)
	line("ACCEPT", join.accept)
	refused := &scripted{}
	if err := (&serverHandshake{conn: refused}).refuse(RefuseUnknown, "who?"); err != nil {
		t.Fatal(err)
	}
	line("REFUSE 3 \"who?\"", refused.out.Bytes())
	line("REFUSE 6 \"full\"", join.refuse(t, RefuseSubflows, "full"))
	want.WriteString("\n")
	h := sha256.Sum256(append(bytes.Clone(join.hello), join.open...))
	line("JOIN's handshake", h[:])
	for _, label := range []string{labelClientFrames, labelServerFrames} {
		key, err := hkdf.Expand(sha256.New, x.key[:], label+string(h[:]), 32)
		if err != nil {
			t.Fatal(err)
		}
		line(strings.TrimPrefix(label, "bond ")[:6]+"'s frames", key)
	}
	out := deriveSeals(x.key, versionSealed, join.hello, join.open).out
	for _, f := range []frame{
		{typ: frameAck, limit: 4 << 20},
		{typ: frameData, data: []byte("hello")},
		{typ: frameFIN, dsn: 5},
		{typ: frameAck, ack: 6, limit: 4<<20 + 5, received: dataHeader + 5 + finSize, delay: 250},
		{typ: framePing, token: 1},
		{typ: framePong, token: 1},
		{typ: frameWant},
		{typ: frameLeave},
		{typ: frameReset, code: ResetAborted, text: "bye"},
	} {
		line(f.typ.String(), out.append(appendFrame(nil, &f), 0))
	}

	if !bytes.Contains(doc, []byte("```\n"+want.String()+"```\n")) {
		t.Errorf("docs/bond.md should have this example:\n%s", want.String())
	}
}

// The numbers that docs/bond.md gives for the other end are those of the code.
func TestSpecificationNumbers(t *testing.T) {
	doc, err := os.ReadFile("../../docs/bond.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(doc)), " ")
	for _, want := range []string{
		fmt.Sprintf("### HELLO, %d bytes", helloLen),
		fmt.Sprintf("%d bytes for NEW, %d for JOIN", openNewLen, openJoinLen),
		fmt.Sprintf("ACCEPT, %d bytes", 1+macLen),
		fmt.Sprintf("REFUSE, %d to %d bytes", 2+macLen, 2+maxText+macLen),
		fmt.Sprintf("it is %d to %d bytes long", 2, 2+maxText),
		fmt.Sprintf("**code** | the authentication code of a frame: %d bytes", sealSize),
		fmt.Sprintf("before it gives up (ours %d)", mostHellos),
		fmt.Sprintf("when **%d streams in succession** say so", mostDenials),
		fmt.Sprintf("gives up at the %s NEW", map[int]string{5: "fifth"}[mostNews]),
		fmt.Sprintf("**DATA**, %d to %d bytes", dataHeader+1, dataHeader+maxData),
		fmt.Sprintf("**FIN**, %d bytes", finSize),
		fmt.Sprintf("**ACK**, %d bytes", ackSize),
		fmt.Sprintf("**RESET**, %d to %d bytes", resetHeader, resetHeader+maxText),
		fmt.Sprintf("It is %d until the first ACK", initialLimit),
		fmt.Sprintf("At most %d DATA and FIN frames", maxFlight),
		fmt.Sprintf("to no fewer than %d", maxGaps),
		fmt.Sprintf("when %d KiB have come", ackEvery>>10),
		fmt.Sprintf("%d ms after what came otherwise, %d ms if that is less than %d KiB",
			ackDelay.Milliseconds(), ackIdle.Milliseconds(), ackLittle>>10),
		fmt.Sprintf("for %d round trips + %d ms, at most %g s", stallRTTs, stallMargin.Milliseconds(), mostStall.Seconds()),
		fmt.Sprintf("after %g s without a frame from the peer, and each %g s on a stalled", pingAfter.Seconds(), pingStalled.Seconds()),
		fmt.Sprintf("PONG is due within %g s", pongWithin.Seconds()),
		fmt.Sprintf("for most of %d ms", wantEvery.Milliseconds()),
		fmt.Sprintf("closes it %g s after it began", leaveWithin.Seconds()),
		fmt.Sprintf("the server waits %g s for that", partTimeout.Seconds()),
		fmt.Sprintf("after %g minutes without a usable subflow", farewell.Minutes()),
		fmt.Sprintf("**linger** (%g minutes)", DefaultLinger.Minutes()),
		fmt.Sprintf("%d MiB each by default", DefaultWindow>>20),
		fmt.Sprintf("%g minutes, for REFUSE 7", tombstoneTime.Minutes()),
		fmt.Sprintf("the latest %d at bastiond", maxTombstones),
		fmt.Sprintf("its least round trip + %d ms of queue", queueTarget.Milliseconds()),
		fmt.Sprintf("%d ms at least, as an ACK may wait for so long, and %d ms at most",
			ackDelay.Milliseconds(), mostGap.Milliseconds()),
		fmt.Sprintf("It starts at %d KiB", initialCwnd>>10),
		fmt.Sprintf("more than %d ms above the least", queueTarget.Milliseconds()),
		fmt.Sprintf("It is at least %d KiB and at most %d MiB", leastCwnd>>10, mostCwnd>>20),
		fmt.Sprintf("The least round trip is believed for %g s", minRTTSpan.Seconds()),
		fmt.Sprintf("for %d ms + a round trip, which drains", drainSpan.Milliseconds()),
		fmt.Sprintf("all subflows send in %d ms, %d KiB at least and %d MiB at most (%d KiB until",
			unsentSpan.Milliseconds(), leastUnsent>>10, mostUnsent>>20, initialUnsent>>10),
		fmt.Sprintf("differ by less than %d ms", similar.Milliseconds()),
		fmt.Sprintf("as the soonest + %d ms is left alone", 2*muchLater.Milliseconds()),
		fmt.Sprintf("each %g s it gets something", remeasure.Seconds()),
		fmt.Sprintf("for two round trips + %d ms, goes once more", lateMargin.Milliseconds()),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/bond.md does not say %q", want)
		}
	}
}
