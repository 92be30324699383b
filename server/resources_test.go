package server

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bastion-ssm/bastion/internal/audit"
)

// filesIn writes files with these contents below a directory.
func filesIn(t *testing.T, contents map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range contents {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var cgroup1 = map[string]string{
	"cpu/cpu.stat":                 "nr_periods 100\nnr_throttled 63\nthrottled_time 4500000000\n",
	"cpu/cpu.cfs_quota_us":         "25000\n",
	"cpu/cpu.cfs_period_us":        "100000\n",
	"cpuacct/cpuacct.usage":        "2500000000\n",
	"memory/memory.limit_in_bytes": "536870912\n",
	"memory/memory.usage_in_bytes": "400000000\n",
	"memory/memory.stat":           "cache 1\ntotal_inactive_file 100000000\n",
}

var cgroup2 = map[string]string{
	"cpu.stat":       "usage_usec 2500000\nuser_usec 1\nnr_periods 100\nnr_throttled 63\nthrottled_usec 4500000\n",
	"cpu.max":        "25000 100000\n",
	"memory.max":     "536870912\n",
	"memory.current": "400000000\n",
	"memory.stat":    "anon 5\ninactive_file 100000000\n",
}

// What the kernel shows is told in the same words, whichever version of control groups it has.
func TestTaskHealth(t *testing.T) {
	want := TaskHealth{
		V: 1, CPULimit: 0.25, CPUUsed: 2.5, Periods: 100, Throttled: 63, ThrottledFor: 4.5,
		MemoryLimit: 512 << 20, MemoryUsed: 300_000_000,
	}
	with := func(base map[string]string, changes ...string) map[string]string {
		out := map[string]string{}
		maps.Copy(out, base)
		for i := 0; i < len(changes); i += 2 {
			out[changes[i]] = changes[i+1]
		}
		return out
	}
	unlimited := want
	unlimited.CPULimit, unlimited.MemoryLimit = 0, 0
	for name, c := range map[string]struct {
		files map[string]string
		want  TaskHealth
	}{
		"version 1":            {cgroup1, want},
		"version 2":            {cgroup2, want},
		"version 1, no limits": {with(cgroup1, "cpu/cpu.cfs_quota_us", "-1\n", "memory/memory.limit_in_bytes", "9223372036854771712\n"), unlimited},
		"version 2, no limits": {with(cgroup2, "cpu.max", "max 100000\n", "memory.max", "max\n"), unlimited},
		"nothing":              {nil, TaskHealth{V: 1}},
		"garbage":              {map[string]string{"cpu.stat": "\x00\xff 1 2\nusage_usec x\n", "cpu.max": "1", "memory.current": ""}, TaskHealth{V: 1}},
	} {
		r, err := findResources(t.Context(), filesIn(t, c.files), "")
		if err != nil {
			t.Fatal(err)
		}
		got := r.health()
		if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(TaskHealth{}, "At", "CPUs")); diff != "" || got.CPUs < 1 || got.At < 0 {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The limits are the task's, as ECS says them: the container's own may be none.
func TestTaskMetadata(t *testing.T) {
	answer := `{"Cluster":"c","Limits":{"CPU":0.5,"Memory":1024},"Containers":[]}`
	status := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v4/abc/task" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer s.Close()
	dir := filesIn(t, cgroup2)
	r, err := findResources(t.Context(), dir, s.URL+"/v4/abc")
	if err != nil {
		t.Fatal(err)
	}
	if h := r.health(); h.CPULimit != 0.5 || h.MemoryLimit != 1<<30 || h.CPUUsed != 2.5 {
		t.Errorf("%+v", h)
	}
	for _, bad := range []struct {
		status int
		answer string
	}{
		{http.StatusNotFound, "{}"},
		{http.StatusOK, "no JSON"},
		{http.StatusOK, `{"Limits":{"CPU":-1,"Memory":1}}`},
		{http.StatusOK, `{"Limits":{"CPU":1e300,"Memory":9000000000000000000}}`},
		{http.StatusOK, strings.Repeat(" ", maxMetadata+1) + answer},
	} {
		status, answer = bad.status, bad.answer
		r, _ := findResources(t.Context(), dir, s.URL+"/v4/abc")
		if h := r.health(); h.CPULimit != 0.25 || h.MemoryLimit != 512<<20 {
			t.Errorf("%d, %.20q: %+v", bad.status, bad.answer, h)
		}
	}
}

// The audit log's first line has the size of the task, by which its cost is known.
func TestStartHasTheSize(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"Limits":{"CPU":0.25,"Memory":512}}`))
	}))
	defer s.Close()
	b := start(t, Config{Metadata: s.URL})
	if r := b.log.wait(t, audit.Start, 1); r.VCPU != 0.25 || r.MemoryMiB != 512 {
		t.Errorf("%+v", r)
	}
}

// bastiond's heap gets what the agent's processes leave, and the sessions that there may be leave room for bastiond.
func TestMemoryOfATask(t *testing.T) {
	for _, c := range []struct {
		task        int64
		least, most int // sessions
	}{
		{512, 32, 36}, {1024, 80, 90}, {2048, 180, 195}, {64, spareSessions + 1, spareSessions + 1},
	} {
		n := maxSessions(c.task * mib)
		if n < c.least || n > c.most {
			t.Errorf("%d MiB: %d sessions, want %d to %d", c.task, n, c.least, c.most)
		}
		for sessions := range n {
			limit := memoryLimit(c.task*mib, sessions)
			agents := int64(agentMemory + programMemory + sessions*sessionMemory)
			if c.task > 64 && limit+agents > c.task*mib || limit < leastOwn {
				t.Errorf("%d MiB, %d sessions: the heap may have %d MiB beside %d MiB", c.task, sessions, limit/mib, agents/mib)
			}
		}
	}
}

// The limit of the heap follows the sessions, unless the operator has set one.
func TestMemoryLimitFollowsSessions(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	dir := filesIn(t, cgroup2)
	for _, keep := range []bool{true, false} {
		debug.SetMemoryLimit(before)
		s, err := newServer(Config{Cgroup: dir, KeepMemoryLimit: keep})
		if err != nil {
			t.Fatal(err)
		}
		var seen []int64
		out := s.countPlain()
		seen = append(seen, debug.SetMemoryLimit(-1))
		out()
		seen = append(seen, debug.SetMemoryLimit(-1))
		want := []int64{memoryLimit(512*mib, 1), memoryLimit(512*mib, 0)}
		if keep {
			want = []int64{before, before}
		}
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("keep %v: %v, want %v", keep, seen, want)
		}
	}
}
