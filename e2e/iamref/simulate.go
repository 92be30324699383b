package iamref

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// Simulation is a request of a principal with identity-based policies.
type Simulation struct {
	Policies  []json.RawMessage   `json:"policies"`
	KeyPolicy json.RawMessage     `json:"keyPolicy"` // of a KMS key; none for other resources
	Principal string              `json:"principal"` // ARN
	Action    string              `json:"action"`
	Resource  string              `json:"resource"` // ARN, or *
	Account   string              `json:"account"`  // of the resource
	Context   map[string][]string `json:"context"`  // by condition key; all values of one that takes several are in it
}

// Outcome is what the simulator says of a Simulation.
type Outcome struct {
	Effect  string   `json:"effect"`  // Allowed, ImplicitlyDenied or ExplicitlyDenied
	Ignored []string `json:"ignored"` // condition keys that such a request cannot have
	Error   string   `json:"error"`   // why it refuses to simulate
}

//go:embed simulate.cjs
var simulator string

// Simulate asks a simulator of IAM that is not ours, @cloud-copilot/iam-simulate, in a process of its own. A machine without Node or the
// package skips the test, and fails in CI.
func Simulate(t testing.TB, simulations []Simulation) []Outcome {
	t.Helper()
	node := rig.Need(t, "node")
	modules := filepath.Join(rig.Root(), "build", "npm", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "@cloud-copilot", "iam-simulate")); err != nil {
		rig.LeaveOut(t, "the simulator of IAM is missing: run make npm")
	}
	input, err := json.Marshal(simulations)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "--eval", simulator)
	cmd.Env = append(rig.Environ(), "NODE_PATH="+modules)
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var out []Outcome
	if err := json.Unmarshal(output, &out); err != nil || len(out) != len(simulations) {
		t.Fatalf("%d outcomes of %d simulations: %v", len(out), len(simulations), err)
	}
	return out
}
