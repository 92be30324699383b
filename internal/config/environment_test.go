package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
)

const withEnvironments = `region: eu-central-1
cluster: shared
targets:
  orders: rds:orders
  wiki: wiki.internal:443
environments:
  dev:
    profile: dev
    region: eu-west-1
  prod:
    profile: prod
    colour: "#ff0000"
    confirm: true
    task_size: large
    targets:
      orders: rds:orders-prod
      reports: {target: rds:reports, region: us-east-1}
  empty:
`

// The environment's values count before the file's, and its targets are beside the file's.
func TestEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "named.yaml")
	writeFile(t, path, withEnvironments)
	load := func(env string) Settings {
		t.Helper()
		s, err := Load(Source{File: path, LookupEnv: environ("BASTION_ENVIRONMENT=" + env)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	specs := func(s Settings) map[string]string {
		out := make(map[string]string)
		for name, target := range s.Targets {
			out[name] = target.Spec
		}
		return out
	}
	for _, c := range []struct {
		env, profile, region, size, colour string
		confirm                            bool
		targets                            map[string]string
	}{
		{"", "", "eu-central-1", "", "", false, map[string]string{"orders": "rds:orders", "wiki": "wiki.internal:443"}},
		{"dev", "dev", "eu-west-1", "", "", false, map[string]string{"orders": "rds:orders", "wiki": "wiki.internal:443"}},
		{"empty", "", "eu-central-1", "", "", false, map[string]string{"orders": "rds:orders", "wiki": "wiki.internal:443"}},
		{
			"prod", "prod", "eu-central-1", "large", "#ff0000", true,
			map[string]string{"orders": "rds:orders-prod", "reports": "rds:reports", "wiki": "wiki.internal:443"},
		},
	} {
		s := load(c.env)
		if s.Environment != c.env || s.AWS.Profile != c.profile || s.AWS.Region != c.region || s.Bastion.Size != c.size ||
			s.Colour != c.colour || s.Confirm != c.confirm || s.Bastion.Cluster != "shared" {
			t.Errorf("%q: %+v", c.env, s)
		}
		if diff := cmp.Diff(c.targets, specs(s)); diff != "" {
			t.Errorf("%q: %s", c.env, diff)
		}
		if diff := cmp.Diff([]string{"dev", "empty", "prod"}, s.Environments); diff != "" {
			t.Error(diff)
		}
		again, err := FromTexts(s.Texts()) // as the agent has it
		if err != nil || again.Environment != c.env || again.AWS != s.AWS {
			t.Errorf("%q through texts: %+v, %v", c.env, again, err)
		}
	}
	if s := load("prod"); !s.Targets["reports"].HasOwn() || s.Targets["reports"].Own("region") != "us-east-1" || s.Targets["orders"].HasOwn() {
		t.Errorf("%+v", s.Targets)
	}
}

// Of every set of sources that give a value, the first in the documented order wins. All sets are tried.
func TestPrecedenceOfASetting(t *testing.T) {
	order := []Origin{FromFlag, FromVariable, FromTarget, FromEnvironment, FromFile}
	path := filepath.Join(t.TempDir(), "f.yaml")
	for set := range 1 << len(order) {
		has := func(o Origin) bool { return set&(1<<slices.Index(order, o)) != 0 }
		text := "environments:\n  dev:\n"
		if has(FromEnvironment) {
			text += "    region: environment\n"
		}
		text += "targets:\n  orders:\n    target: rds:orders\n"
		if has(FromTarget) {
			text += "    region: target\n"
		}
		if has(FromFile) {
			text += "region: file\n"
		}
		writeFile(t, path, text)
		file, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		src := Source{File: path, Flags: map[string]string{"environment": "dev"}, LookupEnv: environ(), Target: file.Targets["orders"]}
		if has(FromFlag) {
			src.Flags["region"] = "flag"
		}
		if has(FromVariable) {
			src.LookupEnv = environ("BASTION_REGION=variable")
		}
		want, from := "", FromDefault
		if i := slices.IndexFunc(order, has); i >= 0 {
			want, from = string(order[i]), order[i]
		}
		s, explained, err := Explain(src)
		i := slices.IndexFunc(explained, func(e Explained) bool { return e.Key == "region" })
		if err != nil || s.AWS.Region != want || explained[i].Origin != from || explained[i].Value != want {
			t.Errorf("set %05b: %q by %+v, %v; want %q by %s", set, s.AWS.Region, explained[i], err, want, from)
		}
	}
}

// The same for what chooses the environment.
func TestPrecedenceOfTheEnvironment(t *testing.T) {
	order := []Origin{FromFlag, FromVariable, FromTarget, FromUse, FromFile}
	for set := range 1 << len(order) {
		has := func(o Origin) bool { return set&(1<<slices.Index(order, o)) != 0 }
		path, state := filepath.Join(t.TempDir(), "f.yaml"), filepath.Join(t.TempDir(), "state")
		text := "environments: {flag: , variable: , target: , use: , file: }\ntargets:\n  orders:\n    target: rds:orders\n"
		if has(FromTarget) {
			text += "    environment: target\n"
		}
		if has(FromFile) {
			text += "environment: file\n"
		}
		writeFile(t, path, text)
		file, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		variables := []string{"BASTION_STATE_DIR=" + state}
		if has(FromVariable) {
			variables = append(variables, "BASTION_ENVIRONMENT=variable")
		}
		src := Source{File: path, Flags: map[string]string{}, LookupEnv: environ(variables...), Target: file.Targets["orders"]}
		if has(FromUse) {
			if err := src.Choose(t.Context(), "use", time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if has(FromFlag) {
			src.Flags["environment"] = "flag"
		}
		want := ""
		if i := slices.IndexFunc(order, has); i >= 0 {
			want = string(order[i])
		}
		if s, err := Load(src); err != nil || s.Environment != want {
			t.Errorf("set %05b: %q, %v; want %q", set, s.Environment, err, want)
		}
		src.NoEnvironment = true
		if s, err := Load(src); err != nil || s.Environment != "" {
			t.Errorf("set %05b without environments: %q, %v", set, s.Environment, err)
		}
	}
}

// A choice belongs to one file. One that the file does not have any more is an error, and --none ends it, also against the file.
func TestUse(t *testing.T) {
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	one, two := filepath.Join(dir, "one.yaml"), filepath.Join(dir, "two.yaml")
	writeFile(t, one, "environments: {dev: , prod: }\nenvironment: dev\n")
	writeFile(t, two, "environments: {dev: , prod: }\n")
	src := func(file string) Source { return Source{File: file, LookupEnv: environ("BASTION_STATE_DIR=" + state)} }
	in := func(file, want string) {
		t.Helper()
		if s, err := Load(src(file)); err != nil || s.Environment != want {
			t.Errorf("%s: %q, %v; want %q", filepath.Base(file), s.Environment, err, want)
		}
	}
	use := func(file, name string) error { return src(file).Choose(t.Context(), name, time.Now()) }
	in(one, "dev")
	in(two, "")
	for _, err := range []error{use(one, "prod"), use(two, "dev")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	in(one, "prod")
	in(two, "dev")
	for _, err := range []error{use(one, ""), use(two, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	in(one, "")
	in(two, "")
	all, err := src(one).Store().used()
	if err != nil || len(all) != 1 || all[0].Environment != "" { // two.yaml says nothing that a record must outdo
		t.Errorf("%+v, %v", all, err)
	}

	if err := use(two, "prdo"); fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), "did you mean prod?") {
		t.Errorf("%v (next: %s)", err, fail.NextOf(err))
	}
	if err := use(two, "prod"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, two, "environments: {dev: }\n")
	if _, err := Load(src(two)); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), `bastion use: unknown environment "prod"`) ||
		!strings.Contains(fail.NextOf(err), "bastion use --none") {
		t.Errorf("%v (next: %s)", err, fail.NextOf(err))
	}
	if c, err := src(two).Choices(); err != nil || !c.Unknown || c.Environment != "prod" || len(c.Environments) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := use(two, ""); err != nil {
		t.Fatal(err)
	}
	in(two, "")
	if err := (Source{LookupEnv: environ("BASTION_STATE_DIR=" + state), Dir: t.TempDir(), NoProject: true, NoFile: true}).
		Choose(t.Context(), "dev", time.Now()); fail.KindOf(err) != fail.Usage {
		t.Errorf("without a file: %v", err)
	}
}

// An unknown environment is an error that names its source and the known ones.
func TestUnknownEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	for text, want := range map[string]string{
		"environments: {dev: , prod: }\n": "has dev, prod",
		"region: eu-central-1\n":          "has none",
	} {
		writeFile(t, path, text)
		for by, src := range map[string]Source{
			"--environment":       {Flags: map[string]string{"environment": "stage"}, LookupEnv: environ()},
			"BASTION_ENVIRONMENT": {LookupEnv: environ("BASTION_ENVIRONMENT=stage")},
		} {
			src.File = path
			_, err := Load(src)
			if fail.KindOf(err) != fail.Usage || !strings.HasPrefix(err.Error(), by+`: unknown environment "stage"`) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		}
	}
	// A script's empty variable does not choose the default.
	_, err := Load(Source{File: path, Flags: map[string]string{"environment": ""}, LookupEnv: environ()})
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "the name of the environment is empty") {
		t.Errorf("an empty name: %v", err)
	}
	_, err = Load(Source{Flags: map[string]string{"environment": "dev"}, LookupEnv: environ(), Dir: t.TempDir(), NoProject: true})
	if fail.KindOf(err) != fail.Usage {
		t.Errorf("without a file: %v", err)
	}
}

// An untrusted project file gives in an environment, and for a target, only what it may give itself. What does not count is not
// refused.
func TestEnvironmentTakesTrust(t *testing.T) {
	for _, s := range All() {
		if s.Trust == Project || slices.Contains(outside, s.Key) {
			continue
		}
		dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
		path := filepath.Join(dir, FileName)
		text := "environments:\n  dev: {region: eu-west-1}\n  prod:\n    " + s.Key + ": " + sample(s) + "\n"
		writeFile(t, path, text)
		variables := []string{"BASTION_STATE_DIR=" + state, "BASTION_SSH_HOST_KEY=ssh-ed25519 AAAA", "BASTION_METRICS_TOKEN_FILE=/t"}
		variables = slices.DeleteFunc(variables, func(kv string) bool { return strings.HasPrefix(kv, s.Env()+"=") })
		load := func(env string, more ...string) error {
			_, err := Load(Source{Dir: dir, LookupEnv: environ(append(more, variables...)...), Flags: map[string]string{"environment": env}})
			return err
		}
		if err := load("dev"); err != nil {
			t.Errorf("%s in another environment: %v", s.Key, err)
		}
		err := load("prod")
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "environments.prod."+s.Key) || !strings.Contains(err.Error(), ":4:") ||
			!strings.Contains(fail.NextOf(err), "bastion trust ") {
			t.Errorf("%s: %v", s.Key, err)
		}
		if err := load("prod", s.Env()+"="+sample(s)); err != nil {
			t.Errorf("%s by a variable: %v", s.Key, err)
		}
		found, err := OpenProject(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := (Source{LookupEnv: environ(variables...)}).Store().Add(t.Context(), found, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := load("prod"); err != nil {
			t.Errorf("%s, trusted: %v", s.Key, err)
		}
	}

	dir := t.TempDir()
	const text = "targets:\n  orders: {target: rds:orders, profile: theirs}\n  other: {target: rds:x, region: eu-west-1}\n"
	writeFile(t, filepath.Join(dir, FileName), text)
	file, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, refused := range map[string]bool{"": false, "other": false, "orders": true} {
		_, err := Load(Source{Dir: dir, LookupEnv: environ("BASTION_STATE_DIR=" + filepath.Join(dir, "s")), Target: file.Targets[name]})
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), "targets.orders.profile") {
			t.Errorf("target %q: %v", name, err)
		}
	}
}

// What trust shows has the settings of all environments and targets.
func TestGivenInEnvironments(t *testing.T) {
	f, err := Parse("f", []byte("environments:\n  prod:\n    profile: p\n    targets:\n      a: {target: rds:a, profile: q}\ntargets:\n  b: {target: rds:b, region: eu-west-1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, g := range f.Given() {
		got[g.Key()+"="+g.Text] = g.NeedsTrust()
	}
	want := map[string]bool{"environments.prod.profile=p": true, "environments.prod.targets.a.profile=q": true, "targets.b.region=eu-west-1": false}
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// Every wrong place of a file is told, in their order, and each names its place.
func TestAllErrors(t *testing.T) {
	for text, want := range map[string][]string{
		`regoin: x
cluster: [a]
environments:
  a b: {region: eu-west-1}
  "1": {}
  dev:
    regoin: eu-west-1
    colour: pink
    confirm: maybe
    environment: prod
    state_dir: /x
    environments: {}
    sessions: 99
    targets:
      rds: x:1
      orders: {target: rds:orders, profil: x, environment: a.b, region: Evil/}
      none:
  prod: word
targets:
  wiki: {local_port: 99999, target: wiki:443}
`: {
			`f:1:1: unknown key "regoin"; did you mean "region"?`,
			"f:2:10: cluster: expected one value",
			`f:4:3: environments: "a b" cannot be a name`,
			`f:5:3: environments: "1" cannot be a name`,
			`f:7:5: unknown key "regoin"; did you mean "region"?`,
			`f:8:13: environments: dev: colour: "pink" is not a colour`,
			`f:9:14: environments: dev: confirm: "maybe" is neither true nor false`,
			"f:10:5: environments: dev: environment belongs to the file itself",
			"f:11:5: environments: dev: state_dir belongs to the file itself",
			"f:12:5: environments: dev: an environment cannot contain others",
			"f:13:15: sessions: 99 is not between 1 and 16",
			`f:15:7: targets: "rds" cannot be a name`,
			`f:16:36: unknown key "profil"; did you mean "profile"?`,
			`f:16:60: targets: orders: environment: "a.b" cannot be a name`,
			`f:16:73: targets: orders: region: "Evil/" is not the name of a region`,
			"f:17:7: targets: none has no value",
			"f:18:9: environments: prod must be a mapping",
			"f:20:22: targets: wiki: local_port: 99999 is not between",
		},
		"environments: [dev]\n":                     {"f:1:15: environments must be a mapping"},
		"environments:\n  dev: {color: red}\n":      {`f:2:9: unknown key "color"; did you mean "colour"?`},
		"environments:\n  dev: {colour: }\n":        {"f:2:9: environments: dev: colour: expected one value"},
		"environments:\n  dev: {colour: [red]}\n":   {"f:2:9: environments: dev: colour: expected one value"},
		"environments:\n  dev: &a {region: x}\n":    {"f:2:8: environments: dev must be a mapping"},
		"environment: a/b\n":                        {`f:1:14: environment: "a/b" cannot be a name`},
		"region: a\nregion: b\n":                    {`f:2:1: `},
		"region: [\n":                               {"f:1:"},
		"environments: {}\nenvironments: {}\n":      {"f:2:1: "},
		"environments:\n  dev: {targets: word}\n":   {"f:2:18: targets must be a mapping"},
		"environments:\n  dev: {region: Bad/x}\n":   {`f:2:17: region: "Bad/x" is not the name of a region`},
		"environments:\n  dev: {confirm: [true]}\n": {"f:2:9: environments: dev: confirm: expected one value"},
	} {
		_, errs := parseAll("f", []byte(text))
		var got []string
		for _, err := range errs {
			got = append(got, err.Error())
		}
		if len(got) != len(want) {
			t.Errorf("%s\nhas %d errors, want %d:\n%s", text, len(got), len(want), strings.Join(got, "\n"))
			continue
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("error %d: %q, want %q", i, got[i], want[i])
			}
		}
		if _, err := Parse("f", []byte(text)); err == nil || err.Error() != got[0] {
			t.Errorf("Parse says %v, not %s", err, got[0])
		}
	}
}

// A colour that the file may name is one that a terminal shows.
func TestColours(t *testing.T) {
	for text, ok := range map[string]bool{
		"red": true, "cyan": true, "#0a1B2c": true,
		"": false, "Red": false, "#fff": false, "#ggffff": false, "0a1b2c": false, "#0a1b2c3": false, "\x1b[31m": false,
	} {
		if err := colour(text); (err == nil) != ok || (console.Colour(text) != "") != ok {
			t.Errorf("%q: %v, on a terminal %q", text, err, console.Colour(text))
		}
	}
	for _, name := range colours {
		if _, err := Parse("f", fmt.Appendf(nil, "environments: {dev: {colour: %s}}", name)); err != nil || console.Colour(name) == "" {
			t.Errorf("%v, on a terminal %q", err, console.Colour(name))
		}
	}
}
