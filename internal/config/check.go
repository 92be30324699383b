package config

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Problem is an error of a configuration file.
type Problem struct {
	Where   string `json:"where"` // file:line:column, or the environment
	Message string `json:"message"`
}

// Check returns all problems of the configuration file in force, and its path. target checks what a target looks like, which is for
// another package to say. Check needs no trust in the file, and no environment in force.
func (src Source) Check(target func(Target) error) (path string, problems []Problem, err error) {
	o, err := src.open(src.env())
	if err != nil || o.path == "" {
		return "", nil, err
	}
	file, errs := parseAll(display(o.path), o.data)
	for _, e := range errs {
		problems = append(problems, Problem{e.Where(), e.Msg})
	}
	all := []map[string]Target{file.Targets}
	for _, name := range file.Names() {
		all = append(all, file.Environments[name].Targets)
	}
	for _, targets := range all {
		for _, name := range slices.Sorted(maps.Keys(targets)) {
			t := targets[name]
			if err := target(t); err != nil {
				problems = append(problems, Problem{t.Where, err.Error()})
			}
			own := t.own[environmentKey]
			if own.text != "" && file.Environments[own.text] == nil {
				problems = append(problems, Problem{own.where, "targets: " + name + ": unknown environment " + own.text})
			}
		}
	}
	if v := file.values[environmentKey]; v.text != "" && file.Environments[v.text] == nil {
		problems = append(problems, Problem{v.where, "unknown environment " + v.text})
	}
	if len(errs) > 0 { // what they leave out may be what another setting needs
		sortByPlace(problems)
		return o.path, problems, nil
	}
	for _, name := range append([]string{""}, file.Names()...) {
		if err := file.relations(name); err != nil {
			where := display(o.path)
			if name != "" {
				where = file.Environments[name].Where
			}
			problems = append(problems, Problem{where, err.Error()})
			if name == "" {
				break // the environments have the same
			}
		}
	}
	sortByPlace(problems)
	return o.path, problems, nil
}

// sortByPlace sorts problems by line and column; those without come first.
func sortByPlace(problems []Problem) {
	place := func(p Problem) (line, column int) {
		parts := strings.Split(p.Where, ":")
		if n := len(parts); n >= 3 {
			line, _ = strconv.Atoi(parts[n-2])
			column, _ = strconv.Atoi(parts[n-1])
		}
		return line, column
	}
	slices.SortStableFunc(problems, func(x, y Problem) int {
		xLine, xColumn := place(x)
		yLine, yColumn := place(y)
		return cmp.Or(cmp.Compare(xLine, yLine), cmp.Compare(xColumn, yColumn))
	})
}

// relations checks relations between the settings that the file gives in an environment; "": in none.
func (f *File) relations(environment string) error {
	texts := make(map[string]string)
	for key, v := range f.values {
		texts[key] = v.text
	}
	if env := f.Environments[environment]; env != nil {
		for key, v := range env.values {
			texts[key] = v.text
		}
	}
	delete(texts, environmentKey)
	_, err := FromTexts(texts)
	return err
}
