package doctor

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// planted stands in each text that a gatherer could have from somebody else.
const planted = "planted"

// plant fills all texts, lists, maps and pointers of a value, and its errors if they are wanted: with err, which is called for each.
func plant(v reflect.Value, depth int, err func() error) {
	if depth > 12 || !v.CanSet() {
		return
	}
	switch v.Kind() { //nolint:exhaustive // other kinds have no texts
	case reflect.String:
		v.SetString(planted)
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		plant(v.Elem(), depth+1, err)
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		for i := range v.Len() {
			plant(v.Index(i), depth+1, err)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		plant(key, depth+1, err)
		plant(value, depth+1, err)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				plant(v.Field(i), depth+1, err)
			}
		}
	case reflect.Interface:
		if v.Type() == reflect.TypeFor[error]() {
			if e := err(); e != nil {
				v.Set(reflect.ValueOf(e))
			}
		}
	}
}

// alone are the checks without those that they need, so that each judges the facts.
func alone() []Part {
	out := Checks()
	for i := range out {
		for n := range out[i].Checks {
			out[i].Checks[n].Needs = nil
		}
	}
	return out
}

// Whatever the gatherers find, none of its words is in a shared report: with all facts planted, with each of the errors alone, and with
// all.
func TestShareHasNothingOfTheFacts(t *testing.T) {
	denial := answer{planted + "Exception", "User: " + planted + " is not authorized to perform: " + planted + ":X on resource: " + planted +
		" with an explicit deny in a service control policy " + planted}
	kinds := map[string]error{
		"none": nil, "plain": errors.New(planted), "denial": fail.AWS(fail.Other, planted, planted+":X", denial),
		"hint": fail.New(fail.Usage, planted, errors.New(planted), planted), "proxy": &proxyRefusal{407},
	}
	count := 0
	for name, kind := range kinds {
		for only := -1; ; only++ { // -1: all errors
			f, at := healthy(t), 0
			f.SettingsErr = nil
			plant(reflect.ValueOf(f).Elem(), 0, func() error {
				at++
				if only >= 0 && at-1 != only {
					return nil
				}
				return kind
			})
			r := Report{
				Version: planted, System: "linux/amd64", Target: planted, Env: planted, Findings: judge(f, alone()), facts: f,
				Measured: &access.Measured{Version: "1.2.3-" + planted, Document: planted},
			}
			for _, e := range f.Reaches {
				r.Endpoints = append(r.Endpoints, e.show())
			}
			if text := r.Share(); strings.Contains(text, planted) {
				t.Fatalf("errors %s, %d: %s", name, only, text)
			}
			said := 0
			for _, finding := range r.Findings {
				if strings.Contains(finding.Means, planted) {
					said++
				}
			}
			if said == 0 {
				t.Fatalf("errors %s, %d: no finding has a planted word", name, only)
			}
			if count++; kind == nil || only >= 0 && at <= only+1 {
				break
			}
		}
	}
	if count < 100 {
		t.Errorf("%d sets of facts", count)
	}
}

// A shared report names the settings that differ from their defaults, and no others.
func TestShareNamesSettings(t *testing.T) {
	f := healthy(t)
	f.Settings.Link.Sessions = 7
	r := Report{Findings: judge(f, Checks()), facts: f}
	if text := r.Share(); !strings.Contains(text, "settings that are set: sessions, tls_ca\n") {
		t.Error(text)
	}
}

// The identifiers have room in their column.
func TestIdentifiersFit(t *testing.T) {
	for _, p := range Checks() {
		for _, c := range p.Checks {
			if len(c.ID) > idWidth {
				t.Errorf("%s has %d characters", c.ID, len(c.ID))
			}
		}
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]bool{
		"1.2.3": true, "v1.2.3": true, "v1.2.3-4-g0123abcd": true, "v1.2.3-4-g0123abcd-dirty": true, "v1.2.3-rc.1": true, "dev": true,
		"v0.0.0-20261201044048-d714151f2a3b": true, "v1.4.1-0.20261201044048-d714151f2a3b+dirty": true, "(devel)": true,
		"1.2.3-acme": false, "v1.2.3-rc1-acme": false, "acme": false, "1.2.3.4": false, "1.2.123456789012": false, "": false,
	} {
		if got := version(text) == text; got != want {
			t.Errorf("%q is told: %t", text, got)
		}
	}
}

// The commands of hints name the environment that was examined.
func TestInEnvironment(t *testing.T) {
	for hint, want := range map[string]string{
		"bastion down, then bastion up":           "bastion down -e prod, then bastion up -e prod",
		"bastion upgrade; bastion agent stop":     "bastion upgrade -e prod; bastion agent stop",
		"bastion doctor --fix, or write it again": "bastion doctor --fix -e prod, or write it again",
		"bastion up --task-size large":            "bastion up -e prod --task-size large",
		"sign in (bastion login, aws configure)":  "sign in (bastion login -e prod, aws configure)",
		"bastion login --profile dev":             "bastion login --profile dev",
	} {
		if got := inEnvironment(hint, "prod"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got := inEnvironment(hint, ""); got != hint {
			t.Errorf("without one: %q", got)
		}
	}
	f := healthy(t)
	f.Settings.Environment, f.Running.All[0].ExecEnabled = "prod", false
	if got := fmt.Sprint(judge(f, Checks())); !strings.Contains(got, "bastion down -e prod, then bastion up -e prod") {
		t.Error(got)
	}
}
