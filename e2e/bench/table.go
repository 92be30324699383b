//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// print writes one table per path delay: a line for each metric, a column for each peer, and bastion beside the plugin.
func (b *bench) print(w io.Writer) error {
	var delays []any
	for _, r := range b.rows {
		if !slices.Contains(delays, r.Params["delay_ms"]) {
			delays = append(delays, r.Params["delay_ms"])
		}
	}
	for _, delay := range delays {
		if err := b.printDelay(w, delay); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) printDelay(w io.Writer, delay any) error {
	var peers, metrics []string
	values := map[[2]string]float64{}
	corrupt := map[[2]string]bool{}
	units := map[string]string{}
	for _, r := range b.rows {
		if r.Params["delay_ms"] != delay {
			continue
		}
		if !slices.Contains(peers, r.Peer) {
			peers = append(peers, r.Peer)
		}
		if _, seen := units[r.Metric]; !seen {
			metrics = append(metrics, r.Metric)
			units[r.Metric] = r.Unit
		}
		values[[2]string{r.Peer, r.Metric}] = r.Value
		corrupt[[2]string{r.Peer, r.Metric}] = r.Params["intact"] == false
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "%v ms each way\t", delay)
	for _, p := range peers {
		fmt.Fprintf(tw, "%s\t", p)
	}
	fmt.Fprintln(tw, "bastion/plugin\t")
	for _, m := range metrics {
		fmt.Fprintf(tw, "%s (%s)\t", m, units[m])
		for _, p := range peers {
			switch v, ok := values[[2]string{p, m}]; {
			case corrupt[[2]string{p, m}]:
				fmt.Fprintf(tw, "%.3g CORRUPT\t", v)
			case ok:
				fmt.Fprintf(tw, "%.3g\t", v)
			default:
				fmt.Fprint(tw, "-\t")
			}
		}
		if plugin := values[[2]string{"session-manager-plugin", m}]; plugin > 0 {
			fmt.Fprintf(tw, "%.2fx", values[[2]string{"bastion", m}]/plugin)
		}
		fmt.Fprintln(tw, "\t")
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}
