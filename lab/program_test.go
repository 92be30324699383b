package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// programMain is the test binary's main function as the program of a task. As LAB_TEST_PROGRAM says, it serves on a loopback port
// until SIGTERM, exits at once with a code, or ignores SIGTERM. "say" as its first argument makes it print the others: for ECS
// Exec.
func programMain() int {
	if len(os.Args) > 1 && os.Args[1] == "say" {
		fmt.Fprintln(os.Stdout, strings.Join(os.Args[2:], " "), "allow="+os.Getenv("BASTIOND_ALLOW"))
		return 0
	}
	mode := os.Getenv("LAB_TEST_PROGRAM")
	if code, ok := strings.CutPrefix(mode, "exit "); ok {
		n, _ := strconv.Atoi(code)
		return n
	}
	term := make(chan os.Signal, 1)
	if mode == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(term, syscall.SIGTERM)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, l.Addr())
	fmt.Fprintln(os.Stderr, "socket", os.Getenv("BASTIOND_SOCKET"))
	fmt.Fprintln(os.Stderr, "metadata", os.Getenv("ECS_CONTAINER_METADATA_URI_V4"))
	fmt.Fprintln(os.Stderr, "credentials", os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
	fmt.Fprintln(os.Stderr, "api", os.Getenv("AWS_ENDPOINT_URL"), os.Getenv("AWS_REGION"))
	var wg sync.WaitGroup
	wg.Go(func() { greetAndEcho(l, hello) })
	<-term
	_ = l.Close()
	fmt.Fprintln(os.Stdout, "bye")
	return 0
}

// greetAndEcho serves l until it is closed: a greeting to each connection, and then what it sends.
func greetAndEcho(l net.Listener, greeting string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.WriteString(conn, greeting)
			_, _ = io.Copy(conn, bufio.NewReader(conn))
		}()
	}
}

// hello is the greeting of the servers that have one.
const hello = "hello\n"

// echoServer greets and echoes on a loopback address, which it returns.
func echoServer(t *testing.T, greeting string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { greetAndEcho(l, greeting) })
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
