//go:build unix

package sessions

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

// These benchmarks run the lab's gateway and agent, at the pace of AWS's agent, in a process of their own, to measure each side's
// CPU time. It is what bounds how many sessions can be busy at once.

// labProcessEnv makes the test binary the lab's process: its value is what the far end does.
const labProcessEnv = "SESSIONS_TEST_LAB_PROCESS"

// labProcess is the lab's process, as far as it is needed here: GET /start starts a session, GET /cpu tells the CPU time so far.
// It ends with its standard input.
type labProcess struct {
	SSMAPI // nil: no benchmark resumes
	url    string
}

// grantJSON is a started session as /start answers.
type grantJSON struct{ ID, URL, Token string }

func init() {
	if far := os.Getenv(labProcessEnv); far != "" {
		runLabProcess(far)
		os.Exit(0)
	}
}

func runLabProcess(far string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serveFar(far, c)
		}
	}()
	spec := portSpec(func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) })
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	l := labGateway{
		spec: spec,
		g:    gateway.New(gateway.Config{BaseURL: func() string { return "ws" + strings.TrimPrefix(srv.URL, "http") }}),
	}
	answer := func(w http.ResponseWriter, v any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(v) // the parent sees that nothing came
	}
	mux.HandleFunc("GET /start", func(w http.ResponseWriter, _ *http.Request) {
		id, url, token, err := l.start()
		answer(w, grantJSON{id, url, token}, err)
	})
	mux.HandleFunc("GET /terminate/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, l.g.Terminate(r.PathValue("id")))
	})
	mux.HandleFunc("GET /cpu", func(w http.ResponseWriter, _ *http.Request) {
		cpu, err := cpuTime()
		answer(w, cpu, err)
	})
	mux.Handle("/", l.g)
	_, _ = fmt.Fprintln(os.Stdout, srv.URL) // the parent sees that nothing came
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// serveFar is the far end: it sends without end, or echoes.
func serveFar(what string, c net.Conn) {
	defer c.Close()
	if what == "echo" {
		_, _ = io.Copy(c, c)
		return
	}
	zeros := make([]byte, 64<<10)
	for {
		if _, err := c.Write(zeros); err != nil {
			return
		}
	}
}

// cpuTime is what this process has used.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

func startLabProcess(b *testing.B, far string) *labProcess {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), labProcessEnv+"="+far)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	p := &labProcess{}
	if _, err := fmt.Fscanln(stdout, &p.url); err != nil {
		b.Fatalf("the lab's process did not start: %v", err)
	}
	return p
}

func (p *labProcess) get(ctx context.Context, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return err
	}
	c := http.Client{Timeout: 10 * time.Second}
	r, err := c.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return json.NewDecoder(r.Body).Decode(v)
}

func (p *labProcess) cpu(b *testing.B) time.Duration {
	b.Helper()
	var cpu time.Duration
	if err := p.get(b.Context(), "/cpu", &cpu); err != nil {
		b.Fatal(err)
	}
	return cpu
}

func (p *labProcess) StartSession(
	ctx context.Context, _ *ssm.StartSessionInput, _ ...func(*ssm.Options),
) (*ssm.StartSessionOutput, error) {
	var g grantJSON
	err := p.get(ctx, "/start", &g)
	return &ssm.StartSessionOutput{SessionId: &g.ID, StreamUrl: &g.URL, TokenValue: &g.Token}, err
}

func (p *labProcess) TerminateSession(
	ctx context.Context, in *ssm.TerminateSessionInput, _ ...func(*ssm.Options),
) (*ssm.TerminateSessionOutput, error) {
	var none any
	return &ssm.TerminateSessionOutput{SessionId: in.SessionId}, p.get(ctx, "/terminate/"+*in.SessionId, &none)
}

// BenchmarkSessionsDownload is N sessions that download at once. An operation is a message: a kilobyte.
func BenchmarkSessionsDownload(b *testing.B) {
	for _, n := range []int{1, 8, 16} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			lab := startLabProcess(b, "source")
			c := New(Config{SSM: lab})
			streams := make([]*Stream, n)
			for i := range streams {
				var err error
				if streams[i], err = c.OpenPort(b.Context(), Port{Target: "i-1", Port: 1, ServerFirst: true}); err != nil {
					b.Fatal(err)
				}
			}
			// What the first sessions have brought while the others were opened is not counted.
			total := b.N
			var left sync.WaitGroup
			begin := make(chan struct{})
			var caught sync.WaitGroup
			for i, s := range streams {
				quota := total*(i+1)/n - total*i/n
				caught.Add(1)
				left.Go(func() {
					buf := make([]byte, 32<<10)
					for s.unread() > 0 {
						_, _ = s.Read(buf)
					}
					caught.Done()
					<-begin
					for got := 0; got < quota*1024; {
						m, err := s.Read(buf)
						if err != nil {
							b.Error(err)
							return
						}
						got += m
					}
				})
			}
			caught.Wait()
			mine, err := cpuTime()
			if err != nil {
				b.Fatal(err)
			}
			labs := lab.cpu(b)
			b.SetBytes(1024)
			b.ResetTimer()
			close(begin)
			left.Wait()
			b.StopTimer()
			after, err := cpuTime()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64((after-mine).Microseconds())/float64(total), "client-µs/msg")
			b.ReportMetric(float64((lab.cpu(b)-labs).Microseconds())/float64(total), "lab-µs/msg")
			for _, s := range streams {
				s.abandon()
			}
		})
	}
}

// BenchmarkSessionsRoundTrip is one byte there and back, again and again.
func BenchmarkSessionsRoundTrip(b *testing.B) {
	lab := startLabProcess(b, "echo")
	s, err := New(Config{SSM: lab}).OpenPort(b.Context(), Port{Target: "i-1", Port: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.abandon()
	buf := make([]byte, 1)
	round := func() time.Duration {
		start := time.Now()
		if _, err := s.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(s, buf); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	round() // the agent has dialed
	times := make([]time.Duration, b.N)
	b.ResetTimer()
	for i := range times {
		times[i] = round()
	}
	b.StopTimer()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
}
