//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// sizeTables writes a table for each direction of a transfer. It has a line for each size of task and a column for each peer.
// Further columns compare bastion with the plugin and with its own best number of sessions. The last table is of transfers both
// ways: the part of the task that they use, because a byte in one direction costs many times what it does in the other.
func sizeTables(rows []row) string {
	var b strings.Builder
	f := readSizes(rows)
	for _, way := range f.ways {
		f.table(&b, way+", MB/s", func(peer string, cpu float64) (row, bool) {
			r, ok := f.rate[figure{way, peer, cpu}]
			return r, ok
		})
	}
	if slices.Contains(f.ways, bothWays("download")) {
		f.table(&b, "both, of the task", f.use)
	}
	return b.String()
}

// bothWays is the metric of one direction while the other transfers too.
func bothWays(direction string) string { return direction + ", both" }

type figure struct {
	way, peer string
	cpu       float64
}

// figures are the rates of a run, with what they are of in the order in which they were measured.
type figures struct {
	ways, peers []string
	cpus        []float64
	rate        map[figure]row
}

func readSizes(rows []row) figures {
	f := figures{rate: map[figure]row{}}
	for _, r := range rows {
		cpu, ok := asFloat(r.Params["task_cpu"])
		if !ok {
			continue
		}
		f.ways, f.peers, f.cpus = with(f.ways, r.Metric), with(f.peers, r.Peer), with(f.cpus, cpu)
		f.rate[figure{r.Metric, r.Peer, cpu}] = r
	}
	return f
}

// use is the part of a task that transfers both ways use: each direction's rate of the best that bastion has alone, in sum.
func (f figures) use(peer string, cpu float64) (row, bool) {
	var sum float64
	for _, way := range []string{"download", "upload"} {
		r, ok := f.rate[figure{bothWays(way), peer, cpu}]
		best, _ := f.extremes(func(peer string, cpu float64) (row, bool) {
			r, ok := f.rate[figure{way, peer, cpu}]
			return r, ok
		}, cpu)
		if !ok || best == 0 || r.Params["failed"] != nil {
			return row{}, false
		}
		sum += r.Value / best
	}
	return row{Peer: peer, Value: sum}, true
}

func (f figures) table(b *strings.Builder, title string, get func(peer string, cpu float64) (row, bool)) {
	columns := append([]string{title}, f.peers...)
	columns = append(columns, "auto / plugin", "auto / best", "worst / best")
	fmt.Fprintf(b, "| %s |\n| --- |%s\n", strings.Join(columns, " | "), strings.Repeat(" ---: |", len(columns)-1))
	for _, cpu := range f.cpus {
		fmt.Fprintf(b, "| %s vCPU |", number(cpu/1024))
		for _, p := range f.peers {
			r, ok := get(p, cpu)
			if !ok {
				b.WriteString(" |")
				continue
			}
			fmt.Fprintf(b, " %s |", cell(r))
		}
		auto, _ := get("bastion-auto", cpu)
		plain, _ := get(plugin, cpu)
		best, worst := f.extremes(get, cpu)
		for _, ratio := range [][2]float64{{auto.Value, plain.Value}, {auto.Value, best}, {worst, best}} {
			if ratio[0] == 0 || ratio[1] == 0 {
				b.WriteString(" |")
				continue
			}
			fmt.Fprintf(b, " %s |", number(ratio[0]/ratio[1]))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// extremes are the best of bastion's figures in a task, and the worst of those with more than one session.
func (f figures) extremes(get func(peer string, cpu float64) (row, bool), cpu float64) (best, worst float64) {
	for _, p := range f.peers {
		r, ok := get(p, cpu)
		if !ok || !strings.HasPrefix(p, "bastion-") {
			continue
		}
		best = max(best, r.Value)
		if p != "bastion-1" && (worst == 0 || r.Value < worst) {
			worst = r.Value
		}
	}
	return best, worst
}

func with[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// asFloat reads a number of a row, which is an int when it was measured and a float64 when it comes from a file.
func asFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}
