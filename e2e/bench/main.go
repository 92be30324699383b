//go:build linux

// Command bench measures bastion beside AWS's session-manager-plugin and ssm-session-client, in one run, through the lab's
// message gateway with its faithful pump, and prints a table. It writes the same figures as rows to build/bench.json.
//
// The figures depend on the machine and its load: compare only those of one run, as ratios.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
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

// bench is one run: a lab, a far end in it, a running task, and the programs to compare.
type bench struct {
	lab    *lab.Lab
	far    *rig.FarEnd
	ssm    *ssm.Client
	target string // the task, as StartSession names it
	region string

	aws, plugin, ssmpeer, bastion, bastiond string

	rows []row
	log  io.Writer // progress
}

func (b *bench) env() []string {
	return append(b.lab.Env(), "PATH="+filepath.Dir(b.plugin)+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

func run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var (
		bin     = flag.String("bin", filepath.Join(rig.Root(), "build"), "folder of the built commands")
		out     = flag.String("o", filepath.Join(rig.Root(), "build", "bench.json"), "file for the rows")
		repeat  = flag.Int("repeat", 5, "cold starts to take the median of")
		rounds  = flag.Int("rounds", 1000, "round trips of one byte")
		seconds = flag.Int("seconds", 8, "length aimed at for each bulk transfer")
		only    = flag.String("peers", "", "comma-separated peers to measure (default: all)")
		delays  = flag.String("delays", "0,20", "comma-separated path delays, ms each way")
	)
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}

	b := &bench{log: os.Stderr, bastion: filepath.Join(*bin, "bastion"), bastiond: filepath.Join(*bin, "bastiond")}
	for name, path := range map[string]*string{"aws": &b.aws, "session-manager-plugin": &b.plugin, "ssmpeer": &b.ssmpeer} {
		if *path, err = rig.Find(name); err != nil {
			return err
		}
	}
	if b.far, err = rig.StartFarEnd("127.0.0.1:0"); err != nil {
		return err
	}
	defer b.far.Close()
	// The databases are not measured; the exec agent's second before its first output is, so it is the real one's.
	b.lab, err = lab.Start(ctx, lab.Config{
		Bastiond: b.bastiond, Log: slog.New(slog.DiscardHandler), Postgres: lab.Off, Redis: lab.Off, NoWeb: true,
		Allow: []string{b.far.Addr()}, Gateway: gateway.Config{ExecDelay: time.Second},
	})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := b.lab.Close(); err == nil {
			err = cerr
		}
	}()
	if err := b.startTask(ctx); err != nil {
		return err
	}
	for word := range strings.SplitSeq(*delays, ",") {
		delay, err := strconv.Atoi(word)
		if err != nil || delay < 0 {
			return fmt.Errorf("bad delay %q", word)
		}
		if err := b.lab.Gateway().SetFaults(gateway.Faults{DelayMS: delay}); err != nil {
			return err
		}
		for _, p := range peers() {
			if *only != "" && !slices.Contains(strings.Split(*only, ","), p.name) {
				continue
			}
			if err := b.measure(ctx, p, delay, *repeat, *rounds, *seconds); err != nil {
				return fmt.Errorf("%s at %d ms: %w", p.name, delay, err)
			}
		}
	}
	if err := b.print(os.Stdout); err != nil {
		return err
	}
	return b.write(*out)
}

// startTask brings the bastion up, as a user does, and makes the clients that the peers need.
func (b *bench) startTask(ctx context.Context) error {
	proc, err := rig.Start(b.env(), b.bastion, "up", "-q")
	if err != nil {
		return err
	}
	if code, err := proc.Wait(ctx); err != nil || code != 0 {
		return fmt.Errorf("bastion up: exit code %d, %w:\n%s", code, err, proc.Output())
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

// files is the value of a variable of the lab's environment that names a file, for the SDK's options.
func (b *bench) files(name string) []string {
	for _, kv := range b.lab.Env() {
		if key, value, _ := strings.Cut(kv, "="); key == name {
			return []string{value}
		}
	}
	return nil
}

// measure takes all the figures of one peer, each on a tunnel of its own.
func (b *bench) measure(ctx context.Context, p peer, delay, repeat, rounds, seconds int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	params := map[string]any{"delay_ms": delay}
	add := func(metric, unit string, v float64) {
		b.rows = append(b.rows, row{Peer: p.name, Metric: metric, Unit: unit, Value: v, Params: params})
	}
	fmt.Fprintf(b.log, "bench: %s, %d ms each way\n", p.name, delay)

	first, err := b.firstBytes(ctx, p, repeat)
	if err != nil {
		return err
	}
	add("first_byte", "ms", first.Seconds()*1e3)
	if p.coldOnly {
		return nil
	}

	err = b.with(ctx, p, func(t *tunnel) error {
		p50, p99, err := roundTrips(ctx, t.addr, rounds)
		add("rtt_p50", "ms", p50.Seconds()*1e3)
		add("rtt_p99", "ms", p99.Seconds()*1e3)
		return err
	})
	if err != nil {
		return err
	}
	var peak int64
	for _, d := range []struct {
		name string
		move moveFunc
	}{{"download", rig.Download}, {"upload", rig.Upload}} {
		n, err := b.fitting(ctx, p, d.move, time.Duration(seconds)*time.Second)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		if err := b.with(ctx, p, func(t *tunnel) error {
			got, err := bulk(ctx, t, n, d.move)
			if err != nil {
				return err
			}
			u, err := t.usage()
			if err != nil {
				return err
			}
			peak = max(peak, u.PeakRSS)
			add(d.name, "MB/s", got.rate)
			b.rows[len(b.rows)-1].Params = map[string]any{"delay_ms": delay, "bytes": n, "intact": got.intact}
			add(d.name+"_cpu", "s/GB", got.cpu)
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	add("peak_rss", "MB", float64(peak)/1e6)
	return nil
}

// fitting returns how many bytes the peer moves in about the time that is aimed at. A transfer that is too short would
// measure the start, so that the sizes grow until one takes a fair part of that time.
func (b *bench) fitting(ctx context.Context, p peer, move moveFunc, aim time.Duration) (int64, error) {
	const least, most = 1 << 20, 1 << 30
	for n := int64(least); ; n *= 4 {
		var got transfer
		err := b.with(ctx, p, func(t *tunnel) (err error) {
			got, err = bulk(ctx, t, n, move)
			return err
		})
		if err != nil {
			return 0, err
		}
		took := time.Duration(float64(n) / 1e6 / got.rate * float64(time.Second))
		if took >= aim/4 || n >= most {
			return min(max(int64(got.rate*1e6*aim.Seconds()), least), most), nil
		}
	}
}

// with opens the peer's tunnel, waits until it listens, and closes it when f has returned.
func (b *bench) with(ctx context.Context, p peer, f func(*tunnel) error) error {
	t, err := p.open(ctx, b)
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
		t, err := p.open(ctx, b)
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

func (b *bench) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	js, err := json.MarshalIndent(b.rows, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(js, '\n'), 0o644)
}
