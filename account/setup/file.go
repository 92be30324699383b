package setup

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/goccy/go-yaml"
)

// Settings are what a bastion.yaml needs to know of an account that was set up. Fields that are equal to a setting's default are left
// out of it.
type Settings struct {
	Account        string
	Region         string
	Cluster        string
	TaskDefinition string
	SharedService  string // empty: each person starts a task of their own
	Subnets        []string
	SecurityGroup  string
	PublicAddress  bool
	Targets        map[string]string // a target, such as "rds:orders", by name
}

// theDefault is the default of the settings cluster and task_definition.
const theDefault = "bastion"

// File returns the configuration file, for the team's repository.
func (s Settings) File() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# How to reach private databases in the AWS account %s. `bastion init` wrote it; put it into your repository.\n", s.Account)
	content := yaml.MapSlice{{Key: "region", Value: s.Region}}
	add := func(key string, value any) { content = append(content, yaml.MapItem{Key: key, Value: value}) }
	if s.Cluster != theDefault {
		add("cluster", s.Cluster)
	}
	if s.TaskDefinition != theDefault {
		add("task_definition", s.TaskDefinition)
	}
	if s.SharedService != "" {
		add("shared_service", s.SharedService)
	}
	add("subnets", s.Subnets)
	add("security_groups", []string{s.SecurityGroup})
	if s.PublicAddress {
		add("assign_public_ip", true)
	}
	if len(s.Targets) > 0 {
		var targets yaml.MapSlice
		for _, name := range slices.Sorted(maps.Keys(s.Targets)) {
			targets = append(targets, yaml.MapItem{Key: name, Value: s.Targets[name]})
		}
		add("targets", targets)
	}
	text, err := yaml.MarshalWithOptions(content, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write bastion.yaml: %w", err)
	}
	b.Write(text)
	return b.Bytes(), nil
}

// Write writes the configuration file to a path where there is none; otherwise the error is fs.ErrExist.
func (s Settings) Write(path string) error {
	text, err := s.File()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
