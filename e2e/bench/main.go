//go:build linux

// Command bench measures bastion beside AWS's session-manager-plugin, ssm-session-client, and OpenSSH over the plugin,
// in one run, through the lab's message gateway with its faithful pump. It prints tables, and writes the same figures
// as rows to build/bench.json.
//
//	bench            every peer, side by side
//	bench -scale     bastion against its sessions, the path's delay and its loss: build/scale.json and the plots of it
//	bench -sizes     the plugin and bastion in tasks of different sizes, medians of several rounds: build/sizes.json
//	bench -publish   puts tables and plots of the rows that both have left in build into docs
//
// The figures depend on the machine and its load: compare only those of one run, as ratios.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are how a run is done.
type options struct {
	bin, out      string
	repeat        int
	span          time.Duration // of each steady state, and of the round trips
	dump          time.Duration // that pg_dump takes at least
	peers, delays string
	only          string
	cpus          string
}

func (o *options) wants(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

// bench is one run: a lab, far ends in it, a running task, and the programs to compare.
type bench struct {
	options
	dir     string // for what the user's commands keep
	lab     *lab.Lab
	far     *rig.FarEnd
	sink    *sink       // of uploads
	duplex  *sink       // of transfers either way and both at once
	greeter *rig.Server // speaks first
	db      *database
	sshd    *rig.SSHD
	ssm     *ssm.Client
	target  string // the task, as StartSession names it
	region  string

	aws, plugin, ssmpeer, ssh, bastion, bastiond string
	sshOptions                                   []string

	forgetful bool // bastion remembers no host keys for now

	rows   []row
	failed []error   // of bastion: the run goes on, and fails in the end
	log    io.Writer // progress
}

// env is the environment of a user whose commands run in one process, and write nothing into the directories of the user who runs
// the benchmark.
func (b *bench) env() []string {
	return append(b.lab.Env(), "BASTION_NO_AGENT=true", "BASTION_RUNTIME_DIR="+filepath.Join(b.dir, "run"),
		"BASTION_STATE_DIR="+filepath.Join(b.dir, "state"), "PATH="+filepath.Dir(b.plugin)+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	build := filepath.Join(rig.Root(), "build")
	b := &bench{log: os.Stderr}
	flag.StringVar(&b.bin, "bin", build, "folder of the built commands")
	flag.StringVar(&b.out, "o", build, "folder for the rows and plots")
	flag.IntVar(&b.repeat, "repeat", 3, "cold starts, and rounds of -sizes, to take the median of")
	flag.DurationVar(&b.span, "span", 4*time.Second, "length of each steady state, and of the round trips")
	flag.DurationVar(&b.dump, "dump", 10*time.Second, "time that pg_dump takes at least")
	flag.StringVar(&b.peers, "peers", "", "comma-separated peers to measure (default: all)")
	flag.StringVar(&b.delays, "delays", "0,20", "comma-separated path delays, ms each way")
	flag.StringVar(&b.only, "only", "", "comma-separated parts to measure (default: all): "+strings.Join(parts, ", "))
	flag.StringVar(&b.cpus, "cpus", "", "comma-separated CPU units of the tasks that -sizes compares (default: all)")
	sizes := flag.Bool("sizes", false, "measure the plugin and bastion in tasks of different sizes")
	scale := flag.Bool("scale", false, "measure bastion against sessions, delay and loss")
	publish := flag.Bool("publish", false, "only put what was measured into the project's documentation")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	switch {
	case *publish:
		return b.publish(filepath.Join(rig.Root(), "docs"))
	case *sizes:
		return b.session(ctx, b.sizes)
	case *scale:
		return b.session(ctx, b.scale)
	default:
		return b.session(ctx, b.compare)
	}
}

// session starts everything, has f measure, and ends everything.
func (b *bench) session(ctx context.Context, f func(context.Context) error) (err error) {
	b.bastion, b.bastiond = filepath.Join(b.bin, "bastion"), filepath.Join(b.bin, "bastiond")
	for name, path := range map[string]*string{
		"aws": &b.aws, "session-manager-plugin": &b.plugin, "ssmpeer": &b.ssmpeer, "ssh": &b.ssh,
	} {
		if *path, err = rig.Find(name); err != nil {
			return err
		}
	}
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.far, err = rig.StartFarEnd("127.0.0.1:0"); err != nil {
		return err
	}
	defer b.far.Close()
	if b.sink, err = startSink((*sink).take); err != nil {
		return err
	}
	defer b.sink.Close()
	if b.duplex, err = startSink((*sink).exchange); err != nil {
		return err
	}
	defer b.duplex.Close()
	if b.greeter, err = rig.ServeLoopback(greet); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.greeter.Close()) }()
	if b.db, err = startDatabase(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.db.server.Close()) }()
	// The lab's own databases are not measured; the exec agent's second before its first output is, so it is the real
	// one's.
	b.lab, err = lab.Start(ctx, lab.Config{
		Bastiond: b.bastiond, Log: slog.New(slog.DiscardHandler), Postgres: lab.Off, Redis: lab.Off, NoWeb: true,
		Allow:   []string{b.far.Addr(), b.sink.Addr(), b.duplex.Addr(), b.greeter.Addr(), b.db.addr()},
		Gateway: gateway.Config{ExecDelay: time.Second},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	if err := b.startTask(ctx); err != nil {
		return err
	}
	if err := b.startSSHD(b.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.sshd.Close()) }()
	if err := f(ctx); err != nil {
		return err
	}
	return errors.Join(b.failed...)
}

// startTask brings the bastion up, as a user does, and makes the clients that the peers need.
func (b *bench) startTask(ctx context.Context) error {
	if err := b.runBastion(ctx, "up", "-q"); err != nil {
		return err
	}
	tasks := b.lab.Tasks()
	if len(tasks) != 1 {
		return fmt.Errorf("bastion up left %d tasks", len(tasks))
	}
	b.target, b.region = tasks[0].Target, lab.Region
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(lab.Region), awsconfig.WithBaseEndpoint(b.lab.URL()),
		awsconfig.WithSharedConfigProfile("lab"), awsconfig.WithSharedConfigFiles(b.files("AWS_CONFIG_FILE")),
		awsconfig.WithSharedCredentialsFiles(b.files("AWS_SHARED_CREDENTIALS_FILE")))
	if err != nil {
		return err
	}
	b.ssm = ssm.NewFromConfig(cfg, func(o *ssm.Options) { o.Retryer = aws.NopRetryer{} })
	return nil
}

// runBastion runs a command of bastion to its end.
func (b *bench) runBastion(ctx context.Context, args ...string) error {
	proc, err := rig.Start(b.env(), b.bastion, args...)
	if err != nil {
		return err
	}
	if code, err := proc.Wait(ctx); err != nil || code != 0 {
		return fmt.Errorf("bastion %s: exit code %d, %w:\n%s", args[0], code, err, proc.Output())
	}
	return nil
}

// files is the value of a variable of the lab's environment that names a file, for the SDK's options.
func (b *bench) files(name string) []string {
	for _, kv := range b.lab.Env() {
		if key, value, _ := strings.Cut(kv, "="); key == name {
			return []string{value}
		}
	}
	return nil
}

// parts are what compare measures, and at last what scale does.
var parts = []string{"start", "warm", "rtt", "bulk", "dump", "query", "crowd", "idle", "allocs", "sessions", "delay", "loss"}

// compare measures every peer at every delay, and prints the tables.
func (b *bench) compare(ctx context.Context) error {
	for word := range strings.SplitSeq(b.delays, ",") {
		delay, err := strconv.Atoi(word)
		if err != nil || delay < 0 {
			return fmt.Errorf("bad delay %q", word)
		}
		for _, p := range peers() {
			if b.wants(b.peers, p.name) {
				if err := b.comparePeer(ctx, p, gateway.Faults{DelayMS: delay}); err != nil {
					return err
				}
			}
		}
	}
	if err := b.resources(ctx); err != nil {
		return err
	}
	if err := b.write("bench.json"); err != nil {
		return err
	}
	return printTables(os.Stdout, b.rows)
}

// comparePeer takes the figures of one peer at one delay, each on a tunnel of its own.
func (b *bench) comparePeer(ctx context.Context, p peer, f gateway.Faults) error {
	if err := b.lab.Gateway().SetFaults(f); err != nil {
		return err
	}
	if err := b.compareStart(ctx, p, f); err != nil || p.coldOnly {
		return err
	}
	if p.name == ours {
		if err := b.compareWarm(ctx, p, f.DelayMS); err != nil {
			return err
		}
	}
	if p.name == plugin || p.sessions == 1 || p.name == ours {
		if err := b.compareRoundTrips(ctx, p, f); err != nil {
			return err
		}
	}
	rate, err := b.compareBulk(ctx, p, f)
	if err != nil {
		return err
	}
	if f.DelayMS == dumpDelay {
		return b.compareDump(ctx, p, rate)
	}
	if f.DelayMS == queryDelay {
		return b.compareQuery(ctx, p)
	}
	return nil
}

// compareStart measures the time to the first byte, and to the first contact with a bastion that is not known.
func (b *bench) compareStart(ctx context.Context, p peer, f gateway.Faults) error {
	at := map[string]any{"delay_ms": f.DelayMS}
	if err := b.try(ctx, p, "start", "first_byte", "ms", at, func(ctx context.Context) error {
		first, err := b.firstBytes(ctx, p, b.repeat)
		b.add(p, "first_byte", "ms", ms(first), at)
		return err
	}); err != nil || p.coldOnly || p.sessions == 0 {
		return err
	}
	return b.try(ctx, p, "start", "first_contact", "ms", at, func(ctx context.Context) error {
		b.forgetful = true
		defer func() { b.forgetful = false }()
		first, err := b.firstBytes(ctx, p, b.repeat)
		b.add(p, "first_contact", "ms", ms(first), at)
		return err
	})
}

func (b *bench) compareRoundTrips(ctx context.Context, p peer, f gateway.Faults) error {
	at := map[string]any{"delay_ms": f.DelayMS}
	return b.try(ctx, p, "rtt", "rtt_p50", "ms", at, func(ctx context.Context) error {
		return b.with(ctx, p, b.far.Port(), func(t *tunnel) error {
			span := b.span
			if f.DelayMS > 0 {
				span *= 2 // for as many that the 99th percentile is not the longest
			}
			times, err := roundTrips(ctx, t.addr, span)
			if err != nil {
				return err
			}
			b.add(p, "rtt_p50", "ms", quantile(times, 0.5), at)
			b.add(p, "rtt_p99", "ms", quantile(times, 0.99), map[string]any{"delay_ms": f.DelayMS, "rounds": len(times)})
			return nil
		})
	})
}

// compareBulk measures transfers in each direction, and returns the rate of a download in MB/s.
func (b *bench) compareBulk(ctx context.Context, p peer, f gateway.Faults) (rate float64, err error) {
	at := map[string]any{"delay_ms": f.DelayMS}
	rate = 1
	for _, d := range directions() {
		if err := b.try(ctx, p, "bulk", d.name, "MB/s", at, func(ctx context.Context) error {
			got, used, err := b.bulk(ctx, p, d, f.DelayMS, b.span)
			if err != nil {
				return err
			}
			if d.name == "download" {
				rate = got.rate
			}
			b.add(p, d.name, "MB/s", got.rate, map[string]any{
				"delay_ms": f.DelayMS, "intact": got.intact, "seconds": got.duration.Seconds(),
			})
			b.add(p, d.name+"_full_rate_after", "s", got.full.Seconds(), at)
			b.add(p, d.name+"_cpu", "s/GB", got.perGB, at)
			b.add(p, d.name+"_cpu_share", "%", got.share, at)
			b.add(p, d.name+"_peak_rss", "MB", float64(used.peak)/1e6, at)
			return nil
		}); err != nil {
			return rate, err
		}
	}
	return rate, nil
}

// pg_dump runs on a path without delay, because otherwise its many small queries at first would take most of the time. The small
// query runs on a path with delay.
const dumpDelay, queryDelay = 0, 20

// compareDump measures pg_dump through a peer that downloads at about rate MB/s.
func (b *bench) compareDump(ctx context.Context, p peer, rate float64) error {
	if p.sessions == 1 {
		return nil
	}
	at := map[string]any{"delay_ms": dumpDelay}
	return b.try(ctx, p, "dump", "pg_dump", "MB/s", at, func(ctx context.Context) error {
		got, err := b.measureDump(ctx, p, rate, b.dump)
		if err != nil {
			return err
		}
		b.add(p, "pg_dump", "MB/s", float64(got.bytes)/1e6/got.took.Seconds(), map[string]any{
			"delay_ms": dumpDelay, "bytes": got.bytes, "seconds": got.took.Seconds(),
		})
		return nil
	})
}

// compareQuery measures a small query beside a bulk download, through one forward.
func (b *bench) compareQuery(ctx context.Context, p peer) error {
	if p.single {
		return nil
	}
	at := map[string]any{"delay_ms": queryDelay}
	return b.try(ctx, p, "query", "query_p99", "ms", at, func(ctx context.Context) error {
		return b.with(ctx, p, b.db.port(), func(t *tunnel) error {
			got, err := measureQueries(ctx, t.addr, p.warm(queryDelay), 5*b.span)
			if err != nil {
				return err
			}
			with := map[string]any{"delay_ms": queryDelay, "queries": len(got.times)}
			b.add(p, "query_p50", "ms", quantile(got.times, 0.5), with)
			b.add(p, "query_p99", "ms", quantile(got.times, 0.99), with)
			b.add(p, "query_download", "MB/s", got.rate, at)
			return nil
		})
	})
}

// resources measures what bastion needs, as it is by default.
func (b *bench) resources(ctx context.Context) error {
	if err := b.lab.Gateway().SetFaults(gateway.Faults{}); err != nil {
		return err
	}
	p := bastion(8)
	if err := b.measureCrowd(ctx, p); err != nil {
		return err
	}
	const span = 20 * time.Second
	if err := b.try(ctx, p, "idle", "idle_rss", "MB", nil, func(ctx context.Context) error {
		return b.with(ctx, p, b.far.Port(), func(t *tunnel) error {
			got, err := measureIdle(ctx, t, b.span, span)
			b.add(p, "idle_rss", "MB", float64(got.rss)/1e6, nil)
			b.add(p, "idle_cpu_share", "%", got.share, map[string]any{"seconds": span.Seconds()})
			return err
		})
	}); err != nil {
		return err
	}
	for _, path := range []string{"tunnel", "sessions/bond"} {
		p, of := peer{name: "bastion", sessions: 1}, map[string]any{"package": path}
		if err := b.try(ctx, p, "allocs", "allocations", "1/MB", of, func(ctx context.Context) error {
			list, err := countAllocs(ctx, "./"+path)
			for _, a := range list {
				b.add(p, "allocations", "1/MB", a.perMB, map[string]any{"package": path, "size_mb": a.size})
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) measureCrowd(ctx context.Context, p peer) error {
	const conns = 1000
	return b.try(ctx, p, "crowd", "connections_served", "", nil, func(ctx context.Context) error {
		return b.with(ctx, p, b.far.Port(), func(t *tunnel) error {
			start := time.Now()
			served, err := crowd(ctx, t.addr, conns)
			took := time.Since(start)
			u, uerr := t.usage()
			if uerr != nil {
				return errors.Join(err, uerr)
			}
			b.add(p, "connections_served", "", float64(served), map[string]any{"of": conns, "seconds": took.Seconds()})
			b.add(p, "connections_peak_rss", "MB", float64(u.peak)/1e6, nil)
			if served < conns {
				b.failed = append(b.failed, fmt.Errorf("%d of %d connections served: %w", served, conns, err))
			}
			return nil
		})
	})
}

// bulk measures a stream in its steady state, on a tunnel of its own, and what the peer has used in the end.
func (b *bench) bulk(ctx context.Context, p peer, d direction, delay int, span time.Duration) (
	got transfer, used usage, err error,
) {
	err = b.with(ctx, p, d.port(b), func(t *tunnel) error {
		s, err := d.start(ctx, b, t.addr)
		if err != nil {
			return err
		}
		defer s.stop()
		if got, err = watch(ctx, s, p.warm(delay), span, t.usage); err != nil {
			return err
		}
		used, err = t.usage()
		return err
	})
	return got, used, err
}

func (b *bench) add(p peer, metric, unit string, v float64, params map[string]any) {
	b.rows = append(b.rows, row{Peer: p.name, Metric: metric, Unit: unit, Value: v, Params: params})
}

// try does a part of the run within a deadline, unless it is not wanted. A peer that fails has a row that says so, and
// the run goes on.
func (b *bench) try(ctx context.Context, p peer, part, metric, unit string, params map[string]any,
	f func(context.Context) error,
) error {
	if !b.wants(b.only, part) {
		return nil
	}
	fmt.Fprintf(b.log, "bench: %s %s %v\n", p.name, metric, params)
	limited, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	before := len(b.rows)
	err := f(limited)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	err = fmt.Errorf("%s: %s %v: %w", p.name, metric, params, err)
	fmt.Fprintln(b.log, "bench:", err)
	if p.sessions > 0 {
		b.failed = append(b.failed, err)
	}
	with := map[string]any{"failed": firstLine(err)}
	maps.Copy(with, params)
	b.rows = b.rows[:before]
	b.add(p, metric, unit, 0, with)
	return nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// with opens the peer's tunnel to a port, waits until it listens, and closes it when f has returned.
func (b *bench) with(ctx context.Context, p peer, port int, f func(*tunnel) error) error {
	t, err := p.open(ctx, b, port)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.ready(ctx); err != nil {
		return err
	}
	if err := f(t); err != nil {
		return fmt.Errorf("%w\n%s", err, t.proc.Output())
	}
	return nil
}

// firstBytes is the median time from the start of the peer's program to the first byte from the far end.
func (b *bench) firstBytes(ctx context.Context, p peer, n int) (time.Duration, error) {
	times := make([]time.Duration, n)
	for i := range times {
		start := time.Now()
		t, err := p.open(ctx, b, b.far.Port())
		if err != nil {
			return 0, err
		}
		if err = t.ready(ctx); err == nil {
			err = firstByte(ctx, t.addr)
		}
		times[i] = time.Since(start)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, t.proc.Output())
		}
		_ = t.close()
		if err != nil {
			return 0, err
		}
	}
	slices.Sort(times)
	return times[n/2], nil
}

func (b *bench) write(name string) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	js, err := json.MarshalIndent(b.rows, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, name), append(js, '\n'), 0o644)
}
