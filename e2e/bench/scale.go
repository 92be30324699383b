//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

// scaleDelay is the delay each way, in milliseconds, where it is not what varies.
const scaleDelay = 20

// scaleCPU is the size of the task, in CPU units: enough for all sessions.
const scaleCPU = 4096

var (
	scaleSessions = []int{1, 2, 4, 8, 12, 16}
	scaleDelays   = []int{0, 10, 40, 100}
	scaleLosses   = []float64{0, 0.1, 0.5, 1} // percent of the data messages
)

// scale measures throughput against one thing at a time, and draws it.
func (b *bench) scale(ctx context.Context) error {
	// The benchmark measures the sessions, the path and its loss, not the task.
	if err := b.resize(ctx, scaleCPU); err != nil {
		return err
	}
	download, upload := directions()[0], directions()[1]

	for _, n := range scaleSessions {
		if err := b.throughput(ctx, "sessions", bastion(n), download, gateway.Faults{DelayMS: scaleDelay}); err != nil {
			return err
		}
	}
	if err := b.throughput(ctx, "sessions", peerNamed(plugin), download, gateway.Faults{DelayMS: scaleDelay}); err != nil {
		return err
	}
	for _, delay := range scaleDelays {
		f := gateway.Faults{DelayMS: delay}
		for _, m := range []struct {
			p peer
			d direction
		}{{peerNamed(ours), download}, {peerNamed(plugin), download}, {peerNamed(ours), upload}} {
			if err := b.throughput(ctx, "delay", m.p, m.d, f); err != nil {
				return err
			}
		}
	}
	for _, loss := range scaleLosses {
		f := gateway.Faults{DelayMS: scaleDelay, Drop: loss / 100, Seed: 1}
		for _, p := range []peer{peerNamed(ours), peerNamed(plugin)} {
			if err := b.throughput(ctx, "loss", p, download, f); err != nil {
				return err
			}
		}
	}
	if err := b.write("scale.json"); err != nil {
		return err
	}
	return drawAll(b.out, b.rows)
}

// throughput adds the row of one point of a plot.
func (b *bench) throughput(ctx context.Context, plot string, p peer, d direction, f gateway.Faults) error {
	if err := b.lab.Gateway().SetFaults(f); err != nil {
		return err
	}
	at := map[string]any{"plot": plot, "delay_ms": f.DelayMS, "loss_percent": 100 * f.Drop, "sessions": max(p.sessions, 1)}
	span := b.span
	if f.Drop > 0 {
		span *= 2 // a lost message holds up the later ones, which then arrive at once
	}
	return b.try(ctx, p, plot, d.name, "MB/s", at, func(ctx context.Context) error {
		got, _, err := b.bulk(ctx, p, d, f.DelayMS, span)
		if err == nil {
			at["intact"], at["cpu_share"] = got.intact, got.share
			b.add(p, d.name, "MB/s", got.rate, at)
		}
		return err
	})
}

// drawAll writes a picture for each plot that has rows.
func drawAll(dir string, rows []row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, c := range charts(rows) {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), c.svg(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// charts makes the charts of the rows, by the names of their files.
func charts(rows []row) map[string]*chart {
	all := map[string]*chart{
		"download-sessions": {
			title: fmt.Sprintf("Download against sessions, %d ms each way", scaleDelay), x: "sessions",
			series: []series{line(rows, "sessions", "sessions", "bastion-", "download", "bastion")},
		},
		"download-delay": {
			title: "Download against path delay, 8 sessions", x: "path delay each way, ms",
			series: []series{
				line(rows, "delay", "delay_ms", ours, "download", "bastion"),
				line(rows, "delay", "delay_ms", plugin, "download", plugin),
			},
		},
		"upload-delay": {
			title: "Upload against path delay, 8 sessions", x: "path delay each way, ms",
			series: []series{line(rows, "delay", "delay_ms", ours, "upload", "bastion")},
		},
		"download-loss": {
			title: fmt.Sprintf("Download against loss, 8 sessions, %d ms each way", scaleDelay), x: "data messages lost, %",
			series: []series{
				line(rows, "loss", "loss_percent", ours, "download", "bastion"),
				line(rows, "loss", "loss_percent", plugin, "download", plugin),
			},
		},
	}
	// What so many sessions of the plugin would give together, if nothing else were the limit.
	if one := line(rows, "sessions", "sessions", plugin, "download", ""); len(one.points) == 1 {
		most, rate := float64(slices.Max(scaleSessions)), one.points[0].y
		c := all["download-sessions"]
		c.series = append(c.series, series{
			name: "as many sessions of the plugin's rate", points: []point{{0, 0}, {most, most * rate}}, dashed: true,
		})
	}
	for name, c := range all {
		c.y = "MB/s"
		c.series = slices.DeleteFunc(c.series, func(s series) bool { return len(s.points) == 0 })
		if len(c.series) == 0 {
			delete(all, name)
		}
	}
	return all
}

// line is the figures of a metric, of the peers whose names begin with prefix, over a parameter of a plot.
func line(rows []row, plot, over, prefix, metric, name string) series {
	s := series{name: name}
	for _, r := range rows {
		if r.Params["plot"] != plot || r.Metric != metric || !strings.HasPrefix(r.Peer, prefix) || r.Params["failed"] != nil {
			continue
		}
		if x, ok := asFloat(r.Params[over]); ok {
			s.points = append(s.points, point{x, r.Value})
		}
	}
	slices.SortStableFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	return s
}
