//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/ready"
)

const actionDir = "../../.github/actions/bastion"

// action is a composite action's file, with the members that GitHub documents.
type action struct {
	Name        string                  `yaml:"name"`
	Author      string                  `yaml:"author"`
	Description string                  `yaml:"description"`
	Inputs      map[string]actionInput  `yaml:"inputs"`
	Outputs     map[string]actionOutput `yaml:"outputs"`
	Runs        struct {
		Using string       `yaml:"using"`
		Steps []actionStep `yaml:"steps"`
	} `yaml:"runs"`
	Branding struct {
		Icon  string `yaml:"icon"`
		Color string `yaml:"color"`
	} `yaml:"branding"`
}

type actionInput struct {
	Description string  `yaml:"description"`
	Required    bool    `yaml:"required"`
	Default     *string `yaml:"default"`
	Deprecation string  `yaml:"deprecationMessage"`
}

type actionOutput struct {
	Description string `yaml:"description"`
	Value       string `yaml:"value"`
}

type actionStep struct {
	ID              string            `yaml:"id"`
	Name            string            `yaml:"name"`
	If              string            `yaml:"if"`
	Uses            string            `yaml:"uses"`
	With            map[string]string `yaml:"with"`
	Run             string            `yaml:"run"`
	Shell           string            `yaml:"shell"`
	Env             map[string]string `yaml:"env"`
	WorkingDir      string            `yaml:"working-directory"`
	ContinueOnError bool              `yaml:"continue-on-error"`
}

func readAction(t *testing.T) action {
	t.Helper()
	var a action
	if err := yaml.UnmarshalWithOptions(mustRead(t, filepath.Join(actionDir, "action.yml")), &a, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return a
}

var expression = regexp.MustCompile(`\$\{\{ ([^}]*) \}\}`)

// The action's file has what GitHub documents, and its parts fit: inputs, step ids and outputs that are named exist, and every input is
// used. No input is in a script's text, where it could be a command.
func TestActionFile(t *testing.T) {
	a := readAction(t)
	text := string(mustRead(t, filepath.Join(actionDir, "action.yml")))
	if a.Name == "" || a.Description == "" || a.Runs.Using != "composite" || len(a.Runs.Steps) == 0 {
		t.Errorf("%+v", a)
	}
	if !slices.Contains([]string{"white", "black", "yellow", "blue", "green", "orange", "red", "purple", "gray-dark"}, a.Branding.Color) {
		t.Errorf("branding: %+v", a.Branding)
	}
	for name, in := range a.Inputs {
		if in.Description == "" || in.Default == nil || !regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(name) {
			t.Errorf("input %s: %+v", name, in)
		}
		if !strings.Contains(text, "inputs."+name) {
			t.Errorf("the input %s is not used", name)
		}
	}
	wrote := make(map[string]bool) // outputs of steps
	for i, s := range a.Runs.Steps {
		isPinned := regexp.MustCompile(`^[\w-]+/[\w-]+@v\d+$`).MatchString(s.Uses)
		if (s.Run == "") == (s.Uses == "") || s.Run != "" && s.Shell == "" || s.Uses != "" && !isPinned {
			t.Errorf("step %d: %+v", i, s)
		}
		if expression.MatchString(s.Run) {
			t.Errorf("the script of step %d has an expression, which could be a command", i)
		}
		for _, m := range regexp.MustCompile(`(?:'|\\n)([a-z]+)=%s`).FindAllStringSubmatch(s.Run, -1) {
			wrote["steps."+s.ID+".outputs."+m[1]] = true
		}
	}
	for _, m := range expression.FindAllStringSubmatch(text, -1) {
		what := strings.Fields(m[1])[0]
		input, isInput := strings.CutPrefix(what, "inputs.")
		switch {
		case isInput:
			if _, ok := a.Inputs[input]; !ok {
				t.Errorf("%s is not an input", input)
			}
		case slices.Contains([]string{"runner.temp", "runner.os", "runner.arch"}, what), wrote[what]:
		default:
			t.Errorf("%s is nothing that there is", m[0])
		}
	}
}

// job runs an action's steps as GitHub's runner does.
type job struct {
	t      *testing.T
	env    []string
	dir    string
	inputs map[string]string
	values map[string]string // of expressions
}

// eval replaces the expressions of a text.
func (j *job) eval(text string) string {
	return expression.ReplaceAllStringFunc(text, func(e string) string {
		what := expression.FindStringSubmatch(e)[1]
		if input, ok := strings.CutPrefix(what, "inputs."); ok {
			return j.inputs[input]
		}
		return j.values[what]
	})
}

// wants evaluates a step's condition.
func (j *job) wants(condition string) bool {
	m := regexp.MustCompile(`^\$\{\{ inputs\.([a-z-]+) (==|!=) '' \}\}$`).FindStringSubmatch(condition)
	if condition != "" && m == nil {
		j.t.Fatalf("the condition %q is not one that this test knows", condition)
	}
	return condition == "" || (j.inputs[m[1]] == "") == (m[2] == "==")
}

// script returns one script with all steps of the action, each a bash of its own, below the script's shell: the worker. It ends when its
// input does.
func (j *job) script(a action) string {
	var b strings.Builder
	for i, s := range a.Runs.Steps {
		if !j.wants(s.If) || s.Uses != "" {
			continue
		}
		file := filepath.Join(j.dir, fmt.Sprintf("step%d", i))
		if err := os.WriteFile(file, []byte(s.Run), 0o600); err != nil {
			j.t.Fatal(err)
		}
		b.WriteString("env")
		for name, value := range s.Env {
			// The outputs of earlier steps are known only when it runs.
			value = regexp.MustCompile(`\$\{\{ steps\.([a-z]+)\.outputs\.([a-z]+) \}\}`).
				ReplaceAllString(value, `'"$$(sed -n 's/^$2=//p' `+j.dir+`/out.$1 2>/dev/null)"'`)
			fmt.Fprintf(&b, " %s='%s'", name, j.eval(value))
		}
		fmt.Fprintf(&b, " GITHUB_OUTPUT=%s/out.%s bash --noprofile --norc -eo pipefail %s || exit\n", j.dir, s.ID, file)
	}
	b.WriteString("echo done; cat >/dev/null\n")
	return b.String()
}

// start runs the action. The job goes on until end is called.
func (j *job) start() (worker *rig.Proc, end func()) {
	j.t.Helper()
	cmd := exec.Command("bash", "-c", j.script(readAction(j.t)))
	in, err := cmd.StdinPipe()
	if err != nil {
		j.t.Fatal(err)
	}
	env := append(slices.Clone(j.env), "GITHUB_PATH="+j.dir+"/path", "GITHUB_ACTION_PATH="+j.dir+"/repo/.github/actions/bastion")
	worker, err = rig.StartCmd(env, cmd)
	if err != nil {
		j.t.Fatal(err)
	}
	j.t.Cleanup(func() { _, _ = worker.Stop(syscall.SIGKILL) })
	return worker, func() { _ = in.Close() }
}

// output returns an output of a step.
func (j *job) output(step, name string) string {
	j.t.Helper()
	for line := range strings.Lines(string(mustRead(j.t, filepath.Join(j.dir, "out."+step)))) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return value
		}
	}
	return ""
}

// The action's steps open forwards that live as long as the job, and say where they listen.
func TestActionSteps(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	j := &job{
		t: t, env: e.env, dir: t.TempDir(), values: map[string]string{},
		inputs: map[string]string{"program": e.program, "targets": "rds:orders :\n  cache   :\n", "options": "--sessions 2"},
	}
	j.values["runner.temp"] = j.dir
	worker, end := j.start()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := worker.WaitOutput(ctx, "done"); err != nil {
		t.Fatalf("%v\n%s", err, worker.Output())
	}
	var m ready.Message
	if err := json.Unmarshal([]byte(j.output("forward", "ready")), &m); err != nil || len(m.Forwards) != 2 || m.Forwards[0].Name != "orders" {
		t.Fatalf("%v: %+v\n%s", err, m, worker.Output())
	}
	if err := ping(m.Forwards[1].Listen); err != nil {
		t.Error(err)
	}
	if j.output("install", "program") != e.program || string(mustRead(t, filepath.Join(j.dir, "path"))) != filepath.Dir(e.program)+"\n" {
		t.Errorf("the program is %s", j.output("install", "program"))
	}
	end()
	eventually(t, "the forwards end with the job", func() bool { return ping(m.Forwards[1].Listen) != nil })
	eventually(t, "the forward's sessions end", func() bool { return len(e.Gateway().Sessions()) == 0 })
}

// A forward that fails ends the step, which shows why.
func TestActionFails(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	j := &job{
		t: t, env: e.env, dir: t.TempDir(), values: map[string]string{},
		inputs: map[string]string{"program": e.program, "targets": "rds:none"},
	}
	j.values["runner.temp"] = j.dir
	worker, _ := j.start()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if code, err := worker.Wait(ctx); err != nil || code != 1 || !strings.Contains(worker.Output(), "rds:none") {
		t.Errorf("exit code %d, %v\n%s", code, err, worker.Output())
	}
}

// Without a program the action builds its own, once: the next job finds it in the cache. Other sources, and
// other files that the program embeds, have another key.
func TestActionBuilds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("repo/go.mod", "module x\n", 0o600)
	write("repo/.github/actions/bastion/action.yml", "", 0o600)
	write("bin/go", `#!/bin/sh
echo "$PWD" "$CGO_ENABLED" "$@" >>"$BUILDS"
[ "$3" = -o ] && printf '#!/bin/sh\necho built\n' >"$4" && chmod 755 "$4"
`, 0o700)
	keys := make(map[string]bool)
	for _, change := range []string{"", "", "a.go", "assets/a.html"} {
		if change != "" {
			write("repo/"+change, "changed\n", 0o600)
		}
		for _, step := range []string{"source", "install"} {
			_ = os.Remove(filepath.Join(dir, "out."+step))
		}
		j := &job{
			t: t, dir: dir, inputs: map[string]string{}, values: map[string]string{"runner.temp": dir},
			env: []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "BUILDS=" + dir + "/builds"},
		}
		worker, end := j.start()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := worker.WaitOutput(ctx, "done"); err != nil || !strings.Contains(worker.Output(), "built") {
			t.Fatalf("%v\n%s", err, worker.Output())
		}
		end()
		if _, err := worker.Wait(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		keys[j.output("source", "key")] = true
	}
	want := dir + "/repo 0 build -trimpath -o " + dir + "/bastion-program/bastion ./cmd/bastion\n"
	if builds := string(mustRead(t, filepath.Join(dir, "builds"))); builds != want {
		t.Errorf("builds: %s", builds)
	}
	if len(keys) != 3 || keys[""] {
		t.Errorf("keys: %v", keys)
	}
}

// recipe returns the code of docs/ci.md behind a comment.
func recipe(t *testing.T, name string) string {
	t.Helper()
	m := regexp.MustCompile("(?s)<!-- recipe: " + name + " -->\n```[a-z]*\n(.*?)```").FindSubmatch(mustRead(t, "../../docs/ci.md"))
	if m == nil {
		t.Fatalf("docs/ci.md has no recipe %s", name)
	}
	return string(m[1])
}

// The shell recipes of docs/ci.md find the port of a forward, which ends with its script.
func TestShellRecipes(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	rig.Need(t, "jq")
	for _, name := range []string{"pipe", "file"} {
		temp := t.TempDir()
		env := append(slices.Clone(e.env), "TMPDIR="+temp, "PATH="+filepath.Dir(e.program)+":"+os.Getenv("PATH"))
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(recipe(t, name), "rds:orders", "cache")+`echo "port $port"; cat >/dev/null`)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p, err := rig.StartCmd(env, cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
		port := ""
		eventually(t, name+": the script prints the port", func() bool {
			for _, line := range p.Stdout() {
				if strings.HasPrefix(line, "port ") {
					port = strings.TrimPrefix(line, "port ")
				}
			}
			return port != ""
		})
		addr := "127.0.0.1:" + port
		if err := ping(addr); err != nil {
			t.Errorf("%s: %v\n%s", name, err, p.Output())
		}
		_ = in.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		if code, err := p.Wait(ctx); err != nil || code != 0 {
			t.Errorf("%s: exit code %d, %v\n%s", name, code, err, p.Output())
		}
		cancel()
		eventually(t, name+": the forward ends with the script", func() bool { return ping(addr) != nil })

		failing := exec.Command("sh", "-c", strings.ReplaceAll(recipe(t, name), "rds:orders", "rds:none")+`echo "port $port"`)
		failing.Env = append(rig.Environ(), append(env, "TMPDIR="+t.TempDir())...)
		if out, err := failing.CombinedOutput(); err == nil || strings.Contains(string(out), "port ") {
			t.Errorf("%s: a forward that fails: %v, %s", name, err, out)
		}
	}
	eventually(t, "the sessions end", func() bool { return len(e.Gateway().Sessions()) == 0 })
}

// Terraform's PostgreSQL provider reads PGHOST and PGPORT. A client that reads nothing else reaches the database in one run.
func TestTerraformRecipe(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	psql := rig.Need(t, "psql")
	line := strings.Fields(recipe(t, "terraform"))
	i := slices.Index(line, "--")
	if i < 0 || line[0] != "bastion" || strings.Join(line[i+1:], " ") != "terraform apply" {
		t.Fatalf("the recipe is %q", line)
	}
	client := `unset PGHOSTADDR PGSERVICE; exec env -i PGHOST="$PGHOST" PGPORT="$PGPORT" PGPASSWORD=lab ` + psql +
		` -X -At -U app -d orders -c 'select count(*) from orders'`
	args := append(slices.Clone(line[1:i]), "--", "sh", "-c", client)
	if r := e.run(nil, args...); r.code != 0 || strings.TrimSpace(r.stdout) == "" || strings.TrimSpace(r.stdout) == "0" {
		t.Errorf("exit code %d, %q\n%s", r.code, r.stdout, r.stderr)
	}
}

// The other recipes of docs/ci.md are YAML, and the action that they use is where they say, with its inputs.
func TestCIRecipes(t *testing.T) {
	t.Parallel()
	var workflow struct {
		Permissions map[string]string `yaml:"permissions"`
		Jobs        map[string]struct {
			RunsOn      string       `yaml:"runs-on"`
			Environment string       `yaml:"environment"`
			Steps       []actionStep `yaml:"steps"`
		} `yaml:"jobs"`
	}
	if err := yaml.UnmarshalWithOptions([]byte(recipe(t, "github")), &workflow, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	a := readAction(t)
	used := false
	for _, s := range workflow.Jobs["migrate"].Steps {
		path, ok := strings.CutPrefix(s.Uses, "bastion-ssm/bastion/")
		if !ok {
			continue
		}
		used = true
		path, _, _ = strings.Cut(path, "@")
		if _, err := os.Stat("../../" + path + "/action.yml"); err != nil {
			t.Error(err)
		}
		for name := range s.With {
			if _, ok := a.Inputs[name]; !ok {
				t.Errorf("%s is not an input of the action", name)
			}
		}
	}
	if !used || workflow.Permissions["id-token"] != "write" {
		t.Errorf("%+v", workflow)
	}
	var pipeline map[string]map[string]any
	if err := yaml.Unmarshal([]byte(recipe(t, "gitlab")), &pipeline); err != nil {
		t.Fatal(err)
	}
	if _, ok := pipeline["migrate"]["id_tokens"]; !ok {
		t.Errorf("%+v", pipeline)
	}
	for _, name := range []string{"gitlab", "jenkins"} {
		for _, variable := range []string{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "BASTION_NO_AGENT"} {
			if !strings.Contains(recipe(t, name), variable) {
				t.Errorf("%s lacks %s", name, variable)
			}
		}
	}
}
