//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// sizeTables writes a table for each direction of a transfer. It has a line for each size of task and a column for each peer.
// Further columns compare bastion with the plugin and with its own best number of sessions.
func sizeTables(rows []row) string {
	var b strings.Builder
	var peers, ways []string
	var cpus []float64
	rate := map[string]row{}
	key := func(way, peer string, cpu float64) string { return fmt.Sprint(way, "\x00", peer, "\x00", cpu) }
	for _, r := range rows {
		cpu, ok := asFloat(r.Params["task_cpu"])
		if !ok {
			continue
		}
		peers, ways, cpus = with(peers, r.Peer), with(ways, r.Metric), with(cpus, cpu)
		rate[key(r.Metric, r.Peer, cpu)] = r
	}
	for _, way := range ways {
		columns := append([]string{way + ", MB/s"}, peers...)
		columns = append(columns, "auto / plugin", "auto / best", "worst / best")
		fmt.Fprintf(&b, "| %s |\n| --- |%s\n", strings.Join(columns, " | "), strings.Repeat(" ---: |", len(columns)-1))
		for _, cpu := range cpus {
			fmt.Fprintf(&b, "| %s vCPU |", number(cpu/1024))
			var best, worst float64
			for _, p := range peers {
				r, ok := rate[key(way, p, cpu)]
				if !ok {
					b.WriteString(" |")
					continue
				}
				fmt.Fprintf(&b, " %s |", cell(r))
				if strings.HasPrefix(p, "bastion-") {
					best = max(best, r.Value)
				}
				if strings.HasPrefix(p, "bastion-") && p != "bastion-1" && (worst == 0 || r.Value < worst) {
					worst = r.Value
				}
			}
			auto := rate[key(way, "bastion-auto", cpu)].Value
			for _, ratio := range [][2]float64{{auto, rate[key(way, plugin, cpu)].Value}, {auto, best}, {worst, best}} {
				if ratio[0] == 0 || ratio[1] == 0 {
					b.WriteString(" |")
					continue
				}
				fmt.Fprintf(&b, " %s |", number(ratio[0]/ratio[1]))
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	return b.String()
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
