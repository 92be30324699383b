package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// DefaultCgroup is where the kernel shows the control group of the task's container.
const DefaultCgroup = "/sys/fs/cgroup"

// TaskHealth is the answer to RequestHealth: the task's resources, and their use by bastiond, the SSM agent and its processes
// together. A client compares two answers. Unknown fields are left out.
type TaskHealth struct {
	V            int     `json:"v"`                      // 1
	At           float64 `json:"at_seconds"`             // since bastiond's start
	CPUs         int     `json:"cpus"`                   // processors that bastiond sees
	CPULimit     float64 `json:"cpu_limit,omitempty"`    // vCPU of the task
	CPUUsed      float64 `json:"cpu_used_seconds"`       // so far
	Periods      int64   `json:"cpu_periods"`            // of the kernel's quota, so far
	Throttled    int64   `json:"cpu_throttled_periods"`  // of these, the ones that used up the quota
	ThrottledFor float64 `json:"cpu_throttled_seconds"`  //
	MemoryLimit  int64   `json:"memory_limit,omitempty"` // bytes
	MemoryUsed   int64   `json:"memory_used,omitempty"`  // bytes, without those that the kernel can drop
	Sessions     int     `json:"sessions"`               // SSM sessions to bastiond
	MaxSessions  int     `json:"max_sessions,omitempty"` // that the task's memory has room for
}

// HealthVersion is TaskHealth's V.
const HealthVersion = 1

// resources reads the kernel's and ECS's figures of the task. Its only state is ECS's answer at the start.
type resources struct {
	cgroup string
	began  time.Time

	cpu    float64 // vCPU, by ECS; 0: unknown
	memory int64   // bytes, by ECS
}

const (
	metadataTime = 2 * time.Second
	maxMetadata  = 1 << 20 // bytes
	mib          = 1 << 20
)

// findResources asks ECS for the task's limits, at the metadata endpoint if there is one. The kernel's control group may show only
// the container, but the limits are the task's.
func findResources(ctx context.Context, cgroup, metadata string) (*resources, error) {
	r := &resources{cgroup: cgroup, began: time.Now()}
	if metadata == "" {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(metadata, "/")+"/task", nil)
	if err != nil {
		return r, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy: the endpoint is the host's own
	response, err := client.Do(request)
	if err != nil {
		return r, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return r, fmt.Errorf("task metadata: %s", response.Status)
	}
	var task struct {
		Limits struct {
			CPU    float64 // vCPU
			Memory int64   // MiB
		}
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxMetadata)).Decode(&task); err != nil {
		return r, fmt.Errorf("task metadata: %w", err)
	}
	if task.Limits.CPU > 0 && task.Limits.Memory > 0 && task.Limits.Memory < 1<<30 {
		r.cpu, r.memory = task.Limits.CPU, task.Limits.Memory*mib
	}
	return r, nil
}

// memoryLimit returns how much memory the task may use, in bytes; 0: unknown.
func (r *resources) memoryLimit() int64 {
	if r.memory > 0 {
		return r.memory
	}
	limit, ok := r.number("memory.max")
	if !ok {
		limit, ok = r.number("memory/memory.limit_in_bytes")
	}
	const none = 1 << 50 // without a limit, version 1 has a number beyond any machine's memory
	if !ok || limit >= none {
		return 0
	}
	return limit
}

// health reads the present figures.
func (r *resources) health() TaskHealth {
	h := TaskHealth{
		V: HealthVersion, At: time.Since(r.began).Seconds(), CPUs: runtime.NumCPU(), CPULimit: r.cpu, MemoryLimit: r.memoryLimit(),
	}
	if stat := r.table("cpu.stat"); stat != nil { // version 2
		h.CPUUsed = float64(stat["usage_usec"]) / 1e6
		h.ThrottledFor = float64(stat["throttled_usec"]) / 1e6
		h.Periods, h.Throttled = stat["nr_periods"], stat["nr_throttled"]
		if h.CPULimit == 0 {
			h.CPULimit = r.quota()
		}
	} else if stat := r.table("cpu/cpu.stat"); stat != nil { // version 1
		used, _ := r.number("cpuacct/cpuacct.usage")
		h.CPUUsed = float64(used) / 1e9
		h.ThrottledFor = float64(stat["throttled_time"]) / 1e9
		h.Periods, h.Throttled = stat["nr_periods"], stat["nr_throttled"]
		quota, _ := r.number("cpu/cpu.cfs_quota_us")
		if period, _ := r.number("cpu/cpu.cfs_period_us"); h.CPULimit == 0 && quota > 0 && period > 0 {
			h.CPULimit = float64(quota) / float64(period)
		}
	}
	for _, m := range []struct{ used, stat, cache string }{
		{"memory.current", "memory.stat", "inactive_file"},
		{"memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"},
	} {
		if used, ok := r.number(m.used); ok {
			h.MemoryUsed = max(0, used-r.table(m.stat)[m.cache])
			break
		}
	}
	return h
}

// quota reads cpu.max of version 2: "50000 100000", or "max 100000".
func (r *resources) quota() float64 {
	words := strings.Fields(string(r.read("cpu.max")))
	if len(words) != 2 {
		return 0
	}
	quota, err := strconv.ParseFloat(words[0], 64)
	period, perr := strconv.ParseFloat(words[1], 64)
	if err != nil || perr != nil || period <= 0 {
		return 0
	}
	return quota / period
}

const maxCgroupFile = 64 << 10

func (r *resources) read(name string) []byte {
	f, err := os.Open(filepath.Join(r.cgroup, name))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxCgroupFile))
	if err != nil {
		return nil
	}
	return text
}

// number reads a file with one number.
func (r *resources) number(name string) (int64, bool) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(r.read(name))), 10, 64)
	return n, err == nil
}

// table reads a file with a name and a number on each line; nil if it is missing.
func (r *resources) table(name string) map[string]int64 {
	text := r.read(name)
	if text == nil {
		return nil
	}
	out := make(map[string]int64)
	for line := range bytes.Lines(text) {
		words := bytes.Fields(line)
		if len(words) != 2 {
			continue
		}
		if n, err := strconv.ParseInt(string(words[1]), 10, 64); err == nil {
			out[string(words[0])] = n
		}
	}
	return out
}
