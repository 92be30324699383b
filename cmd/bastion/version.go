package main

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
)

// buildVersion is set by the linker (-X main.buildVersion=v1.2.3) for releases.
var buildVersion string

// versionInfo is what the command version prints with -o json.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readVersion() versionInfo {
	v := versionInfo{Version: buildVersion, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = cmp.Or(v.Version, info.Main.Version)
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	v.Version = cmp.Or(v.Version, "(devel)")
	return v
}

func (a *app) versionCommand() *cli.Command {
	return &cli.Command{
		Name:     "version",
		Summary:  "print the version",
		Group:    groupOther,
		About:    []cli.Passage{cli.Para("Prints the version, the Go version and the platform. --version, behind any command, does the same.")},
		Examples: []string{"bastion version", "bastion version -o json"},
		Settings: []string{config.GroupOutput},
		Run:      a.WithLocal(a.version),
	}
}

func (a *app) version(_ context.Context, s config.Settings, _ []string) error {
	v := readVersion()
	return a.Outcome(s, v, fmt.Sprintf("bastion %s (%s, %s)", v.Version, v.Go, v.Platform))
}
