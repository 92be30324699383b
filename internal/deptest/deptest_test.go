// Package deptest holds the test of the rules for imports between packages. It has no code.
package deptest

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/bastion-ssm/bastion"

// allowed are the module's packages and which others of them each may import. Imports point downwards: commands, agent,
// access, the parts, and what the parts have in common. A new package takes its place here, and a new top-level one a reason in docs/adr.
var allowed = map[string][]string{
	"cmd/bastion": {
		"access", "agent", "agent/api", "agent/commands", "agent/dsn", "agent/forwards", "agent/launch", "agent/lookup", "agent/request",
		"internal/admin", "internal/awssdk", "internal/browser", "internal/cli", "internal/config", "internal/configure",
		"internal/console", "internal/dirs", "internal/doctor", "internal/duration", "internal/execenv", "internal/fail", "internal/files",
		"internal/forwarding", "internal/inventory", "internal/invocation", "internal/kubernetes", "internal/linkview", "internal/login",
		"internal/partition", "internal/printable", "internal/process", "internal/rdp", "internal/report", "internal/shared",
		"internal/sleep", "internal/sshcommands", "internal/statusview", "internal/topview", "targets",
	},
	"cmd/bastion-image": {"account/image", "internal/fail", "internal/files", "internal/words"},
	"cmd/bastiond":      {"internal/fail", "internal/printable", "keys", "server"},

	"account/deploy":        {"account", "internal/awsanswer", "internal/fail", "internal/partition", "internal/sleep"},
	"account/image":         {"internal/backoff", "internal/fail", "internal/sleep", "internal/words"},
	"account/image/carried": {"internal/fail"},
	"account/setup": {
		"account", "account/deploy", "account/image", "account/price", "account/survey", "internal/console", "internal/fail",
		"internal/pattern", "internal/printable", "internal/sleep", "internal/words", "targets",
	},
	"account/billing": {"internal/fail", "internal/printable"},
	"account/review":  {"internal/audit", "internal/fail", "internal/fargate"},
	"account/price":   {"account", "internal/fargate", "internal/pattern"},
	"account/survey":  {"account", "internal/fail", "internal/partition", "internal/pattern", "internal/printable", "internal/words", "targets"},

	"agent/api": {
		"internal/config", "internal/dirs", "internal/fail", "internal/files", "internal/private", "internal/report", "internal/sleep",
		"tunnel",
	},
	"agent/commands": {
		"agent", "agent/api", "agent/launch", "internal/awssdk", "internal/cli", "internal/config", "internal/console", "internal/dirs",
		"internal/fail", "internal/files", "internal/invocation", "internal/notify", "internal/process", "internal/service",
		"internal/shared", "internal/words",
	},
	"agent/dashboard": {"agent/api", "agent/dsn", "internal/config", "internal/fail", "internal/private", "internal/sleep"},
	"agent/dsn":       {"agent/api", "internal/config", "internal/fail", "internal/hosts"},
	"agent/forwards":  {"agent/api", "internal/fail"},
	"agent/launch": {
		"agent", "agent/api", "internal/awssdk", "internal/config", "internal/dirs", "internal/fail", "internal/private", "internal/process",
		"internal/sleep",
	},
	"agent/lookup":  {"agent/api", "agent/request", "internal/fail"},
	"agent/request": {"agent/api", "agent/forwards", "internal/config", "internal/fail", "targets"},
	"agent/metrics": {"agent/api", "internal/fail", "internal/files"},
	"agent": {
		"access", "agent/api", "agent/dashboard", "agent/forwards", "agent/metrics", "internal/awssdk", "internal/backoff",
		"internal/config", "internal/fail", "internal/files", "internal/login", "internal/private", "internal/report", "targets", "tunnel",
		"tunnel/rediscluster",
	},

	"account": {"internal/fail", "internal/fargate", "internal/partition", "internal/pattern"},

	"access": {
		"bastions", "internal/awsanswer", "internal/awssdk", "internal/config", "internal/dirs", "internal/fail", "internal/fargate",
		"internal/files", "internal/login", "internal/private", "internal/report", "internal/sleep", "internal/words", "keys", "sessions",
		"sessions/bond", "targets", "tunnel",
	},
	"server": {
		"internal/audit", "internal/duration", "internal/fail", "internal/files", "internal/printable", "internal/private", "internal/sleep",
		"internal/sshwire", "keys", "sessions/bond",
	},

	"bastions": {
		"internal/awsanswer", "internal/backoff", "internal/fail", "internal/fargate", "internal/partition", "internal/sleep",
		"internal/words",
	},
	"sessions": {
		"internal/awsanswer", "internal/deadline", "internal/fail", "sessions/frame", "sessions/reliable", "sessions/transport",
	},
	"node":    {"internal/backoff", "internal/deadline", "internal/sleep", "sessions/frame", "sessions/reliable", "sessions/transport"},
	"targets": {"internal/awsanswer", "internal/fail", "internal/near", "internal/partition"},
	"tunnel":  {"internal/backoff", "internal/fail", "internal/printable", "internal/sleep", "internal/sshwire"},

	"tunnel/rediscluster": {"internal/fail", "tunnel"},

	"internal/audit": {},
	"internal/admin": {
		"access", "account", "account/billing", "account/deploy", "account/image", "account/image/carried", "account/price",
		"account/review", "account/setup", "account/survey", "internal/audit", "internal/awsanswer", "internal/cli", "internal/config",
		"internal/console", "internal/duration", "internal/fail", "internal/fargate", "internal/invocation", "internal/partition",
		"internal/printable", "internal/process", "internal/words",
	},
	"internal/awsanswer": {"internal/pattern"},
	"internal/awssdk":    {"internal/awsanswer", "internal/fail", "internal/files", "internal/printable"},
	"internal/backoff":   {},
	"internal/block":     {},
	"internal/browser":   {"internal/config", "internal/dirs", "internal/fail", "internal/files", "internal/process", "tunnel"},
	"internal/config": {
		"internal/dirs", "internal/duration", "internal/fail", "internal/fargate", "internal/files", "internal/near", "internal/pattern",
	},
	"internal/cli": {"internal/config", "internal/fail", "internal/printable"},
	"internal/configure": {
		"agent/request", "internal/cli", "internal/config", "internal/console", "internal/fail", "internal/invocation",
		"internal/printable", "internal/shared", "internal/words",
	},
	"internal/console":  {"internal/printable"},
	"internal/deadline": {},
	"internal/doctor": {
		"access", "account/survey", "agent", "agent/api", "agent/launch", "agent/request", "bastions", "internal/awsanswer", "internal/awssdk",
		"internal/config", "internal/console", "internal/dirs", "internal/fail", "internal/fargate", "internal/hosts", "internal/partition",
		"internal/pattern", "internal/printable", "internal/process", "internal/report", "internal/sshconfig", "internal/words", "targets", "tunnel",
	},
	"internal/dirs":     {"internal/fail", "internal/files", "internal/process"},
	"internal/duration": {},
	"internal/execenv":  {"agent/dsn", "agent/request", "internal/config", "internal/fail", "targets"},
	"internal/fail":     {"internal/awsanswer"},
	"internal/fargate":  {},
	"internal/files":    {"internal/backoff", "internal/sleep"},
	"internal/forwarding": {
		"access", "agent", "agent/api", "agent/dsn", "agent/forwards", "agent/launch", "agent/request", "internal/cli", "internal/config",
		"internal/console", "internal/dirs", "internal/fail", "internal/hosts", "internal/invocation", "internal/linkview",
		"internal/process", "internal/ready", "internal/report", "targets",
	},
	"internal/hosts": {"internal/backoff", "internal/block", "internal/fail", "internal/files", "internal/sleep"},
	"internal/inventory": {
		"access", "internal/awssdk", "internal/cli", "internal/config", "internal/console", "internal/dirs", "internal/fail",
		"internal/forwarding", "internal/invocation", "internal/picker", "internal/printable", "internal/shared", "internal/targetlist",
		"internal/words", "targets",
	},
	"internal/invocation": {
		"access", "agent/api", "agent/launch", "agent/lookup", "agent/request", "internal/awssdk", "internal/cli", "internal/config",
		"internal/console", "internal/dirs", "internal/execenv", "internal/fail", "internal/files", "internal/linkview", "internal/login",
		"internal/printable", "internal/process", "internal/report", "internal/shared", "internal/words", "targets",
	},
	"internal/kubernetes": {
		"agent/api", "agent/launch", "agent/request", "internal/cli", "internal/config", "internal/dirs", "internal/fail",
		"internal/files", "internal/forwarding", "internal/invocation", "internal/kubeconfig", "internal/sleep", "targets",
	},
	"internal/kubeconfig": {"internal/fail", "internal/files", "internal/sleep"},
	"internal/linkview": {
		"access", "agent/api", "internal/console", "internal/duration", "internal/fail", "internal/process", "internal/report", "tunnel",
	},
	"internal/login":     {"internal/awsanswer", "internal/awssdk", "internal/fail", "internal/files", "internal/printable", "internal/sleep"},
	"internal/near":      {},
	"internal/notify":    {"internal/printable"},
	"internal/openssh":   {"internal/fail", "internal/private", "keys"},
	"internal/partition": {},
	"internal/pattern":   {},
	"internal/printable": {},
	"internal/picker":    {"internal/plainterm", "internal/printable"},
	"internal/plainterm": {},
	"internal/private":   {"internal/fail"},
	"internal/process":   {"internal/fail"},
	"internal/ready":     {"agent/api", "internal/fail", "internal/files", "internal/process"},
	"internal/rdp":       {"internal/fail", "internal/files"},
	"internal/report":    {"internal/fargate", "internal/words"},
	"internal/ring":      {},
	"internal/service":   {"internal/fail", "internal/files"},
	"internal/shared":    {"internal/fail", "internal/files"},
	"internal/sleep":     {},
	"internal/sshcommands": {
		"access", "agent/api", "agent/launch", "internal/cli", "internal/config", "internal/console", "internal/dirs", "internal/fail",
		"internal/invocation", "internal/openssh", "internal/shared", "internal/sshconfig", "internal/sshproxy",
	},
	"internal/sshconfig":  {"internal/block", "internal/fail", "internal/files", "internal/openssh"},
	"internal/sshproxy":   {"internal/fail", "tunnel"},
	"internal/sshwire":    {},
	"internal/statusview": {"agent/api", "internal/console", "internal/printable", "internal/report", "internal/words"},
	"internal/targetlist": {"internal/fail", "internal/files"},
	"internal/topview":    {"agent/api", "internal/plainterm", "internal/printable", "internal/report", "internal/words"},
	"internal/words":      {},
	"keys":                {"internal/sleep"},
	"sessions/bond":       {"internal/backoff", "internal/deadline", "internal/fail", "internal/ring", "internal/sleep"},
	"sessions/frame":      {},
	"sessions/reliable":   {"internal/backoff", "internal/ring", "sessions/frame"},
	"sessions/transport":  {"sessions/frame", "sessions/reliable"},
	"bastion-image":       {},

	// The lab and the tests' rig are no product code: nothing above may import them.
	"cmd/bastion-lab": {"lab", "lab/gateway", "lab/vpc"},
	"lab":             {"account", "internal/partition", "internal/sleep", "keys", "lab/awsapi", "lab/gateway", "lab/iam", "lab/vpc"},
	"lab/awsapi":      {"internal/sleep", "lab/iam"},
	"lab/iam":         {},
	"lab/gateway":     {"sessions/frame"},
	"lab/vpc":         {},
	"e2e/bench":       {"agent/api", "e2e/rig", "internal/sleep", "lab", "lab/gateway", "lab/vpc"},
	"e2e/rig":         {"lab", "lab/gateway", "lab/vpc"},
	"e2e/iamref":      {"e2e/rig", "lab/awsapi", "lab/iam"},
	"e2e/recorded":    {"e2e/rig"},
	"e2e/vectors":     {"sessions/frame"},

	// Only tests.
	"e2e":              {},
	"internal/deptest": {},
}

// common are packages that every other may import: they import none of the module's.
var common = []string{"internal/pattern"}

const (
	awsSDK = "github.com/aws/"
	ssh    = "golang.org/x/crypto/ssh"
)

// forbidden are packages of others, by prefix, that a package must not depend on, not even through another package.
var forbidden = map[string][]string{
	"account/deploy":      {ssh},
	"account/image":       {awsSDK, ssh}, // any registry: the caller has the password
	"internal/browser":    {awsSDK},
	"internal/cli":        {awsSDK, ssh},
	"internal/service":    {awsSDK, ssh},
	"internal/sshconfig":  {awsSDK},
	"internal/statusview": {awsSDK},
	"internal/topview":    {awsSDK},
	"agent/metrics":       {awsSDK, "github.com/mmmorris1975/"},
	"internal/awssdk":     {ssh, "github.com/mmmorris1975/"},
	"internal/openssh":    {awsSDK},
	"agent/dashboard":     {awsSDK, "github.com/mmmorris1975/", "github.com/prometheus/"},
	"agent/dsn":           {awsSDK, "github.com/mmmorris1975/"},
	"agent/api":           {awsSDK, "github.com/mmmorris1975/"}, // what any client may link
	"tunnel":              {awsSDK, "github.com/mmmorris1975/"}, // SSH over any net.Conn
	"keys":                {awsSDK, "net/http"},
	"account":             {awsSDK, ssh},
	"server":              {awsSDK, "github.com/mmmorris1975/"}, // the image's credentials are for nothing but ECS Exec
	"cmd/bastiond":        {awsSDK, "github.com/mmmorris1975/"},
	"internal/fail":       {awsSDK},
	"internal/awsanswer":  {awsSDK},
	"sessions":            {ssh, "github.com/urfave/", "github.com/goccy/"},                          // a net.Conn, whoever speaks over it
	"sessions/bond":       {ssh, awsSDK, "github.com/mmmorris1975/", "github.com/gorilla/websocket"}, // any net.Conn
	"sessions/frame":      {ssh, awsSDK, "github.com/mmmorris1975/"},
	"sessions/reliable":   {ssh, awsSDK, "github.com/mmmorris1975/"}, // both ends of a data channel
	"sessions/transport":  {ssh, awsSDK, "github.com/mmmorris1975/"},
	"node": { // as small as bastiond must be: a signer, and the interface of a source of credentials
		ssh, "github.com/mmmorris1975/", "github.com/aws/aws-sdk-go-v2/config", "github.com/aws/aws-sdk-go-v2/credentials",
		"github.com/aws/aws-sdk-go-v2/feature", "github.com/aws/aws-sdk-go-v2/service",
	},
	"bastions": {ssh, "github.com/mmmorris1975/", "github.com/gorilla/websocket"},
	"targets":  {ssh, "github.com/mmmorris1975/", "github.com/gorilla/websocket"},
}

// pure are packages that do no I/O, start no goroutine and take no lock: they import none of what that needs.
var pure = []string{"account", "account/price", "agent/forwards", "sessions/reliable"}

// impure are the packages, by prefix, that a pure one does not import itself.
var impure = []string{"context", "io", "log", "net", "os", "os/exec", "sync"}

// harmless are those of impure that are values and functions.
var harmless = []string{"net/netip"}

// labOnly are packages of others, by prefix, that serve the lab and the tests and have no place in a product's binary.
var labOnly = []string{
	"testing", "github.com/alicebob/", "github.com/jackc/", "github.com/jeroenrinzema/", "github.com/miekg/dns",
	"github.com/redis/", "modernc.org/", "github.com/chromedp/", "github.com/rogpeppe/", "go.uber.org/goleak",
	"github.com/google/go-cmp", "github.com/dop251/goja",
}

// linked are packages of labOnly, by prefix, that a dependency of a product's package links, and so all that import it.
var linked = map[string][]string{
	"account": {"github.com/google/go-cmp"}, // hclwrite
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// name is the package's path within the module.
func (p pkg) name() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// linked are those of labOnly that the package links by one of the module's.
func (p pkg) linked() (prefixes []string) {
	for by, also := range linked {
		if p.name() == by || slices.Contains(p.Deps, module+"/"+by) {
			prefixes = append(prefixes, also...)
		}
	}
	return prefixes
}

func (p pkg) isProduct() bool {
	for _, prefix := range []string{"lab", "e2e", "cmd/bastion-lab"} {
		if p.name() == prefix || strings.HasPrefix(p.name(), prefix+"/") {
			return false
		}
	}
	return true
}

// list returns the module's packages as they are on an operating system.
func list(t *testing.T, goos string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Deps", module+"/...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	return pkgs
}

// lookAtSources makes a test's result depend on all source files, which only go list reads. Without it a cached result would count
// after a change.
func lookAtSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "build" || d.Name() == ".git") {
			return cmp.Or(err, fs.SkipDir)
		}
		if strings.HasSuffix(path, ".go") || d.Name() == "go.mod" {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImports(t *testing.T) {
	lookAtSources(t)
	for _, goos := range []string{"linux", "darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			for _, p := range list(t, goos) {
				for _, problem := range check(p) {
					t.Error(problem)
				}
			}
		})
	}
}

// check returns the faults of a package's imports.
func check(p pkg) []string {
	var problems []string
	may, isKnown := allowed[p.name()]
	if !isKnown {
		problems = append(problems, p.name()+" is a new package: give it a place in the table of this test")
	}
	for _, dep := range p.Imports {
		if own, ok := strings.CutPrefix(dep, module+"/"); ok && isKnown && !slices.Contains(may, own) && !slices.Contains(common, own) {
			problems = append(problems, p.name()+" must not import "+own)
		}
		if slices.Contains(pure, p.name()) && hasPrefix(dep, impure) && !slices.Contains(harmless, dep) {
			problems = append(problems, p.name()+" is pure and must not import "+dep)
		}
	}
	for _, dep := range p.Deps {
		if own := (pkg{ImportPath: dep}); strings.HasPrefix(dep, module) && p.isProduct() && !own.isProduct() {
			problems = append(problems, p.name()+" is product code and must not depend on "+own.name())
		}
		if hasPrefix(dep, forbidden[p.name()]) {
			problems = append(problems, p.name()+" must not depend on "+dep)
		}
		if p.isProduct() && strings.HasPrefix(dep, awsSDK) && strings.HasSuffix(dep, "/schemas") {
			problems = append(problems, p.name()+" must not depend on "+dep+": take an older release, see docs/adr/0019")
		}
		if p.isProduct() && hasPrefix(dep, labOnly) && !hasPrefix(dep, p.linked()) {
			problems = append(problems, p.name()+" is product code and must not depend on "+dep)
		}
	}
	return problems
}

func hasPrefix(path string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/") {
			return true
		}
	}
	return false
}

// TestCheck shows that each rule can fail.
func TestCheck(t *testing.T) {
	for want, p := range map[string]pkg{
		"tunnel must not import sessions":                       {ImportPath: module + "/tunnel", Imports: []string{module + "/sessions"}},
		"tunnel must not depend on github.com/aws/smithy-go":    {ImportPath: module + "/tunnel", Deps: []string{"github.com/aws/smithy-go"}},
		"sessions must not depend on golang.org/x/crypto/ssh":   {ImportPath: module + "/sessions", Deps: []string{ssh}},
		"agent is product code and must not depend on lab/vpc":  {ImportPath: module + "/agent", Deps: []string{module + "/lab/vpc"}},
		"agent/forwards is pure and must not import net/http":   {ImportPath: module + "/agent/forwards", Imports: []string{"fmt", "net/http"}},
		"server is product code and must not depend on testing": {ImportPath: module + "/server", Deps: []string{"testing"}},
		"agent must not depend on github.com/aws/x/schemas: take an older release, see docs/adr/0019": {
			ImportPath: module + "/agent", Deps: []string{"github.com/aws/x/schemas"},
		},
		"new is a new package: give it a place in the table of this test": {ImportPath: module + "/new"},
	} {
		if got := check(p); len(got) != 1 || got[0] != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, p := range []pkg{
		{ImportPath: module + "/lab", Imports: []string{module + "/lab/vpc"}, Deps: []string{"testing", "modernc.org/sqlite"}},
		{ImportPath: module + "/sessions", Deps: []string{"golang.org/x/crypto/sshx", "golang.org/x/crypto"}},
	} {
		if got := check(p); got != nil {
			t.Errorf("%s: %q", p.name(), got)
		}
	}
}
