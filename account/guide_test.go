package account

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files that the model makes, in place of comparing them")

// The guide's files are what the model makes. To make them anew: go test ./account -run TestGuideFiles -update
func TestGuideFiles(t *testing.T) {
	files, err := GuideFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		path, want := filepath.Join("..", "bastion-image", path), files[path]
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the model makes (%v): go test ./account -run TestGuideFiles -update", path, err)
		}
	}
}

// The guide gives the template's parameters those that have no default, by their names.
func TestGuideGivesTheParameters(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("..", "bastion-image", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, command, found := strings.Cut(string(guide), "--parameter-overrides")
	command, _, _ = strings.Cut(command, "aws cloudformation")
	var given []string
	for _, m := range regexp.MustCompile(`\s([A-Z][A-Za-z0-9]+)=`).FindAllStringSubmatch(command, -1) {
		given = append(given, m[1])
	}
	var needed []string
	for _, p := range newStack(t, Inputs{Endpoints: Endpoints{Make: true}}).Parameters {
		if p.Default == "" {
			needed = append(needed, p.Name)
		}
	}
	slices.Sort(given)
	slices.Sort(needed)
	if !found || !slices.Equal(given, needed) {
		t.Errorf("the guide gives %q, the template needs %q", given, needed)
	}
}
