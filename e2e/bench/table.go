//go:build linux

package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// printTables writes the rows as Markdown. Each path delay has a table with a line for each metric and a column for each peer, and
// bastion beside the plugin. A list has the figures without a delay.
func printTables(w io.Writer, rows []row) error {
	var b strings.Builder
	var delays []any
	var rest []row
	for _, r := range rows {
		switch delay, ok := r.Params["delay_ms"]; {
		case !ok:
			rest = append(rest, r)
		case !slices.Contains(delays, delay):
			delays = append(delays, delay)
		}
	}
	for _, delay := range delays {
		printDelay(&b, rows, delay)
	}
	if len(rest) > 0 {
		b.WriteString("| figure | of | value | measured |\n| --- | --- | ---: | --- |\n")
		for _, r := range rest {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", title(r), r.Peer, cell(r), params(r))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printDelay(b *strings.Builder, rows []row, delay any) {
	type key struct{ peer, metric string }
	var peers []string
	var metrics []row // the first row of each
	values := map[key]row{}
	for _, r := range rows {
		if r.Params["delay_ms"] != delay {
			continue
		}
		peers = with(peers, r.Peer)
		if !slices.ContainsFunc(metrics, func(m row) bool { return m.Metric == r.Metric }) {
			metrics = append(metrics, r)
		}
		values[key{r.Peer, r.Metric}] = r
	}
	columns := append([]string{fmt.Sprintf("%v ms each way", delay)}, peers...)
	compared := []string{"bastion-8", "bastion-16"}
	for _, p := range compared {
		columns = append(columns, p+" / plugin")
	}
	fmt.Fprintf(b, "| %s |\n| --- |%s\n", strings.Join(columns, " | "), strings.Repeat(" ---: |", len(columns)-1))
	for _, m := range metrics {
		fmt.Fprintf(b, "| %s |", title(m))
		for _, p := range peers {
			r, ok := values[key{p, m.Metric}]
			if !ok {
				b.WriteString(" |")
				continue
			}
			fmt.Fprintf(b, " %s |", cell(r))
		}
		for _, p := range compared {
			of, than := values[key{p, m.Metric}].Value, values[key{plugin, m.Metric}].Value
			if of == 0 || than == 0 || strings.HasSuffix(m.Metric, "_full_rate_after") {
				b.WriteString(" |")
				continue
			}
			fmt.Fprintf(b, " %s |", number(of/than))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// titles are the metrics that have a heading of more words than their name.
var titles = map[string]string{
	"first_byte":               "first byte from a running task",
	"first_contact":            "first byte from a running task that is not known yet",
	"warm_rtt":                 "round trip of a byte through the agent, p50",
	"process_p50":              "start and end of a bastion that does nothing, p50",
	"process_p99":              "start and end of a bastion that does nothing, p99",
	"warm_proxy_p50":           "warm bastion proxy, start to first byte, p50",
	"warm_proxy_p99":           "warm bastion proxy, start to first byte, p99",
	"warm_forward_p50":         "warm bastion forward -d, start to end, p50",
	"warm_forward_p99":         "warm bastion forward -d, start to end, p99",
	"rtt_p50":                  "round trip of a byte, p50",
	"rtt_p99":                  "round trip of a byte, p99",
	"download_full_rate_after": "download, full rate after",
	"upload_full_rate_after":   "upload, full rate after",
	"download_cpu":             "download, client CPU",
	"upload_cpu":               "upload, client CPU",
	"download_cpu_share":       "download, client CPU share",
	"upload_cpu_share":         "upload, client CPU share",
	"download_peak_rss":        "download, peak RSS",
	"upload_peak_rss":          "upload, peak RSS",
	"pg_dump":                  "pg_dump",
	"query_p50":                "SELECT 1 beside a bulk download, p50",
	"query_p99":                "SELECT 1 beside a bulk download, p99",
	"query_download":           "that bulk download",
	"connections_served":       "connections at once, served",
	"connections_peak_rss":     "connections at once, peak RSS",
	"idle_rss":                 "idle, RSS",
	"idle_cpu_share":           "idle, CPU share",
}

// title is how a row's metric is headed: "first byte from a running task, ms".
func title(r row) string {
	name, ok := titles[r.Metric]
	if !ok {
		name = r.Metric
	}
	if r.Unit == "" {
		return name
	}
	return name + ", " + r.Unit
}

func cell(r row) string {
	switch {
	case r.Params["failed"] != nil:
		return "failed"
	case r.Params["intact"] == false:
		return number(r.Value) + ", corrupt"
	}
	return number(r.Value)
}

func params(r row) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(r.Params)) {
		v := r.Params[k]
		if f, ok := v.(float64); ok {
			v = number(f)
		}
		list = append(list, fmt.Sprintf("%s=%v", k, v))
	}
	return strings.Join(list, ", ")
}

// number writes v with three significant digits, and never with an exponent.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	s := strconv.FormatFloat(v, 'f', min(digits, 6), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}
